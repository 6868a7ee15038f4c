"""Options of the command line, by group."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from onnxlr.hardware import memory_quota
from onnxlr.offers import GATES
from onnxlr.report.points import UNITS
from onnxlr.saving import EXTERNAL_DATA as EXTERNAL_DATA_CHOICES
from onnxlr.schemes import all_schemes
from onnxlr.selectors import RankSelector, all_selectors

__all__ = [
    "ALIGN",
    "CURVE",
    "EXTERNAL_DATA",
    "FILE",
    "FOLDER",
    "INPUT_SHAPES",
    "JSON",
    "JSON_REPORTS",
    "LAYERS",
    "MAPPING",
    "MEMORY",
    "MEMORY_LIMIT",
    "OUTPUT",
    "PORT_LAYOUTS",
    "REPORTS",
    "SCHEMES",
    "SELECTION",
    "SWEEP",
    "WORKERS",
    "Command",
    "grouped",
]

Command = TypeVar("Command", bound=Callable[..., Any])

MEMORY_LIMIT = "onnxlr.memory_limit"
"""Where the context of a command keeps the limit on its memory, in bytes."""

FILE = click.Path(path_type=Path)
"""Type of arguments and options that name a file."""


def _input_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Parse `name:1,3,224,224`."""
    match = re.fullmatch(r"(.+):([1-9]\d*(?:,[1-9]\d*)*)", text)
    if match is None:
        raise click.BadParameter(f"'{text}' is not like input:1,3,224,224")
    return match[1], tuple(map(int, match[2].split(",")))


def _memory_size(text: str) -> int:
    """Parse `2000000`, `500MB`, `4GiB` or `4g`: bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?)(b?))?", text, re.IGNORECASE)
    if match is None or float(match[1]) <= 0:
        raise click.BadParameter(f"'{text}' is not like 500MB, 4GiB or 4g")
    number, prefix, binary, unit = match.groups("")
    base = 1000 if unit and not binary else 1024
    return int(float(number) * base ** (" kmgt".index(prefix.lower()) if prefix else 0))


def _limit_memory(context: click.Context, _: click.Parameter, value: int | None) -> None:
    quota = memory_quota()
    context.meta[MEMORY_LIMIT] = value or (None if quota is None else quota * 9 // 10)


def _flag(selector: type[RankSelector]) -> dict[str, Any]:
    """What makes the option of a selector a flag: given, it is 1."""
    return {} if selector.takes_value else {"is_flag": True, "flag_value": 1.0, "default": None}


def _pair(text: str) -> tuple[str, str]:
    """Parse `a=b`."""
    first, separator, other = text.partition("=")
    if not (first and separator and other):
        raise click.BadParameter(f"'{text}' is not like input=x")
    return first, other


def _port_layout(text: str) -> tuple[str, str]:
    """Parse `name:NHWC`; the name may have colons."""
    name, separator, layout = text.rpartition(":")
    if not (name and separator and layout):
        raise click.BadParameter(f"'{text}' is not like input:NHWC")
    return name, layout.upper()


def grouped(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
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
MEMORY = click.option(
    "--memory-limit",
    type=_memory_size,
    metavar="SIZE",
    expose_value=False,
    callback=_limit_memory,
    help="Memory that may be in use, as 500MB, 4GiB or 4g: less is kept for later, and what goes over it is"
    " ended.  [default: nine tenths of what control groups leave, if they limit it]",
)

SCHEMES = grouped(
    click.option(
        "--scheme",
        "schemes",
        multiple=True,
        type=click.Choice(list(all_schemes())),
        help="Schemes that compete; repeatable.  [default: all]",
    ),
    INPUT_SHAPES,
    WORKERS,
    MEMORY,
)

_ALIGN = "Ranks are multiples of it, or full: the channel block of ONNX Runtime (16 with AVX-512)."

ALIGN = click.option("--align", default=8, type=click.IntRange(1), help=_ALIGN)

LAYERS = grouped(
    SCHEMES,
    click.option(
        "--align",
        type=click.IntRange(1),
        help=f"{_ALIGN}  [default: 8; where times are predicted, the block that is fast on the machine]",
    ),
    click.option("--include", metavar="REGEX", help="Only layers whose name it finds."),
    click.option("--exclude", metavar="REGEX", help="Leave alone layers whose name it finds."),
    click.option(
        "--gate",
        type=click.Choice(list(GATES)),
        help="Leave a layer alone whose chain is not predicted to be cheaper (macs) or faster (latency);"
        " none: replace all.  [default: latency with --target-latency, else macs]",
    ),
)

SELECTION = grouped(
    *(
        click.option(f"--{name}", type=float, help=selector.help, **_flag(selector))
        for name, selector in all_selectors().items()
    ),
    LAYERS,
)

SWEEP = grouped(
    click.option(
        "--points",
        default=10,
        type=click.IntRange(1),
        help="Number of budgets, evenly spaced from the whole model (left out) down to --lowest.",
    ),
    click.option(
        "--lowest",
        default=0.2,
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        help="The smallest budget, as a fraction of the model.",
    ),
    click.option(
        "--unit",
        default="macs",
        type=click.Choice(list(UNITS)),
        help="What budgets are fractions of.",
    ),
    LAYERS,
)

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, and nothing else there.")
FOLDER = click.option(
    "-o", "--output", required=True, type=FILE, metavar="DIR", help="Folder to write to; made if missing."
)
OUTPUT = click.option("-o", "--output", required=True, type=FILE, help="File to write.")
EXTERNAL_DATA = click.option(
    "--external-data",
    default="auto",
    type=click.Choice(EXTERNAL_DATA_CHOICES),
    help="Weights in a data file beside the output: always, never, or auto: as the input has them, and where"
    " the output is too large for one file (2 GB).",
)
MAPPING = click.option(
    "--map",
    "mapping",
    multiple=True,
    type=_pair,
    metavar="A=B",
    help="Input or output A of the first model is B in the others; repeatable.",
)
PORT_LAYOUTS = click.option(
    "--layout",
    "layouts",
    multiple=True,
    type=_port_layout,
    metavar="NAME:NHWC",
    help="Order of the axes of an input or output, where the graph does not tell; repeatable.",
)

CURVE = click.option(
    "--curve",
    type=FILE,
    metavar="DIR",
    help="Folder that `onnxlr sweep` wrote for MODEL: its curve goes into the report.",
)


def _reports(kinds: str) -> Callable[[Command], Command]:
    return click.option(
        "--report",
        "reports",
        multiple=True,
        type=FILE,
        metavar="FILE",
        help=f"Write the report to {kinds}; repeatable.",
    )


REPORTS = _reports("FILE.json or FILE.html")
JSON_REPORTS = _reports("FILE.json")
