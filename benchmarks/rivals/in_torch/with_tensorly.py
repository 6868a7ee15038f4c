"""tensorly-torch's factorized convolutions: one fraction of the parameters for all layers.

Of Tucker the spatial modes keep their full rank: a smaller one saves no MACs, as the core is multiplied out
to the whole kernel in each run. CP has its default of 100 iterations at most.

`python -m benchmarks.rivals.in_torch.with_tensorly REQUEST.json`
"""

from __future__ import annotations

import copy

from tltorch import FactorizedConv
from torch import nn

from benchmarks.rivals.in_torch.serving import Task, serve


def compress(task: Task, knob: float, is_draft: bool) -> nn.Module:
    """See `serving.Compress`; the knob is the fraction of the parameters."""
    method = task.request.method
    result = copy.deepcopy(task.network)
    for name, layer in task.layers.items():
        parent, _, child = name.rpartition(".")
        factorized = FactorizedConv.from_conv(
            layer,
            rank=knob,
            factorization=method,
            implementation="factorized",
            decompose_weights=not is_draft,
            fixed_rank_modes="spatial" if method == "tucker" else None,
        )
        setattr(result.get_submodule(parent), child, factorized)
    return result.eval()


if __name__ == "__main__":
    serve("tensorly-torch", compress)
