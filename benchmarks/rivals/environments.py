"""One virtual environment a rival, with every version pinned in `requirements/NAME.txt`."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

__all__ = ["DEFAULT_FOLDER", "python_of"]

DEFAULT_FOLDER = Path.home() / ".cache" / "onnxlr-benchmarks"

REQUIREMENTS = Path(__file__).parent / "requirements"


def python_of(name: str, folder: Path) -> Path:
    """The interpreter of a rival's environment, which is made if it is not there as its requirements say.

    torch comes first and alone: what needs it then finds the build that is there, and asks for no other. From
    the usual package index that is one with CUDA on Linux; set `PIP_EXTRA_INDEX_URL` for one without.

    Args:
        name: of the file of requirements.
        folder: where environments are kept.

    Raises:
        CalledProcessError: the environment cannot be made.
    """
    home, wanted = folder / name, REQUIREMENTS / f"{name}.txt"
    lines = wanted.read_text(encoding="utf-8")
    python, mark = home / "bin" / "python", home / "requirements.sha256"
    digest = hashlib.sha256(lines.encode()).hexdigest()
    if not mark.is_file() or mark.read_text(encoding="utf-8") != digest:
        print(f"making {home}", file=sys.stderr, flush=True)
        venv.create(home, clear=True, with_pip=True)
        torch = [line for line in lines.splitlines() if line.startswith("torch==")]
        for arguments in (torch, ["--no-deps", "-r", str(wanted)]):
            subprocess.run([python, "-m", "pip", "install", "-q", *arguments], check=True)  # noqa: S603 - our own
        mark.write_text(digest, encoding="utf-8")
    return python
