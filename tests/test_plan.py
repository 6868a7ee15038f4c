"""Plans: what is written is read back; whatever else is in the file is a PlanError."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from onnxlr.analysis import Skipped
from onnxlr.errors import PlanError, UsageError
from onnxlr.plan import BeforeAfter, Plan, PlannedLayer, read_plan, write_plan

LAYER = PlannedLayer(
    name="conv/ünïcode 1",
    op_type="Conv",
    weight_shape=(64, 32, 3, 3),
    scheme="tucker2",
    rank=(8, 16),
    params=BeforeAfter(18432, 2000),
    macs=BeforeAfter(None, None),
    energy=0.951234567890123,
    error=0.05,
)

PLAN = Plan(
    model={"name": "m.onnx", "hash": "sha256:00"},
    settings={"energy": 0.95, "schemes": ["svd"], "include": None, "input_shapes": {"x": [1, 3, 8, 8]}},
    layers=(LAYER,),
    skipped=(Skipped("fc", "a reason"),),
)

EMPTY = Plan({}, {}, (), ())


@pytest.mark.parametrize("plan", [PLAN, EMPTY], ids=["full", "empty"])
def test_round_trip(tmp_path: Path, plan: Plan) -> None:
    path = tmp_path / "plan.json"
    write_plan(plan, path)
    assert read_plan(path) == plan
    assert read_plan(str(path)) == Plan.from_dict(plan.to_dict()) == plan
    assert json.loads(path.read_text(encoding="utf-8"))["schema_version"] == 1
    assert path.read_bytes().endswith(b"}\n")


def test_from_dict_leaves_its_argument_alone() -> None:
    data = json.loads(json.dumps(PLAN.to_dict()))
    Plan.from_dict(data)
    assert data == json.loads(json.dumps(PLAN.to_dict()))


def test_writing_into_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write there"):
        write_plan(PLAN, tmp_path / "no" / "plan.json")


def edit(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    """Set a value deep in the plan."""

    def change(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = to

    return change


def remove(*path: str | int) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        del data[path[-1]]

    return change


FIELDS = ("name", "op_type", "weight_shape", "scheme", "rank", "params", "macs", "energy", "error")

HOSTILE: dict[str, Callable[[dict[str, Any]], None]] = {
    **{
        f"no {field}": remove(field) for field in ("model", "settings", "layers", "skipped", "schema_version")
    },
    **{f"layer without {field}": remove("layers", 0, field) for field in FIELDS},
    **{f"{field} null": edit("layers", 0, field, to=None) for field in FIELDS},
    **{f"{field} an object": edit("layers", 0, field, to={"a": 1}) for field in FIELDS},
    **{f"{field} true": edit("layers", 0, field, to=True) for field in FIELDS},
    "version 2": edit("schema_version", to=2),
    "version a string": edit("schema_version", to="1"),
    "unknown field": edit("layerz", to=[]),
    "unknown field of a layer": edit("layers", 0, "Rank", to=[1]),
    "unknown field of params": edit("layers", 0, "params", "now", to=1),
    "unknown field of skipped": edit("skipped", 0, "why", to=""),
    "params without after": remove("layers", 0, "params", "after"),
    "params as text": edit("layers", 0, "params", "after", to="1"),
    "params as float": edit("layers", 0, "params", "after", to=1.5),
    "skipped without reason": remove("skipped", 0, "reason"),
    "skipped name a number": edit("skipped", 0, "name", to=1),
    "skipped a string": edit("skipped", to="abc"),
    "skipped a list of strings": edit("skipped", 0, to="abc"),
    "layers null": edit("layers", to=None),
    "layers a number": edit("layers", to=1),
    "layers an object": edit("layers", to={"a": {}}),
    "layers a list of numbers": edit("layers", to=[1]),
    "layers a list of lists": edit("layers", to=[[]]),
    "rank a number": edit("layers", 0, "rank", to=8),
    "rank a float": edit("layers", 0, "rank", to=[8.0]),
    "rank a string": edit("layers", 0, "rank", to="8"),
    "rank of strings": edit("layers", 0, "rank", to=["8"]),
    "rank of booleans": edit("layers", 0, "rank", to=[True]),
    "rank nested": edit("layers", 0, "rank", to=[[8]]),
    "name a list": edit("layers", 0, "name", to=["a"]),
    "scheme a number": edit("layers", 0, "scheme", to=3),
    "energy as text": edit("layers", 0, "energy", to="0.9"),
    "model a string": edit("model", to="m.onnx"),
    "model a list": edit("model", to=[]),
    "model null": edit("model", to=None),
    "settings null": edit("settings", to=None),
    "settings a list": edit("settings", to=[]),
    "input_shapes a list": edit("settings", "input_shapes", to=[1]),
    "input_shapes of text": edit("settings", "input_shapes", to={"x": "1,3"}),
    "input_shapes of floats": edit("settings", "input_shapes", to={"x": [1.0]}),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_plans(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads(json.dumps(PLAN.to_dict()))
    change(data)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(PlanError) as error:
        read_plan(path)
    assert error.value.exit_code == 3
    assert "\n" not in str(error.value)


FILES: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"energy: 0.95",
    "cut off": json.dumps(PLAN.to_dict()).encode()[:-20],
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "no UTF-8": b'{"a": "\xff"}',
    "nested too deep": b"[" * 200_000,
    "a number with too many digits": b'{"schema_version": ' + b"1" * 10_000 + b"}",
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES.keys())
def test_what_is_no_plan(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(PlanError, match=r"plan\.json: "):
        read_plan(path)


@pytest.mark.parametrize("name", ["missing.json", ""])
def test_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(PlanError, match="cannot be read as a plan"):
        read_plan(tmp_path / name)
