"""What a tool is asked for and what it answers: JSON files, as each tool runs in an environment of its own.

Both sides import this module, so it needs nothing but Python.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Answer", "Outcome", "Request"]


@dataclass(frozen=True, slots=True)
class Request:
    """One network to compress by one method, to several targets.

    Attributes:
        network: resnet20, resnet56, resnet18 or vgg16.
        model: ONNX file with its weights; names of initializers are those of the torch module.
        method: one of the tool's.
        targets: each a fraction of the Conv MACs to keep; with `is_knob`, what the tool's own knob is set to.
        folder: where results and anything else are written.
        is_knob: see `targets`.
        threads: for BLAS and the rest, 0 for the tool's default.
        probe: `.npz` file, `input` and what the model computes of it as `expected`.
        calibration: `.npz` file with `input`, without labels; empty for none.
        labelled: `.npz` file with `input` and `labels`; empty for none.
        plan: file of an onnxlr plan; empty for none.
    """

    network: str
    model: str
    method: str
    targets: tuple[float, ...]
    folder: str
    is_knob: bool = False
    threads: int = 1
    probe: str = ""
    calibration: str = ""
    labelled: str = ""
    plan: str = ""

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Request:
        """The inverse of `write`."""
        fields = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**fields, "targets": tuple(fields["targets"])})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one target.

    Attributes:
        target: as in the request.
        file: the compressed network, ONNX; empty after a failure.
        knob: what the tool's own knob was set to; None where it takes the target itself.
        kept: fraction of the Conv MACs as counted in the tool's process, if it was.
        seconds: wall time of the compression alone: neither start-up nor search for the knob nor export.
        cpu_seconds: of the same, user and system time of all threads.
        ranks: by layer.
        failure: what went wrong; empty for nothing.
    """

    target: float
    file: str = ""
    knob: float | None = None
    kept: float | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None
    ranks: Mapping[str, list[int]] = field(default_factory=dict)
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a tool answered.

    Attributes:
        version: of the tool.
        outcomes: one a target, in their order.
        process_seconds: of the whole process, from its start to its end; the asking side fills it in.
        process_cpu: CPU seconds of it.
    """

    version: str
    outcomes: tuple[Outcome, ...]
    process_seconds: float = 0.0
    process_cpu: float = 0.0

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Answer:
        """The inverse of `write`."""
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**fields, "outcomes": tuple(Outcome(**entry) for entry in fields["outcomes"])})
