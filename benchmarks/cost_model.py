"""The cost model on networks that it was not fitted to: error of times, and what wrong choices cost.

The cost model is fitted to its micro-benchmarks, as `onnxlr calibrate-device` does. Then every layer of the
networks is timed, and for each scheme the chain with the most MACs that has at most half those of the layer
(aligned to the block that was learned). Of a layer and its chains the one that is predicted to be the fastest
is chosen; regret is what the chosen ones take beyond the fastest ones, over all layers. A model that counts
MACs alone (one speed for all) is put beside it. Batch 1.
`python -m benchmarks.cost_model [--seconds 0.05] [MODEL ...]`
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

import models
import onnxlr
from benchmarks.results import print_rows, write_results
from onnxlr.analysis import analyse
from onnxlr.conv import ConvSpec, Spatial, chain_macs
from onnxlr.cost_model import CostModel
from onnxlr.layer import Layer
from onnxlr.micro_benchmarks import MicroBenchmark, run_micro_benchmarks
from onnxlr.offers import aligned_ranks
from onnxlr.parallel import no_progress
from onnxlr.runtime import find_device
from onnxlr.schemes import all_schemes

_RATIO = 0.5
_MODELS = ("vgg16", "resnet18", "resnet50", "mobilenet_v2")

Option = Sequence[tuple[ConvSpec, Spatial]]
"""The Convs of a layer, or of a chain in its place, with the sizes of their inputs."""


@click.command()
@click.option("--seconds", default=0.05, show_default=True, help="Timing for each Conv, thrice.")
@click.argument("names", nargs=-1, type=click.Choice(models.NAMES))
def main(seconds: float, names: tuple[str, ...]) -> None:
    """Measure, print a table, write the results file."""
    rows = []
    for threads in (1, 2):
        model = onnxlr.calibrate_device("cpu", threads)
        for name in names or _MODELS:
            rows.append(_measure(name, model, threads, seconds))
            print_rows(rows[-1:])
    print_rows(rows)
    write_results("cost_model", rows)


def _measure(name: str, model: CostModel, threads: int, seconds: float) -> dict[str, Any]:
    found = analyse(models.build(name), {}, "")
    layers = {(item.conv, item.spatial): item for item in found if isinstance(item, Layer)}
    choices = [_options(layer, model.block) for layer in layers.values()]
    convs = list(dict.fromkeys(conv for options in choices for option in options for conv in option))
    timed = _time(convs, threads, seconds)
    by_time = [[sum(model.seconds(*conv, 1) for conv in option) for option in options] for options in choices]
    by_macs = [[sum(conv.macs(at) for conv, at in option) for option in options] for options in choices]
    taken = [[sum(timed[conv] for conv in option) for option in options] for options in choices]
    predicted = np.array([model.seconds(*conv, 1) for conv in convs])
    seen = np.array([timed[conv] for conv in convs])
    macs = np.array([conv.macs(at) for conv, at in convs], float)
    speed = float(np.median(seen / macs))
    return {
        "model": name,
        "threads": threads,
        "block": model.block,
        "held-out error": f"{model.error:.1%}",
        "Convs": len(convs),
        "error": f"{np.median(np.abs(predicted / seen - 1)):.1%}",
        "error by MACs": f"{np.median(np.abs(speed * macs / seen - 1)):.1%}",
        "layers": len(choices),
        "regret": f"{_regret(by_time, taken):.1%}",
        "regret by MACs": f"{_regret(by_macs, taken):.1%}",
    }


def _options(layer: Layer, align: int) -> list[Option]:
    """The layer, and what each scheme offers for it."""
    assert layer.spatial is not None, layer.name  # noqa: S101 - sizes of the builders are known
    found: list[Option] = [[(layer.conv, layer.spatial)]]
    budget = _RATIO * layer.conv.macs(layer.spatial)
    for scheme in all_schemes().values():
        if scheme.refuses(layer.conv) is None:
            ranks = aligned_ranks(scheme.max_rank(layer.conv), align)
            chains = [scheme.chain(layer.conv, rank) for rank in ranks]
            costs: NDArray[np.float64] = np.array([chain_macs(chain, layer.spatial) for chain in chains])
            if costs.min() <= budget:
                largest = int(np.argmax(np.where(costs <= budget, costs, 0)))
                found.append(_placed(chains[largest], layer.spatial))
    return found


def _placed(chain: Sequence[ConvSpec], spatial: Spatial) -> Option:
    placed = []
    for link in chain:
        placed.append((link, spatial))
        spatial = link.output_spatial(spatial)
    return placed


def _time(
    convs: Sequence[tuple[ConvSpec, Spatial]], threads: int, seconds: float
) -> dict[tuple[ConvSpec, Spatial], float]:
    benchmarks = [MicroBenchmark(*conv) for conv in convs]
    device = find_device("cpu")
    timed = run_micro_benchmarks(benchmarks, device, threads, (1,), np.float32, no_progress, seconds)
    return {(entry.conv, entry.spatial): entry.seconds for entry in timed}


def _regret(predicted: Sequence[Sequence[float]], taken: Sequence[Sequence[float]]) -> float:
    """Time of what is predicted to be the fastest, by that of the fastest, minus 1."""
    chosen = sum(times[int(np.argmin(guess))] for guess, times in zip(predicted, taken, strict=True))
    return chosen / sum(map(min, taken)) - 1


if __name__ == "__main__":
    main()
