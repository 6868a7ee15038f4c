"""`tucker2`: a 1×1 Conv to r1 channels, the k×k core to r2 channels, a 1×1 Conv to the M output channels.

Truncated HOSVD over the two channel modes (Kim et al., arXiv 1511.06530; the format that ELRT trains). It is
*not* the optimum at its ranks, which has no closed form, but a bounded approximation of it: its ‖W − Ŵ‖² is
at most the sum of the σ² discarded in either mode, hence at most twice the optimum's (De Lathauwer et al.
2000). `residuals` is the exact error of this approximation at every (r1, r2), not the bound.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxlr.conv import ConvSpec
from onnxlr.lapack import TridiagonalForm
from onnxlr.linalg import tail_sums
from onnxlr.schemes.base import Factors, Rank, Weight, refuse_groups

__all__ = ["Tucker2", "scheme"]

Float = NDArray[np.float64]


class Tucker2:
    """See the module."""

    name = "tucker2"

    def efficiency(self, conv: ConvSpec) -> float:
        return 0.96

    def refuses(self, conv: ConvSpec) -> str | None:
        if conv.is_pointwise:
            return "pointwise: the core would be a third matrix beside the plain SVD pair"
        return refuse_groups(conv)

    def max_rank(self, conv: ConvSpec) -> Rank:
        window = conv.params // (conv.out_channels * conv.in_channels)
        return (
            min(conv.in_channels, conv.out_channels * window),
            min(conv.out_channels, conv.in_channels * window),
        )

    def chain(self, conv: ConvSpec, rank: Rank) -> tuple[ConvSpec, ...]:
        r1, r2 = rank
        return (
            conv.pointwise(r1, conv.in_channels),
            conv.with_channels(r2, r1),
            conv.pointwise(conv.out_channels, r2),
        )

    def decompose(self, conv: ConvSpec, weight: Weight) -> _Decomposition:
        return _Decomposition(self.max_rank(conv), weight)


class _Decomposition:
    """Both channel bases at full rank, `(M, R2)` and `(C, R1)`; the core tells every truncation's error."""

    def __init__(self, max_rank: Rank, weight: Weight) -> None:
        r1, r2 = max_rank
        self._out_basis = _leading_basis(weight, 0, r2)
        self._in_basis = _leading_basis(weight, 1, r1)
        core = _core(weight, self._out_basis, self._in_basis)
        self.residuals = _truncation_residuals(np.square(core).sum(axis=2).T)

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return self._out_basis.nbytes + self._in_basis.nbytes + self.residuals.nbytes

    def factors(self, weight: Weight, rank: Rank) -> Factors:
        r1, r2 = rank
        out_basis, in_basis = self._out_basis[:, :r2], self._in_basis[:, :r1]
        core = _core(weight, out_basis, in_basis).reshape(r2, r1, *weight.shape[2:])
        ones = (1,) * (weight.ndim - 2)
        return in_basis.T.reshape(r1, -1, *ones), core, out_basis.reshape(-1, r2, *ones)


def _leading_basis(weight: Weight, mode: int, count: int) -> Float:
    """Orthonormal basis `(size of the mode, count)` of the mode's unfolding, largest σ first."""
    unfolding = np.moveaxis(weight, mode, 0).reshape(weight.shape[mode], -1).astype(np.float64)
    return TridiagonalForm(unfolding @ unfolding.T).leading_vectors(count)


def _core(weight: Weight, out_basis: Float, in_basis: Float) -> Float:
    """W ×_M Uᵀ ×_C Vᵀ, `(r2, r1, kH·kW)`."""
    out_channels, in_channels = weight.shape[:2]
    by_out = out_basis.T @ weight.reshape(out_channels, -1)  # r2 × (C kH kW)
    return in_basis.T @ by_out.reshape(len(by_out), in_channels, -1)


def _truncation_residuals(energy: Float) -> Float:
    """Σ of energy[i, j] over i ≥ r1 or j ≥ r2, for every (r1, r2): sums of positive terms only."""
    discarded_rows = tail_sums(energy.sum(axis=1))  # i >= r1, any j
    kept_rows = np.vstack([np.zeros((1, energy.shape[1])), np.cumsum(energy, axis=0)])  # i < r1
    return discarded_rows[:, None] + tail_sums(kept_rows)  # ... and j >= r2


scheme = Tucker2()
