"""python -m models.exports --network trap -o FOLDER [--exporter NAME ...] [--venvs FOLDER]"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from models.exports.checking import check
from models.exports.checkpoint import Checkpoint
from models.exports.environments import ENVIRONMENTS, EXPORTERS, Environment, ProgramError
from models.exports.networks import NETWORKS
from models.exports.weights import make_checkpoint

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Export with every exporter asked for, and print a line for each.

    Only files that compute what the checkpoint says are kept. Exit status 1 when an exporter does not
    install, does not run, or writes another function; the others are still tried.
    """
    arguments = _parser().parse_args(argv)
    arguments.output.mkdir(parents=True, exist_ok=True)
    checkpoint = make_checkpoint(arguments.network)
    passed = True
    for environment in ENVIRONMENTS:
        exporters = [name for name in environment.exporters if name in arguments.exporters]
        if exporters:
            passed &= _export(environment, exporters, checkpoint, arguments)
    return 0 if passed else 1


def _export(
    environment: Environment, exporters: Sequence[str], checkpoint: Checkpoint, arguments: argparse.Namespace
) -> bool:
    """Whether all exporters of one environment wrote what they should."""
    venvs = arguments.venvs.absolute()  # the programs run in another folder
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = folder / "checkpoint.npz"
        checkpoint.write(weights)
        try:
            environment.make(venvs)
            environment.export(venvs, weights, arguments.network, folder, exporters)
        except ProgramError as error:
            print(f"models.exports: {error}", file=sys.stderr)
        versions = " ".join(environment.requirements)
        kept = [_keep(folder / f"{name}.onnx", checkpoint, versions, arguments.output) for name in exporters]
    return all(kept)


def _keep(path: Path, checkpoint: Checkpoint, versions: str, output: Path) -> bool:
    """Check a file, say so, and copy it to `output` if it is right."""
    outcome = check(path, checkpoint)
    print(f"{path.stem}: {'' if outcome.passed else 'FAILED: '}{outcome.text} ({versions})", flush=True)
    if outcome.passed:
        shutil.copyfile(path, output / path.name)
    return outcome.passed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m models.exports",
        description="Export one network with the same weights from several frameworks.",
    )
    parser.add_argument("--network", choices=NETWORKS, required=True)
    parser.add_argument(
        "--exporter",
        dest="exporters",
        metavar="NAME",
        nargs="+",
        choices=EXPORTERS,
        default=EXPORTERS,
        help=f"of {', '.join(EXPORTERS)} (default: all)",
    )
    parser.add_argument("-o", "--output", metavar="FOLDER", type=Path, required=True)
    parser.add_argument(
        "--venvs",
        metavar="FOLDER",
        type=Path,
        default=Path(tempfile.gettempdir(), "models-exports"),
        help="of the environments, about 1 to 1.6 GB each; made where missing (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
