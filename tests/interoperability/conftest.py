"""The folder of the page's reader; no tool reports what it does, or looks for anything outside."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.blocks import prepare
from tests.interoperability.page import Ran, run_section


@pytest.fixture(scope="session", autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OLIVE_DISABLE_TELEMETRY", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("huggingface")))
        yield


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page takes for granted."""
    return prepare(tmp_path_factory.mktemp("stage"))


@pytest.fixture(scope="module")
def ran(request: pytest.FixtureRequest, stage: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The module's SECTION of the page, followed."""
    folder = shutil.copytree(stage, tmp_path_factory.mktemp("page") / "here")
    return run_section(request.module.SECTION, folder)
