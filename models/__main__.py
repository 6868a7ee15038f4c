"""python -m models NAME -o FILE.onnx [--seed 0]; python -m models --list"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import models
from models.files import write_whole

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Write one model. Exit status 2 for a usage error, 1 when the file cannot be written."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.list:
        print("\n".join(models.NAMES))
        return 0
    if arguments.name is None or arguments.output is None:
        parser.error("NAME and -o FILE are required (or --list)")
    try:
        write_whole(models.build(arguments.name, arguments.seed).SerializeToString(), arguments.output)
    except OSError as error:
        print(f"models: cannot write {arguments.output}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models", description="Build one model as an ONNX file.")
    parser.add_argument("name", metavar="NAME", nargs="?", choices=models.NAMES, help="see --list")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path)
    parser.add_argument("--seed", type=_seed, default=0, help="of the weights, 0 or more (default 0)")
    parser.add_argument("--list", action="store_true", help="print the names and exit")
    return parser


def _seed(text: str) -> int:
    seed = int(text)
    if seed < 0:
        raise ValueError("negative")
    return seed


if __name__ == "__main__":
    sys.exit(main())
