"""One network from several exporters: the same layers, ranks, sizes and times after `optimize`?

`python -m benchmarks.exports [FOLDER ...] [--energy 0.9] [--seconds 10] [--threads 1]`: every folder has
exports of one network (by default those that come with the repository; `python -m models.exports` makes
others). All are held against the alphabetically first, and timed in one run. What differs is printed; it
fails if they are not the same function, or do not get the same layers, schemes and ranks. Results go to
`results/exports.json`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

import onnxlr
from benchmarks.results import print_rows, write_results
from onnxlr.comparing.timing import Ratio

_SHIPPED = Path(__file__).parent.parent / "models" / "exports" / "trap"


@click.command()
@click.option("--energy", default=0.9, show_default=True)
@click.option("--seconds", default=10.0, show_default=True, help="Timing of each network.")
@click.option("--threads", default=1, show_default=True)
@click.argument("folders", nargs=-1, type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(folders: Sequence[Path], energy: float, seconds: float, threads: int) -> None:
    """Measure, print a table, write the results file; exit with 1 where exports differ."""
    rows, differences, alike = [], [], True
    options = onnxlr.CompareOptions(device="cpu", threads=threads, latency_seconds=seconds)
    for folder in folders or [_SHIPPED]:
        found = onnxlr.compare(sorted(folder.glob("*.onnx")), options, optimized={"energy": energy})
        optimized = found.optimized or ()
        rows += list(_rows(folder.name, found))
        differences += [
            f"{folder.name}, {item.name}: {line}" for item in optimized for line in item.differences
        ]
        alike &= found.same and all(item.same_as_first for item in optimized)
    print_rows(rows)
    write_results("exports", rows)
    print("\n".join(differences))
    sys.exit(not alike)


def _rows(network: str, found: onnxlr.Comparison) -> Iterator[dict[str, Any]]:
    """A row an export."""
    nodes = next(trait.values for trait in found.traits if trait.name == "nodes")
    errors = [0.0, *(pair.outputs[0].rel_l2 for pair in found.pairs if pair.first == found.models[0])]
    for item, count, error in zip(found.optimized or (), nodes, errors, strict=True):
        latency = item.latency
        if latency is None:
            raise RuntimeError("nothing was timed")
        yield {
            "network": network,
            "export": item.name.removesuffix(".onnx"),
            "rel. L2": f"{error:.1e}",
            "nodes": count,
            "factorized": len(item.layers),
            "as the first": "yes" if item.same_as_first else "NO",
            "params": item.totals.params.after,
            "MACs": item.totals.macs.after,
            "ms before": f"{latency.before:.3f}",
            "ms after": f"{latency.after:.3f}",
            "before by the first": f"{latency.before_ratio.median:.2f}",
            "after by the first": _shown(latency.after_ratio),
            "noise": f"{latency.noise_floor:.1%}",
        }


def _shown(ratio: Ratio) -> str:
    return f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


if __name__ == "__main__":
    main()
