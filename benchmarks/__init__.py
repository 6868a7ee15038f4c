"""Side-by-side measurements. `python -m benchmarks.NAME` runs one and writes `benchmarks/results/NAME.json`."""
