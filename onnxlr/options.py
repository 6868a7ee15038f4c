"""Options of the command line, by group, and what the API wants made of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

import onnxlr
from onnxlr.errors import UsageError
from onnxlr.planning import GATES
from onnxlr.runtime import DEVICES
from onnxlr.saving import EXTERNAL_DATA as EXTERNAL_DATA_CHOICES
from onnxlr.schemes import all_schemes
from onnxlr.selectors import RankSelector, all_selectors

__all__ = [
    "CHECKS",
    "EXTERNAL_DATA",
    "FILE",
    "INPUT_SHAPES",
    "JSON",
    "OUTPUT",
    "REPORTS",
    "SCHEMES",
    "SELECTION",
    "WORKERS",
    "pop_checks",
    "with_selector",
    "with_shapes",
]

Command = TypeVar("Command", bound=Callable[..., Any])

FILE = click.Path(path_type=Path)
"""Type of arguments and options that name a file."""


def _input_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Parse `name:1,3,224,224`."""
    match = re.fullmatch(r"(.+):([1-9]\d*(?:,[1-9]\d*)*)", text)
    if match is None:
        raise click.BadParameter(f"'{text}' is not like input:1,3,224,224")
    return match[1], tuple(map(int, match[2].split(",")))


def _options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, shown in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


INPUT_SHAPES = click.option(
    "--input-shape",
    "input_shapes",
    multiple=True,
    type=_input_shape,
    metavar="NAME:SIZES",
    help="Sizes of an input with symbolic dimensions; repeatable.",
)
WORKERS = click.option(
    "--workers", type=click.IntRange(1), help="Cores to factorize with.  [default: all available]"
)

SCHEMES = _options(
    click.option(
        "--scheme",
        "schemes",
        multiple=True,
        type=click.Choice(list(all_schemes())),
        help="Schemes that compete; repeatable.  [default: all]",
    ),
    click.option(
        "--align",
        default=8,
        type=click.IntRange(1),
        help="Ranks are multiples of it, or full: the channel block of ONNX Runtime (16 with AVX-512).",
    ),
    INPUT_SHAPES,
    WORKERS,
)

SELECTION = _options(
    *(
        click.option(f"--{name}", type=float, help=selector.help)
        for name, selector in all_selectors().items()
    ),
    SCHEMES,
    click.option("--include", metavar="REGEX", help="Only layers whose name it finds."),
    click.option("--exclude", metavar="REGEX", help="Leave alone layers whose name it finds."),
    click.option(
        "--gate",
        default="macs",
        type=click.Choice(list(GATES)),
        help="macs: leave a layer alone whose chain would not be cheaper; none: replace all.",
    ),
)

CHECKS = _options(
    click.option(
        "--inputs",
        metavar="DATA",
        help=".npz, .npy, folder of these, test_data_set folder, or script.py:function."
        "  [default: seeded random numbers]",
    ),
    click.option("--labels", metavar="FILE", help=".npy file with the class of every sample of --inputs."),
    click.option("--max-rel-l2", type=click.FloatRange(0), help="Fail past this relative L2 error."),
    click.option("--min-agreement", type=click.FloatRange(0, 1), help="Fail below this top-1 agreement."),
    click.option(
        "--device",
        default="auto",
        type=click.Choice(DEVICES),
        help="auto: CUDA where it is really there, else the CPU.",
    ),
    click.option(
        "--threads",
        default=0,
        type=click.IntRange(0),
        help="Threads of ONNX Runtime; 0: one a physical core.",
    ),
    click.option(
        "--latency-seconds",
        default=5.0,
        type=click.FloatRange(0),
        help="Time to spend on paired timing, in seconds; 0: none.",
    ),
    click.option(
        "--seed",
        default=0,
        type=click.IntRange(0),
        help="Seed of random inputs and timing order.",
    ),
)

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, and nothing else there.")
OUTPUT = click.option("-o", "--output", required=True, type=FILE, help="File to write.")
EXTERNAL_DATA = click.option(
    "--external-data",
    default="auto",
    type=click.Choice(EXTERNAL_DATA_CHOICES),
    help="Weights in a data file beside the output: always, never, or auto: as the input has them, and where"
    " the output is too large for one file (2 GB).",
)
REPORTS = click.option(
    "--report", "reports", multiple=True, type=FILE, metavar="FILE", help="Write the report to FILE.json."
)


def with_shapes(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with the input shapes as a mapping."""
    return {**options, "input_shapes": dict(options["input_shapes"])}


def with_selector(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with a selector object in place of the option of each selector."""
    rest = dict(options)
    given = {
        name: value for name in all_selectors() if (value := rest.pop(name.replace("-", "_"))) is not None
    }
    if len(given) > 1:
        raise UsageError(f"give one of {', '.join(f'--{name}' for name in given)}")
    selectors = [_make_selector(name, value) for name, value in given.items()]
    return {**rest, "selector": selectors[0] if selectors else None}


def _make_selector(name: str, value: float) -> RankSelector:
    try:
        return all_selectors()[name](value)
    except ValueError as error:
        raise UsageError(f"--{name}: {error}") from error


def pop_checks(options: dict[str, Any]) -> onnxlr.Checks:
    """Take the options of the checks out; the input shapes stay, both sides need them."""
    limits = onnxlr.Limits(options.pop("max_rel_l2"), options.pop("min_agreement"))
    names = ("inputs", "labels", "device", "threads", "latency_seconds", "seed")
    taken = {name: options.pop(name) for name in names}
    return onnxlr.Checks(limits=limits, input_shapes=options["input_shapes"], **taken)
