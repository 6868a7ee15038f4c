"""Run every benchmark: `python -m benchmarks`."""

import subprocess
import sys

for name in ("optimize_time", "speedup"):
    print(f"\n## {name}\n", flush=True)
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)  # noqa: S603 - our own programs
