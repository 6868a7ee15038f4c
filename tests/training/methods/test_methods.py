"""Methods are found by being there; the command line, which does not import torch, offers the same ones."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

torch = pytest.importorskip("torch", reason="needs the extra onnxlr[train]")

from onnxlr.cli import training_options
from onnxlr.schemes import all_schemes
from onnxlr.training import AUTOCAST, STARTS, all_methods
from onnxlr.training.methods import Method
from onnxlr.training.options import OPTIMIZERS

METHODS = list(all_methods().values())


def test_all_are_found() -> None:
    assert set(all_methods()) == {"tai", "adaptive-rank", "elrt", "full"}
    assert all(name == method.name for name, method in all_methods().items())


@pytest.mark.parametrize(
    ("choices", "known"),
    [
        ("_METHODS", all_methods()),
        ("_OPTIMIZERS", OPTIMIZERS),
        ("_AUTOCAST", AUTOCAST),
        ("_STARTS", STARTS),
    ],
)
def test_the_command_line_offers_what_there_is(choices: str, known: Iterable[str]) -> None:
    offered = getattr(training_options, choices)
    assert len(set(offered)) == len(offered)
    assert set(offered) == set(known)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_method_is_whole(method: Method) -> None:
    assert set(method.schemes) <= set(all_schemes())
    assert isinstance(method.starts_from_scratch, bool)
    assert not (method.is_cut and method.starts_from_scratch)  # what is cut at the end starts with weights
    assert method.schemes or not (method.is_cut or method.is_bound)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_without_layers_nothing_is_asked(method: Method) -> None:
    constraint = method.constrain([])
    assert constraint.loss() is None
    with torch.no_grad():
        for _ in range(30):
            constraint.after_step(0.5)
    assert constraint.violation is None
    assert constraint.is_met
    constraint.load_state(constraint.state())
    assert constraint.is_met
