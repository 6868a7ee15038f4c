"""Every section of the page has a module that follows it."""

from __future__ import annotations

import re
from pathlib import Path

from tests.interoperability.page import read_sections


def test_every_section_is_followed() -> None:
    texts = [path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.rglob("test_*.py"))]
    followed = [title for text in texts for title in re.findall(r'^SECTION = "(.+)"$', text, re.M)]
    assert sorted(followed) == sorted(read_sections())


def test_every_kind_of_block_is_known() -> None:
    kinds = {block.kind for blocks in read_sections().values() for block in blocks}
    assert kinds == {"python", "sh", "text"}
