"""Run every benchmark: `python -m benchmarks`."""

import subprocess
import sys

NAMES = ("coverage", "onnx_suites", "exports", "optimize_time", "speedup", "groups", "large_model")
for name in (*NAMES, "cost_model", "target_latency", "never_slower"):
    print(f"\n## {name}\n", flush=True)
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)  # noqa: S603 - our own programs
