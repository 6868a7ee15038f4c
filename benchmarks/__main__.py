"""Run every benchmark: `python -m benchmarks`."""

import importlib

for name in ("optimize_time", "speedup"):
    print(f"\n## {name}\n")
    importlib.import_module(f"benchmarks.{name}").main(standalone_mode=False, args=[])
