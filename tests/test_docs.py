"""Every code block of the documentation runs, in the order in which a reader meets it; see `tests.pages`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from onnxlr.parallel import available_cores
from tests.blocks import ROOT
from tests.pages import check_printed, known_kinds, quick, run_page, stand

PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))
OTHERS = ["models/README.md", "benchmarks/README.md", "CHANGELOG.md"]
ELSEWHERE = {
    "docs/interoperability.md": "tests/interoperability/page.py",  # needs packages of its own
    "docs/quantization.md": "tests/test_recipes.py",  # with all of the data, for its figures
    "docs/training.md": "tests/training/test_docs.py",  # needs torch
}
IN_A_CHECKOUT = ("docs/extending.md",)


@pytest.fixture(scope="module")
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Future[None]]]:
    """The pages that were asked for, each in a folder of its own; as many at a time as there are cores."""
    stage = stand(tmp_path_factory.mktemp("docs") / "stage")
    here = [item for item in request.session.items if item.path == request.path]
    asked = [item for item in here if item.name.startswith("test_blocks_run[")]
    with ThreadPoolExecutor(available_cores()) as pool:
        found = {}
        for path in (item.callspec.params["path"] for item in asked):
            folder = shutil.copytree(stage, stage.parent / path.replace("/", "-"))
            if path in IN_A_CHECKOUT:
                copy_checkout(folder)
            found[path] = pool.submit(run_page, path, folder)
        yield found
        pool.shutdown(cancel_futures=True)


def copy_checkout(folder: Path) -> None:
    """What a checkout has, as far as its own tests of schemes need it."""
    for name in ("onnxlr", "passes", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)


@pytest.mark.parametrize("path", [*PAGES, *OTHERS])
def test_there_is_a_rule_for_every_block(path: str) -> None:
    assert [kind for kind, is_known in known_kinds(path) if not is_known] == []


@pytest.mark.parametrize("path", [path for path in [*PAGES, *OTHERS] if path not in ELSEWHERE])
def test_blocks_run(path: str, running: Mapping[str, Future[None]]) -> None:
    running[path].result()


@pytest.mark.parametrize("path", ELSEWHERE)
def test_other_pages_run_elsewhere(path: str) -> None:
    assert path in PAGES
    assert path in (ROOT / ELSEWHERE[path]).read_text()


@pytest.mark.parametrize(
    ("shown", "is_right"),
    [
        ("a  1.00 b", True),
        ("a 1.04 b\n…\nlast", True),
        ("a 1.2 b", False),
        ("last\na 1.0 b", False),
        ("not printed", False),
        ("a 1.0% b", False),
    ],
)
def test_what_is_shown_has_to_be_printed(shown: str, is_right: bool) -> None:
    if is_right:
        check_printed(shown, "a 1.0 b\nbetween\nlast\n")
    else:
        with pytest.raises(AssertionError, match="not printed"):
            check_printed(shown, "a 1.0 b\nbetween\nlast\n")


def test_calibration_runs_where_samples_are_counted() -> None:
    kept = "onnxlr plan a --calibration calibration.npz --calibration-samples 9"
    assert quick(kept) == kept
    assert quick("onnxlr plan a --calibration calibration.npz -o b") == "onnxlr plan a -o b"
