"""Train the digits network on the CPU (a few minutes on two cores; needs torch and scikit-learn).

python -m models.digits.train -o models/digits/digits.onnx [--seed 0]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from models.digits import data
from models.digits.export import export
from models.files import write_whole

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Train, print a line an epoch and the test accuracy, write the model; exit status 1 on a failure."""
    parser = argparse.ArgumentParser(prog="python -m models.digits.train", description=__doc__.split("\n")[0])
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and shifts (default 0)")
    arguments = parser.parse_args(argv)
    if not arguments.output.parent.is_dir():  # better now than after minutes of training
        parser.error(f"no such folder: {arguments.output.parent}")
    try:
        train(arguments.output, arguments.seed)
    except (ModuleNotFoundError, OSError, ValueError) as error:
        print(f"models.digits.train: {error}", file=sys.stderr)
        return 1
    return 0


def train(path: Path, seed: int) -> None:
    """Train with one seed and write the last epoch's network; nothing is selected on the test split."""
    from models.digits import network  # noqa: PLC0415 (torch is needed here only)

    train_split, test_split = data.load()
    model = network.fit(train_split, seed, _print_epoch)
    print(f"test accuracy {network.accuracy(model, test_split):.4f} ({len(test_split.labels)} images)")
    write_whole(export(network.parameters(model)).SerializeToString(), path)


def _print_epoch(epoch: int, epochs: int, loss: float) -> None:
    print(f"epoch {epoch:2d}/{epochs}  loss {loss:.4f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
