"""Options that are out of range, contradict each other or the model, or are no option's value."""

from __future__ import annotations

from tests.hostile.cases import Case

__all__ = ["OPTIONS"]

PLAN = ("plan", "m.onnx", "-o", "p.json")
OPTIMIZE = ("optimize", "m.onnx")
SWEEP = ("sweep", "m.onnx", "-o", "curve")
DIGITS = "1" * 20

RULES: dict[str, tuple[list[str], str]] = {
    "energy-zero": (["--energy", "0"], "energy is a fraction"),
    "energy-above-1": (["--energy", "1.1"], "energy is a fraction"),
    "energy-nan": (["--energy", "nan"], "got nan"),
    "energy-tiny": (["--energy", "1e-400"], "got 0.0"),
    "target-zero": (["--target-macs", "0"], "target-macs is a fraction"),
    "target-negative": (["--target-params=-1"], "target-params is a fraction"),
    "target-infinite": (["--target-macs", "inf"], "got inf"),
    "target-nan": (["--target-macs", "nan"], "got nan"),
    "energy-without-number": (["--energy"], "requires an argument"),
    "energy-and-no-number": (["--energy", "--align", "4"], "'--energy'"),
    "two-rules": (["--energy", "0.9", "--evbmf"], "give one of --energy, --evbmf"),
    "no-such-option": (["--frobnicate"], "--frobnicate"),
}

CHOICES: dict[str, tuple[list[str], str]] = {
    "align-zero": (["--align", "0"], "'--align'"),
    "align-of-text": (["--align", "1e3"], "'--align'"),
    "unknown-scheme": (["--scheme", "svd"], "'--scheme'"),
    "bad-expression": (["--exclude", "("], "is no regular expression"),
    "deep-expression": (["--include", "(" * 5000], "is no regular expression"),
    "unknown-input": (["--input-shape", "y:1,2"], "the inputs are: x"),
    "shape-text": (["--input-shape", "x:a"], "'--input-shape'"),
    "shape-of-20-digits": (["--input-shape", f"x:{DIGITS},16,9,7"], "cannot have a size of 1111"),
    "shape-of-400-digits": (["--input-shape", f"x:{DIGITS * 20},16,9,7"], "cannot have a size of 1111"),
    "shape-zero": (["--input-shape", "x:0,16,9,7"], "'--input-shape'"),
    "other-axes": (["--input-shape", "x:1,16"], "has 4 dimensions, 2 were given"),
    "other-channels": (["--input-shape", "x:1,3,9,7"], "has size 16 along axis 1"),
    "no-workers": (["--workers", "0"], "'--workers'"),
    "std-zero": (["--std", "0"], "std must be positive and finite"),
    "std-nan": (["--std", "nan"], "std must be positive and finite"),
    "unknown-device": (["--device", "tpu"], "'--device'"),
    "threads-negative": (["--threads", "-1"], "'--threads'"),
    "threads-too-many": (["--threads", "100000"], "'--threads'"),
    "threads-of-20-digits": (["--threads", DIGITS], "'--threads'"),
    "memory-without-number": (["--memory-limit", "GiB"], "is not like 500MB"),
    "memory-zero": (["--memory-limit", "0"], "is not like 500MB"),
    "memory-nan": (["--memory-limit", "nan"], "is not like 500MB"),
    "memory-of-one-byte": (["--memory-limit", "1"], "of memory are in use, over the limit"),
}

CHECKS: dict[str, tuple[list[str], str]] = {
    "limit-negative": (["--max-rel-l2", "-1"], "'--max-rel-l2'"),
    "drop-without-labels": (["--max-drop", "0.1"], "max-drop needs labels"),
    "agreement-above-1": (["--min-agreement", "2"], "'--min-agreement'"),
    "batch-zero": (["--batch", "0"], "'--batch'"),
    "batch-twice": (["--batch", "1,1"], "different numbers"),
    "batch-too-large": (
        ["--energy", "0.5", "--batch", "1000000000", "--latency-seconds", "1"],
        "too large at batch 1000000000",
    ),
    "batch-of-20-digits": (
        ["--energy", "0.5", "--batch", DIGITS, "--latency-seconds", "1"],
        "too large at batch 1111",
    ),
}

CURVES: dict[str, tuple[list[str], str]] = {
    "points-zero": (["--points", "0"], "'--points'"),
    "points-too-many": (["--points", "1000000"], "take fewer"),
    "points-of-20-digits": (["--points", DIGITS], "take fewer"),
    "latency-negative": (["--latency-seconds", "-1"], "'--latency-seconds'"),
    "lowest-zero": (["--lowest", "0"], "'--lowest'"),
    "lowest-tiny": (["--lowest", "1e-300"], "take fewer"),
    "lowest-nan": (["--lowest", "nan"], "lowest is a fraction"),
}

OPTIONS = [
    Case(f"option-{name}", lambda _: None, (*command, *given), 2, says)
    for command, group in (
        (PLAN, RULES),
        ((*PLAN, "--energy", "0.5"), CHOICES),
        (OPTIMIZE, CHECKS),
        (SWEEP, CURVES),
    )
    for name, (given, says) in group.items()
]
