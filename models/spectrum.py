"""How fast the singular values of an ONNX file's Conv and Gemm weights decay.

    python -m models.spectrum FILE.onnx [--each]

For every dense weight and every matrix it can be unfolded to, the fraction of the full rank that keeps
90 % and 95 % of the energy (the sum of squared singular values). Convs are grouped by kernel size; `--each`
prints the layers as well. Grouped and depthwise Convs and Convs of one output channel are left out.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from scipy import linalg

__all__ = ["LEVELS", "LayerSpectrum", "energies", "main", "measure", "rank_fraction", "unfoldings"]

Array = npt.NDArray[np.float32]

LEVELS = (0.90, 0.95)


@dataclass(frozen=True)
class LayerSpectrum:
    """Rank fractions of one weight: unfolding name -> one fraction in (0, 1] for each of `LEVELS`."""

    layer: str
    kind: str
    shape: tuple[int, ...]
    fractions: dict[str, tuple[float, ...]]


def unfoldings(weight: Array) -> dict[str, Array]:
    """Matrices of a weight: three of a spatial Conv (M, C, kH, kW), one of a 1x1 Conv or a Gemm.

    out      M x (C kH kW)       a factor with few output channels, then 1x1 (Zhang et al., arXiv:1411.4229)
    in       C x (M kH kW)       1x1, then a Conv with few input channels (Tucker-2's other mode)
    spatial  (C kH) x (M kW)     kH x 1, then 1 x kW (Jaderberg et al., arXiv:1405.3866)
    """
    if weight.ndim == 2:
        return {"matrix": weight}
    m, c, kh, kw = weight.shape
    if kh == kw == 1:
        return {"matrix": weight.reshape(m, c)}
    return {
        "out": weight.reshape(m, c * kh * kw),
        "in": weight.transpose(1, 0, 2, 3).reshape(c, m * kh * kw),
        "spatial": weight.transpose(1, 2, 0, 3).reshape(c * kh, m * kw),
    }


def energies(matrix: Array) -> npt.NDArray[np.float64]:
    """Squared singular values, descending, from the smaller Gram matrix; shape (min(rows, columns),).

    Squares the condition number, which no fraction of the energy above 1e-9 can notice.
    """
    wide = matrix.astype(np.float64)
    if wide.shape[0] > wide.shape[1]:
        wide = wide.T
    values = linalg.eigh(wide @ wide.T, eigvals_only=True, overwrite_a=True, check_finite=False)
    return np.clip(values[::-1], 0.0, None)


def rank_fraction(squared: npt.NDArray[np.float64], level: float) -> float:
    """The smallest rank that keeps `level` of the energy, divided by the full rank."""
    kept = np.cumsum(squared) / squared.sum()
    return (int(np.searchsorted(kept, level)) + 1) / len(squared)


def measure(model: onnx.ModelProto) -> list[LayerSpectrum]:
    """One entry for each dense Conv and Gemm whose weight is an initializer, in graph order."""
    return [_layer(name, kind, weight) for name, kind, weight in _dense_weights(model)]


def _layer(name: str, kind: str, weight: Array) -> LayerSpectrum:
    spectra = {key: energies(matrix) for key, matrix in unfoldings(weight).items()}
    fractions = {key: tuple(rank_fraction(s, level) for level in LEVELS) for key, s in spectra.items()}
    return LayerSpectrum(name, kind, weight.shape, fractions)


def _dense_weights(model: onnx.ModelProto) -> Iterator[tuple[str, str, Array]]:
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm") or node.input[1] not in tensors:
            continue
        weight = numpy_helper.to_array(tensors[node.input[1]])
        group = next((a.i for a in node.attribute if a.name == "group"), 1)
        if group == 1 and weight.ndim in (2, 4) and min(weight.shape[:2]) > 1 and weight.any():
            yield node.input[1], _kind(node.op_type, weight), weight.astype(np.float32, copy=False)


def _kind(op_type: str, weight: Array) -> str:
    return op_type if weight.ndim == 2 else f"{op_type} {weight.shape[2]}x{weight.shape[3]}"


def _summary(layers: Sequence[LayerSpectrum]) -> list[str]:
    """One line a (kind, unfolding): number of layers and the median fraction at each level."""
    groups: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    for layer in layers:
        for key, fractions in layer.fractions.items():
            groups.setdefault((layer.kind, key), []).append(fractions)
    lines = [f"{'kind':<10} {'unfolding':<9} {'layers':>6}  median fraction of full rank"]
    for (kind, key), rows in groups.items():
        medians = [median(column) for column in zip(*rows, strict=True)]
        lines.append(f"{kind:<10} {key:<9} {len(rows):>6}  {_levels(medians)}")
    return lines


def _levels(fractions: Sequence[float]) -> str:
    return "  ".join(f"{level:.0%}: {value:.3f}" for level, value in zip(LEVELS, fractions, strict=True))


def _details(layers: Sequence[LayerSpectrum]) -> list[str]:
    return [
        f"{layer.layer:<40} {layer.shape!s:<22} {key:<8} {_levels(fractions)}"
        for layer in layers
        for key, fractions in layer.fractions.items()
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the summary of one file; exit status 1 when it cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m models.spectrum", description=__doc__.split("\n")[0])
    parser.add_argument("file", metavar="FILE.onnx")
    parser.add_argument("--each", action="store_true", help="print every layer before the summary")
    arguments = parser.parse_args(argv)
    try:
        layers = measure(onnx.load(arguments.file))
    except Exception as error:
        print(f"models.spectrum: cannot read {arguments.file}: {error}", file=sys.stderr)
        return 1
    print("\n".join((_details(layers) if arguments.each else []) + _summary(layers)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
