"""The cases of `benchmarks.training --gpu`: low-rank training against `full`, all from scratch alike.

A row's `paper` says what the method's paper reports of that network. The papers train on all 50,000 images
of CIFAR-10, lossless; here they are 25,000 as JPEG, which lowers every accuracy: compare differences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.training_data import Row
from benchmarks.training_scratch import FromScratch

__all__ = ["CASES", "compare_with_full", "paper_lines"]

_DATA = "the paper trains on all 50,000 lossless images, ours are 25,000 JPEGs"

PAPERS: Mapping[tuple[str, str], str] = {
    ("nin", "tai"): f"Tai et al. 2016: low-rank NIN better than the full NIN on CIFAR-10; {_DATA}",
    (
        "resnet110",
        "adaptive-rank",
    ): f"Yu et al. 2021: ResNet-110 on CIFAR-10, -65 % params at -0.04 points; {_DATA}",
}
"""By network and method."""

CASES: Sequence[FromScratch] = (
    FromScratch("nin", "full", 1.0, epochs=60, learning_rate=0.1),
    FromScratch("nin", "tai", 0.4, epochs=60, learning_rate=0.1),
    *(
        FromScratch(network, method, kept, epochs=100, learning_rate=0.1)
        for network in ("resnet20", "resnet56", "resnet110")
        for method, kept in (("full", 1.0), ("adaptive-rank", 0.35), ("elrt", 0.35))
    ),
)


def compare_with_full(rows: Sequence[Row]) -> list[Row]:
    """The rows with `to full`, points of top-1 above `full` trained alike (empty without it), and `paper`."""
    full = {_training(row): row["top-1"] for row in rows if row["method"] == "full"}
    return [
        {
            **row,
            "to full": round(row["top-1"] - full[_training(row)], 2) if _training(row) in full else "",
            "paper": PAPERS.get((row["network"], row["method"]), ""),
        }
        for row in rows
    ]


def paper_lines(rows: Sequence[Row]) -> list[str]:
    """What the papers report, beside our rows."""
    return [
        f"{row['case']}: {row['top-1']} %, {_points(row['to full'])} full rank. {row['paper']}."
        for row in rows
        if row["paper"]
    ]


def _points(difference: float | str) -> str:
    return "not compared with" if isinstance(difference, str) else f"{difference:+.2f} points to"


def _training(row: Row) -> tuple[object, ...]:
    """Rows that can be compared have these in common."""
    return tuple(row[key] for key in ("network", "epochs", "images", "scale", "device"))
