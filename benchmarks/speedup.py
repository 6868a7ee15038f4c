"""Speed-up of each scheme at half the MACs of every layer, original and result alternated in ONNX Runtime.

k×k Convs go by the scheme, 1×1 Convs and Gemms by the SVD pair. Each layer gets the largest aligned rank with
at most half its MACs; a layer without one is left alone. Batch 1.
`python -m benchmarks.speedup [--ratio 0.5] [--seconds 10] [--threads 1] [MODEL ...]`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click
import numpy as np
from onnx import ModelProto

import models
import onnxlr
from benchmarks.results import print_rows, write_results
from onnxlr.schemes import all_schemes
from onnxlr.selectors import Candidate, Choice, Judges, LayerOptions, ModelSize, Refusal


class UniformSelector:
    """Gives every layer the most accurate rank whose MACs are at most a fraction of the layer's.

    Args:
        value: the fraction, 0 < value < 1.
        scheme: the scheme to take where it accepts the layer.
    """

    name = "uniform-macs"
    help = "Fraction of every layer's MACs."
    takes_value = True
    judges: Judges = "weights"

    def __init__(self, value: float, scheme: str) -> None:
        self.value = value
        self._scheme = scheme

    def __call__(self, options: Sequence[LayerOptions], model: ModelSize) -> Mapping[str, Choice | Refusal]:  # noqa: ARG002 - no budget
        """See `onnxlr.selectors.RankSelector`."""
        return {layer.layer: self._select(self._preferred(layer)) for layer in options}

    def _preferred(self, options: LayerOptions) -> Candidate:
        return sorted(options.candidates, key=lambda candidate: candidate.scheme == self._scheme)[-1]

    def _select(self, candidate: Candidate) -> Choice | Refusal:
        allowed = candidate.macs <= self.value
        if not allowed.any():
            return Refusal(f"no aligned rank with at most {self.value:g} of the MACs")
        best = int(np.argmin(np.where(allowed, candidate.error, np.inf)))
        return Choice(candidate.layer, candidate.scheme, candidate.ranks[best])


def optimize_uniformly(
    model: ModelProto, ratio: float, scheme: str, align: int, checks: onnxlr.Checks | None
) -> onnxlr.Result:
    """Every layer at the same fraction of its MACs, by `scheme` or, where it is refused, the SVD pair."""
    return onnxlr.optimize(
        model,
        selector=UniformSelector(ratio, scheme),
        schemes=list(dict.fromkeys([scheme, "channel-out"])),
        gate="none",
        align=align,
        checks=checks,
    )


@click.command()
@click.option("--ratio", default=0.5, show_default=True, help="MACs to keep of every layer.")
@click.option("--seconds", default=10.0, show_default=True, help="Timing per row.")
@click.option("--threads", default=1, show_default=True, help="Threads of ONNX Runtime.")
@click.option("--align", default=8, show_default=True, help="Ranks are multiples of it.")
@click.argument("names", nargs=-1, type=click.Choice(models.NAMES))
def main(ratio: float, seconds: float, threads: int, align: int, names: tuple[str, ...]) -> None:
    """Measure, print a table, write the results file."""
    rows = []
    for name in names or ("vgg16", "resnet18", "resnet50"):
        model = models.build(name)
        for scheme in all_schemes():
            checks = onnxlr.Checks(device="cpu", threads=threads, latency_seconds=seconds)
            result = optimize_uniformly(model, ratio, scheme, align, checks)
            rows.append(_row(name, scheme, align, result))
            print_rows(rows[-1:])
    print_rows(rows)
    write_results("speedup" if align == 8 else f"speedup_align{align}", rows)


def _row(name: str, scheme: str, align: int, result: onnxlr.Result) -> dict[str, Any]:
    macs, latency = result.report.totals.macs, result.report.latency
    if macs.before is None or macs.after is None or latency is None:
        raise RuntimeError(f"{name}: sizes are unknown or nothing was timed")
    fewer = macs.before / macs.after
    return {
        "model": name,
        "scheme": scheme,
        "align": align,
        "layers": len(result.plan.layers),
        "fewer MACs": round(fewer, 3),
        "ms before": round(latency.before, 2),
        "ms after": round(latency.after, 2),
        "speed-up": round(latency.speedup, 3),
        "95 % interval": f"{latency.interval[0]:.3f} to {latency.interval[1]:.3f}",
        "noise floor": round(latency.noise_floor, 4),
        "efficiency": round(latency.speedup / fewer, 3),
    }


if __name__ == "__main__":
    main()
