"""The blocks of docs/training.md run, in the order in which a reader meets them; see `tests.pages`."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra onnxlr[train]")

from tests.pages import run_page, stand


def test_blocks_run(tmp_path: Path) -> None:
    run_page("docs/training.md", stand(tmp_path / "here"))
