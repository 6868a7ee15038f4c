"""What is required has a minimum, and what `make dist` has put into dist/ is whole."""

from __future__ import annotations

import hashlib
import json
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
DIST = ROOT / "dist"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS = {
    text for part in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()) for text in part
}

built = pytest.mark.skipif(not (DIST / "SHA256SUMS").exists(), reason="make dist was not run")


@pytest.mark.parametrize("text", sorted(REQUIREMENTS))
def test_requirements_have_a_minimum(text: str) -> None:
    """Else the lowest resolution takes whatever was released first."""
    requirement = Requirement(text)
    assert requirement.name == "onnxlr" or {part.operator for part in requirement.specifier} & {">=", "=="}


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DIST / "onnxlr.cdx.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def metadata() -> Message:
    (path,) = DIST.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_bytes(wheel.read(name))


@built
def test_sums_are_of_wheel_source_and_bill(metadata: Message) -> None:
    version = metadata["Version"]
    names = [f"onnxlr-{version}-py3-none-any.whl", f"onnxlr-{version}.tar.gz", "onnxlr.cdx.json"]
    sums = [f"{hashlib.sha256((DIST / name).read_bytes()).hexdigest()}  {name}" for name in names]
    assert (DIST / "SHA256SUMS").read_text(encoding="utf-8").splitlines() == sums
    assert sorted(path.name for path in DIST.iterdir()) == ["SHA256SUMS", *names]


@built
def test_the_bill_is_of_the_wheel(bill: dict[str, Any], metadata: Message) -> None:
    assert bill["bomFormat"] == "CycloneDX"
    component = bill["metadata"]["component"]
    assert (component["name"], component["version"]) == (metadata["Name"], metadata["Version"])


@built
def test_the_bill_names_what_the_wheel_requires(bill: dict[str, Any], metadata: Message) -> None:
    components = {canonicalize_name(found["name"]): found for found in bill["components"]}
    required = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    required = [r for r in required if r.marker is None or r.marker.evaluate({"extra": ""})]
    assert len(required) > 1
    for requirement in required:
        name = canonicalize_name(requirement.name)
        version = components[name]["version"]
        assert version in requirement.specifier
        assert components[name]["purl"] == f"pkg:pypi/{name}@{version}"


@built
def test_the_bill_names_nothing_else(bill: dict[str, Any]) -> None:
    """Everything in it is required by the wheel, or by what that requires: no tool, no test."""
    needs = {entry["ref"]: entry.get("dependsOn", []) for entry in bill["dependencies"]}
    reached, new = set(), {bill["metadata"]["component"]["bom-ref"]}
    while new:
        reached |= new
        new = {ref for known in new for ref in needs[known]} - reached
    components = [bill["metadata"]["component"], *bill["components"]]
    assert reached == {component["bom-ref"] for component in components}
