"""Separable filters, trained: after Tai et al. 2016 (arXiv 1511.06067).

Every k×k Conv is a k×1 Conv and a 1×k Conv, of rank r, with a BatchNormalization behind the second one and
nothing between them. The pair starts as the closed-form global optimum of rank r for the weight (Theorem 1
of the paper, which splits Σ evenly between the two): of the weight given, for fine-tuning; or of one drawn
at random, from scratch, so that the pair starts with the statistics of the layer that it replaces (known
as spectral initialization: Khodak et al., arXiv 2105.03764; the paper does not say how it draws its pairs).
The loss is that of the task alone: nothing is asked of the weights.
"""

from __future__ import annotations

from onnxlr.training.methods.base import Method

__all__ = ["method"]


class Tai(Method):
    """See the module."""

    name = "tai"
    schemes = ("spatial",)
    starts_from_scratch = True
    is_cut = False


method = Tai()
