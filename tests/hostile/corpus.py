"""All cases."""

from tests.hostile.data import DATA
from tests.hostile.models import MODELS
from tests.hostile.options import OPTIONS
from tests.hostile.paths import PATHS
from tests.hostile.plans import PLANS

__all__ = ["CASES"]

CASES = [*MODELS, *PLANS, *DATA, *PATHS, *OPTIONS]
