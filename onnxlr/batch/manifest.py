"""The manifest: a line of JSON for every job that ended, written as it ends, so that none is done twice."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from onnxlr.batch.jobs import BatchJob
from onnxlr.errors import OnnxlrError, UsageError
from onnxlr.model_file import load, model_hash

__all__ = ["Manifest", "job_key"]


class Manifest:
    """`manifest.jsonl` of a folder.

    Args:
        folder: made if it is missing, in a folder that exists.

    Raises:
        UsageError: it cannot be made, or the file is no manifest.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "manifest.jsonl"
        try:
            folder.mkdir(exist_ok=True)
            lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        except OSError as error:
            raise UsageError(f"{folder}: cannot write there ({error.strerror or error})") from error
        self._done = {entry["key"] for entry in self._read(lines) if entry["status"] == "done"}

    def has(self, key: str) -> bool:
        """Whether a job is done."""
        return key in self._done

    def add(self, entry: Mapping[str, Any]) -> None:
        """Append a line, and bring it to the disk."""
        line = json.dumps(entry, allow_nan=False).encode() + b"\n"
        with self.path.open("ab") as file:
            if file.tell() and not self._ends_with_newline():
                file.write(b"\n")  # after a crash in the middle of a line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if entry["status"] == "done":
            self._done.add(entry["key"])

    def _ends_with_newline(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    def _read(self, lines: list[bytes]) -> list[dict[str, Any]]:
        """All whole lines; one that a crash cut off is no line."""
        entries = []
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if not isinstance(entry, dict) or not {"key", "status"} <= entry.keys():
                raise UsageError(f"{self.path}: is no manifest of `onnxlr batch`; name another folder")
            entries.append(entry)
        return entries


def job_key(job: BatchJob) -> str:
    """What a job depends on: version, model, plan, options. Equal for equal jobs."""
    digest = hashlib.sha256(version("onnxlr").encode())
    try:
        digest.update(model_hash(load(job.model)).encode())
    except OnnxlrError:  # the job itself tells what is wrong with it
        digest.update(job.model.encode())
    if job.plan is not None:
        digest.update(Path(job.plan).read_bytes())
    digest.update(json.dumps([job.name, *job.options]).encode())
    return digest.hexdigest()
