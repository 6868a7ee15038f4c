"""Options of the command line that are about training."""

from __future__ import annotations

import re

import click

from onnxlr.cli.data_options import DATA
from onnxlr.cli.options import FILE, grouped

__all__ = ["CHAINED", "DISTILLATION", "METHOD", "TRAINING", "UNFOLDED"]

_UNITS = {"s": 1, "m": 60, "h": 3600}
_OPTIMIZERS = ("adamw", "sgd")
_AUTOCAST = ("float16", "bfloat16")
_METHODS = ("tai", "adaptive-rank", "elrt", "full")
_STARTS = ("scratch", "weights")


def _duration(text: str) -> float:
    """Parse `90`, `90s`, `10m` or `1.5h`: seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if match is None or float(match[1]) <= 0:
        raise click.BadParameter(f"'{text}' is not like 90s, 10m or 1.5h")
    return float(match[1]) * _UNITS[match[2] or "s"]


TRAINING = grouped(
    click.option("--data", required=True, metavar="DATA", help=f"What to train on. {DATA}"),
    click.option("--labels", metavar="FILE", help=".npy file with the class of every sample of --data."),
    click.option(
        "--samples", type=click.IntRange(1), help="Use at most so many, evenly spaced.  [default: all]"
    ),
    click.option(
        "--epochs",
        type=click.IntRange(1),
        help="Passes over the data.  [default: as many as --time-budget allows; 30 without it]",
    ),
    click.option(
        "--time-budget",
        type=_duration,
        metavar="TIME",
        help="Time to train for, as 90s, 10m or 1.5h.  [default: as long as the epochs take]",
    ),
    click.option("--optimizer", default="adamw", type=click.Choice(_OPTIMIZERS), help="Of the weights."),
    click.option(
        "--learning-rate",
        type=click.FloatRange(0, min_open=True),
        help="At the start; it falls to 0 as half a cosine.  [default: 1e-3 for adamw, 0.01 for sgd]",
    ),
    click.option(
        "--weight-decay", default=1e-4, type=click.FloatRange(0), help="Of weights, not of vectors."
    ),
    click.option("--batch-size", default=64, type=click.IntRange(1), help="Samples a step."),
    click.option("--flip", is_flag=True, help="Mirror every second image."),
    click.option(
        "--crop", default=0, type=click.IntRange(0), help="Shift images by up to so many pixels; 0: not."
    ),
    click.option(
        "--held-out",
        default=0.1,
        type=click.FloatRange(0, 1, max_open=True),
        help="Fraction of the data to choose the best state by; 0: the last state is the result.",
    ),
    click.option(
        "--patience",
        type=click.IntRange(1),
        help="Stop after so many epochs without improvement.  [default: never]",
    ),
    click.option(
        "--autocast",
        type=click.Choice(_AUTOCAST),
        help="Type of arithmetic on a GPU.  [default: single precision]",
    ),
    click.option(
        "--checkpoint",
        type=FILE,
        metavar="FILE",
        help="State to go on from after an interruption.  [default: the output's name with .checkpoint]",
    ),
)

DISTILLATION = grouped(
    click.option(
        "--teacher",
        type=FILE,
        metavar="MODEL",
        help="What MODEL shall be like, such as its original.  [default: labels alone]",
    ),
    click.option(
        "--features",
        default=1.0,
        type=click.FloatRange(0),
        help="Weight of values behind replaced layers, by that of the outputs.",
    ),
    click.option(
        "--label-weight", default=1.0, type=click.FloatRange(0), help="Weight of labels, where given."
    ),
    click.option(
        "--inputs",
        metavar="DATA",
        help=f"What the result is checked on. {DATA}  [default: what it is trained on]",
    ),
    click.option(
        "--input-labels", metavar="FILE", help=".npy file with the class of every sample of --inputs."
    ),
    click.option(
        "--latency-seconds",
        default=5.0,
        type=click.FloatRange(0),
        help="Time to spend on paired timing against the original, in seconds; 0: none.",
    ),
)

UNFOLDED = click.option(
    "--unfold-bn",
    is_flag=True,
    help="Train with a BatchNormalization behind every Conv; it is folded in again at the end.",
)

METHOD = grouped(
    click.option("--method", required=True, type=click.Choice(_METHODS), help="How; see docs/training.md."),
    click.option(
        "--start",
        type=click.Choice(_STARTS),
        help="Weights to start with: drawn anew, or those of MODEL.  [default: weights for adaptive-rank,"
        " else scratch]",
    ),
    click.option(
        "--plan",
        type=FILE,
        metavar="FILE",
        help="Schemes and ranks, from `onnxlr plan`.  [default: chosen as by `onnxlr plan`, of the method's"
        " schemes]",
    ),
)

CHAINED = grouped(
    click.option(
        "--finetune",
        type=_duration,
        metavar="TIME",
        help="Train the result towards the original for so long, as 10m, before it is checked; needs the"
        " extra `train`. `onnxlr finetune` has more options.",
    ),
    click.option(
        "--finetune-data",
        metavar="DATA",
        help=f"What to train on, without labels. {DATA}  [default: the calibration data]",
    ),
)
