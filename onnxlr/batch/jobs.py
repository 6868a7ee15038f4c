"""A TOML file or a pattern of file names -> jobs, each the arguments of one command."""

from __future__ import annotations

import glob
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxlr.errors import UsageError
from onnxlr.regular_files import read_text

__all__ = ["BatchJob", "read_jobs"]


@dataclass(frozen=True, slots=True)
class BatchJob:
    """One model to optimize, or one plan to apply.

    Attributes:
        name: of its files; no other job has it.
        model: path of the model.
        plan: path of the plan to apply; None to optimize.
        options: of the command, as on the command line.
    """

    name: str
    model: str
    plan: str | None
    options: tuple[str, ...]

    def command(self, folder: Path) -> list[str]:
        """Arguments of `onnxlr`, to write to a folder."""
        files = [self.model] if self.plan is None else [self.model, self.plan]
        outputs = ["-o", str(folder / f"{self.name}.onnx"), "--report", str(folder / f"{self.name}.json")]
        return ["optimize" if self.plan is None else "apply", *files, *outputs, *self.options, "--quiet"]


def read_jobs(source: str, options: Sequence[str] = ()) -> list[BatchJob]:
    """The jobs of a TOML file, or one for each model that a pattern finds.

    Args:
        source: `FILE.toml`, or a pattern such as `models/*.onnx`, with `**` for any depth.
        options: of all jobs, as on the command line; what a job says itself comes after them, and counts.

    Raises:
        UsageError: there is no such file, it is not what docs/batch.md says, or two jobs have one name.
    """
    if Path(source).suffix == ".toml":
        jobs = list(_from_toml(Path(source), options))
    else:
        found = sorted(glob.glob(source, recursive=True))
        jobs = [BatchJob(Path(path).stem, str(Path(path).resolve()), None, tuple(options)) for path in found]
    if not jobs:
        raise UsageError(f"{source}: no jobs; name a TOML file, or a pattern that finds models")
    twice = [name for name, count in Counter(job.name for job in jobs).items() if count > 1]
    if twice:
        raise UsageError(f"{source}: two jobs are named '{twice[0]}'; give each a `name` in a TOML file")
    return jobs


def _from_toml(path: Path, options: Sequence[str]) -> Iterator[BatchJob]:
    try:
        data = tomllib.loads(read_text(path))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as TOML ({error})") from error
    unknown = data.keys() - {"defaults", "jobs"}
    if unknown:
        raise UsageError(f"{path}: '{min(unknown)}' is neither [defaults] nor [[jobs]]")
    defaults, entries = data.get("defaults", {}), data.get("jobs", [])
    if not isinstance(defaults, dict) or not isinstance(entries, list):
        raise UsageError(f"{path}: needs a table [defaults] and tables [[jobs]]")
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            raise UsageError(f"{path}: job {number} is no table")
        yield from _jobs_of({**defaults, **entry}, options, f"{path}: job {number}", path.parent)


def _jobs_of(
    entry: Mapping[str, Any], options: Sequence[str], where: str, folder: Path
) -> Iterator[BatchJob]:
    """One job, or one for each plan that a pattern finds."""
    rest = dict(entry)
    model, plans, name = (_text(rest.pop(key, None), f"{where}: {key}") for key in ("model", "plans", "name"))
    if model is None:
        raise UsageError(f"{where} has no model")
    given = (*options, *(word for key, value in rest.items() for word in _option(key, value, where)))
    path = str((folder / model).resolve())
    if plans is None:
        yield BatchJob(_file_name(name or Path(model).stem, where), path, None, given)
        return
    found = sorted(folder.glob(plans))
    if not found:
        raise UsageError(f"{where}: no plan is found by '{plans}'")
    for plan in found:
        stem = f"{name or Path(model).stem}-{plan.stem.removeprefix('plan-')}"
        yield BatchJob(_file_name(stem, where), path, str(plan.resolve()), given)


def _option(key: str, value: Any, where: str) -> Iterator[str]:
    """An option of the command: true is a flag, false none, a list is given again and again."""
    if value is False:
        return
    if value is True:
        yield f"--{key}"
    elif isinstance(value, list):
        for item in value:
            yield from _option(key, item, where)
    elif isinstance(value, str | int | float):
        yield from (f"--{key}", str(value))
    else:
        raise UsageError(f"{where}: {key} cannot be {value!r}")


def _text(value: Any, what: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{what} cannot be {value!r}")
    return value


def _file_name(name: str, where: str) -> str:
    if Path(name).name != name or name in ("", "..", "manifest"):
        raise UsageError(f"{where}: '{name}' cannot be the name of a job's files")
    return name
