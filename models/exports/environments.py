"""One virtual environment for each framework: what is in it, what it exports, how it is made and used."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["ENVIRONMENTS", "EXPORTERS", "Environment", "ProgramError"]

ROOT = Path(__file__).parents[2]
REQUIREMENTS = Path(__file__).parent / "requirements"
LAST_LINES = 12


class ProgramError(Exception):
    """A program failed; the message ends with the last lines that it wrote."""


@dataclass(frozen=True)
class Environment:
    """`name` is that of its folder and of its requirements, `script` a module beside this one."""

    name: str
    script: str
    exporters: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def requirements(self) -> tuple[str, ...]:
        """The pinned packages."""
        lines = self._requirements_file.read_text().splitlines()
        return tuple(line for line in lines if line and not line.startswith("#"))

    def make(self, venvs: Path) -> None:
        """Make it in `venvs`, unless it is there with the same requirements.

        Raises:
            ProgramError: venv or pip failed.
        """
        folder = venvs / self.name
        installed = folder / "installed.txt"  # written last: an interrupted installation has none
        wanted = self._requirements_file.read_text()
        if installed.is_file() and installed.read_text() == wanted:
            return
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        pip = [str(self._python(venvs)), "-m", "pip", "install", "--quiet", "--no-cache-dir"]
        _run([*pip, "-r", str(self._requirements_file)])
        installed.write_text(wanted)

    def export(
        self, venvs: Path, checkpoint: Path, network: str, folder: Path, exporters: Sequence[str]
    ) -> None:
        """Write `folder`/EXPORTER.onnx for all `exporters` that succeed.

        Raises:
            ProgramError: one of them failed.
        """
        module = f"models.exports.{self.script}"
        arguments = [str(checkpoint), network, str(folder), *exporters]
        _run([str(self._python(venvs)), "-m", module, *arguments], self.variables)

    @property
    def _requirements_file(self) -> Path:
        return REQUIREMENTS / f"{self.name}.txt"

    def _python(self, venvs: Path) -> Path:
        return venvs / self.name / "bin" / "python"


ENVIRONMENTS = (
    Environment("torch", "torch_export", ("torch_ts", "torch_ts_preserve", "torch_dynamo")),
    Environment(
        "keras_tensorflow", "keras_export", ("tf2onnx", "tf2onnx_nchw"), {"KERAS_BACKEND": "tensorflow"}
    ),
    Environment("keras_torch", "keras_export", ("keras_torch",), {"KERAS_BACKEND": "torch"}),
    Environment("jax", "jax_export", ("jax2onnx",), {"JAX_PLATFORMS": "cpu"}),
    Environment("paddle", "paddle_export", ("paddle", "paddle_noopt")),
)

EXPORTERS = tuple(name for environment in ENVIRONMENTS for name in environment.exporters)


def _run(command: Sequence[str], variables: Mapping[str, str] | None = None) -> None:
    """Run a program from the root of the repository, without a GPU."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""} | dict(variables or {})
    done = subprocess.run(  # noqa: S603 (our own programs)
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        last = "\n".join(done.stdout.splitlines()[-LAST_LINES:])
        raise ProgramError(f"{' '.join(command)} ended with status {done.returncode}:\n{last}")
