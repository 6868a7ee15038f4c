"""Tables of README and of benchmarks/README.md have the numbers of the results files that they name."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.blocks import ROOT

_TABLE = re.compile(r"<!-- results: (?P<name>\w+) -->\n+(?P<table>(?:\|.*\|\n)+)")

TABLES = [
    pytest.param(found["name"], found["table"], id=f"{path}-{found['name']}-{i}")
    for path in ("README.md", "benchmarks/README.md")
    for i, found in enumerate(_TABLE.finditer((ROOT / path).read_text(encoding="utf-8")))
]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def rows_of(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())["rows"]
    return rows


@pytest.mark.parametrize(("name", "table"), TABLES)
def test_a_table_has_the_numbers_of_its_file(name: str, table: str) -> None:
    """Columns may be fewer, and rows as well; what is shown is a row that was measured."""
    header, rule, *lines = table.splitlines()
    assert set(rule) <= set("|-: ")
    columns = cells(header)
    measured = [[str(row.get(column, "")) for column in columns] for row in rows_of(name)]
    assert lines
    assert [line for line in lines if cells(line) not in measured] == []


def test_tables_are_found() -> None:
    assert len(TABLES) >= 3
