"""Options of the command line, by group."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from onnxlr.images import LAYOUTS
from onnxlr.offers import GATES
from onnxlr.runtime import DEVICES
from onnxlr.saving import EXTERNAL_DATA as EXTERNAL_DATA_CHOICES
from onnxlr.schemes import all_schemes
from onnxlr.selectors import all_selectors

__all__ = [
    "CALIBRATION",
    "CHECKS",
    "EXTERNAL_DATA",
    "FILE",
    "IMAGES",
    "INPUT_SHAPES",
    "JSON",
    "OUTPUT",
    "REPORTS",
    "RUN",
    "SCHEMES",
    "SELECTION",
    "WORKERS",
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


def _image_size(text: str) -> tuple[int, int]:
    """Parse `224` or `224,320`: height and width."""
    match = re.fullmatch(r"([1-9]\d*)(?:,([1-9]\d*))?", text)
    if match is None:
        raise click.BadParameter(f"'{text}' is not like 224 or 224,320 (height,width)")
    return int(match[1]), int(match[2] or match[1])


def _numbers(text: str) -> tuple[float, ...]:
    """Parse `123.7,116.3,103.5`."""
    try:
        return tuple(map(float, text.split(",")))
    except ValueError as error:
        raise click.BadParameter(f"'{text}' is not like 123.7,116.3,103.5") from error


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
        click.option(
            f"--{name}",
            type=float,
            help=selector.help,
            default=None,
            is_flag=not selector.takes_value,
            flag_value=None if selector.takes_value else 1.0,
        )
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

DATA = ".npz, .npy, folder of these or of images, test_data_set folder, or script.py:function (docs/data.md)."

IMAGES = _options(
    click.option(
        "--image-size",
        type=_image_size,
        metavar="H[,W]",
        help="Height and width of images, in pixels.  [default: the model's]",
    ),
    click.option(
        "--mean",
        default="0",
        type=_numbers,
        metavar="NUMBERS",
        help="Subtracted from RGB values of 0 to 255; one, or one a channel.",
    ),
    click.option(
        "--std",
        default="1",
        type=_numbers,
        metavar="NUMBERS",
        help="What these are divided by then; one, or one a channel.",
    ),
    click.option(
        "--layout",
        default="auto",
        type=click.Choice(LAYOUTS),
        help="Of an image input; auto: by its axis of 3 channels or 1.",
    ),
)

CALIBRATION = _options(
    click.option(
        "--calibration",
        metavar="DATA",
        help=f"Inputs, without labels, to protect accuracy by; a few hundred. {DATA}",
    ),
    click.option(
        "--calibration-samples",
        default=1024,
        type=click.IntRange(1),
        help="Use at most so many, evenly spaced.",
    ),
    click.option(
        "--sensitivity/--no-sensitivity",
        default=True,
        help="Measure what errors of each layer do to the model's outputs.",
    ),
    click.option(
        "--refine",
        default=1,
        type=click.IntRange(0),
        help="Steps of alternating least squares where factors are not the optimum, at most.",
    ),
)

RUN = _options(
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
        "--seed",
        default=0,
        type=click.IntRange(0),
        help="Seed of random inputs, of the positions that are looked at, and of timing order.",
    ),
)

CHECKS = _options(
    click.option(
        "--inputs",
        metavar="DATA",
        help=f"{DATA}  [default: the calibration data, else seeded random numbers]",
    ),
    click.option("--labels", metavar="FILE", help=".npy file with the class of every sample of --inputs."),
    click.option("--max-rel-l2", type=click.FloatRange(0), help="Fail past this relative L2 error."),
    click.option("--min-agreement", type=click.FloatRange(0, 1), help="Fail below this top-1 agreement."),
    click.option(
        "--latency-seconds",
        default=5.0,
        type=click.FloatRange(0),
        help="Time to spend on paired timing, in seconds; 0: none.",
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
