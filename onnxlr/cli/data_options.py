"""Options of the command line that are about data and about running models, by group."""

from __future__ import annotations

import re
from collections.abc import Callable

import click

from onnxlr.cli.options import FILE, Command, grouped
from onnxlr.device_calibration import DTYPES
from onnxlr.images import LAYOUTS
from onnxlr.runtime import DEVICES, MOST_THREADS

__all__ = [
    "CALIBRATION",
    "CHECKS",
    "COMPARED",
    "COST_MODEL",
    "DATA",
    "DEVICE_CALIBRATION",
    "FORCE",
    "IMAGES",
    "LIMITS",
    "PIXELS",
    "RUN",
    "SLOWER",
    "SWEEP_CHECKS",
]


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


def _batches(text: str) -> tuple[int, ...]:
    """Parse `1,8,32`."""
    if re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text) is None:
        raise click.BadParameter(f"'{text}' is not like 1,8,32")
    return tuple(map(int, text.split(",")))


DATA = ".npz, .npy, folder of these or of images, test_data_set folder, or script.py:function (docs/data.md)."

PIXELS = grouped(
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
)

IMAGES = grouped(
    PIXELS,
    click.option(
        "--layout",
        default="auto",
        type=click.Choice(LAYOUTS),
        help="Of an image input; auto: by its axis of 3 channels or 1.",
    ),
)

CALIBRATION = grouped(
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

_AUTO = "auto: CUDA where it is really there, else the CPU."
_THREADS = click.option(
    "--threads",
    default=0,
    type=click.IntRange(0, MOST_THREADS),
    help="Threads of ONNX Runtime; 0: one a physical core.",
)

RUN = grouped(
    click.option(
        "--device",
        default="auto",
        type=click.Choice(DEVICES),
        help=f"{_AUTO} Calibration uses CUDA for tensorrt.",
    ),
    _THREADS,
    click.option(
        "--seed",
        default=0,
        type=click.IntRange(0),
        help="Seed of random inputs, of the positions that are looked at, and of timing order.",
    ),
)

COST_MODEL = click.option(
    "--cost-model",
    metavar="FILE",
    help="By which times are predicted for --target-latency and --gate latency, as calibrate-device wrote"
    " it, here or elsewhere.  [default: the one cached for this machine, else a documented one]",
)

DEVICE_CALIBRATION = grouped(
    click.option("--device", default="auto", type=click.Choice(DEVICES), help=_AUTO),
    _THREADS,
    click.option("--dtype", default="float32", type=click.Choice(DTYPES), help="Type of all numbers."),
    click.option(
        "--batch",
        "batches",
        default="1,8",
        type=_batches,
        metavar="SIZES",
        help="Batch sizes to time at.",
    ),
    click.option(
        "-o",
        "--cost-model",
        "output",
        type=FILE,
        help="File to write, to take to another place.  [default: the cache of this machine]",
    ),
)

SLOWER = grouped(
    click.option(
        "--keep-slower",
        is_flag=True,
        help="Keep replacements though the result is not measured to be faster.",
    ),
    click.option(
        "--verify-layers",
        is_flag=True,
        help="Time every replaced layer in place, from ONNX Runtime's profile (CPU).",
    ),
)

COMPARED = grouped(
    click.option(
        "--inputs",
        metavar="DATA",
        help=f"Data for the first model. {DATA}  [default: seeded random numbers]",
    ),
    click.option(
        "--tolerance",
        type=click.FloatRange(0),
        help="Relative L2 up to which outputs count as the same.  [default: 1e-4; with half precision 2e-2]",
    ),
    click.option(
        "--latency-seconds",
        default=5.0,
        type=click.FloatRange(0),
        help="Time to spend on timing with --optimize, in seconds; 0: none.",
    ),
)

_LIMIT = " Without a rank rule `optimize` searches the cheapest plan that keeps the limits."


def _limits(note: str = "") -> Callable[[Command], Command]:
    """Options of limits; `note` ends the help of each."""
    return grouped(
        click.option(
            "--max-rel-l2",
            type=click.FloatRange(0),
            help=f"Fail past this relative L2 error of an output (0.01: one hundredth of its norm).{note}",
        ),
        click.option(
            "--min-agreement",
            type=click.FloatRange(0, 1),
            help=f"Fail below this top-1 agreement, a fraction.{note}",
        ),
        click.option(
            "--max-drop",
            type=click.FloatRange(0, 1),
            help="Fail if top-1 accuracy drops by more than this fraction (0.01: one point in a hundred);"
            f" needs labels.{note}",
        ),
    )


FORCE = click.option("--force", is_flag=True, help="Write the model even if a check fails.")
LIMITS = grouped(_limits(), FORCE)


def _checks(seconds: float, each: str = "") -> Callable[[Command], Command]:
    """Options of checks; by default `seconds` are spent on timing."""
    return grouped(
        click.option(
            "--inputs",
            metavar="DATA",
            help=f"{DATA}  [default: the calibration data, else seeded random numbers]",
        ),
        click.option(
            "--labels", metavar="FILE", help=".npy file with the class of every sample of --inputs."
        ),
        _limits(_LIMIT),
        click.option(
            "--latency-seconds",
            default=seconds,
            type=click.FloatRange(0),
            help=f"Time to spend on paired timing{each}, in seconds; 0: none.",
        ),
        click.option(
            "--batch",
            "batches",
            default="1",
            type=_batches,
            metavar="SIZES",
            help="Batch sizes to time at, where the model leaves them open, as 1,8,32.",
        ),
        click.option("--prefer-nhwc", is_flag=True, help="Let CUDA compute Convs with channels last."),
    )


CHECKS = grouped(
    _checks(5.0),
    click.option(
        "--require-speedup",
        type=click.FloatRange(0, min_open=True),
        metavar="FACTOR",
        help="Fail if the median speed-up, at the first batch size, is below this; needs --latency-seconds.",
    ),
)
SWEEP_CHECKS = _checks(0.2, " at each point")
