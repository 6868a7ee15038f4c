"""Comparison -> sections; models go by letters, A the first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from string import ascii_uppercase

from onnxlr.comparing.results import OptimizedExport
from onnxlr.comparing.schema import Comparison
from onnxlr.comparing.timing import ExportLatency, Ratio
from onnxlr.comparing.traits import Trait
from onnxlr.comparing.walking import Walk
from onnxlr.plan import BeforeAfter
from onnxlr.report.formats import by_reason, dims, kept_percent, short_count
from onnxlr.report.sections import Grid, Line, Section

__all__ = ["comparison_sections"]


def comparison_sections(comparison: Comparison, complete: bool = True) -> Iterator[Section]:
    """Everything that was found.

    Args:
        comparison: what was found.
        complete: whether to show what is as it should be, too: all pairs, all layers, all traits.
    """
    letters = {name: _letter(i) for i, name in enumerate(comparison.models)}
    yield Section("Models", [Line(f"{letter}  {name}") for name, letter in letters.items()])
    yield Section("The same function?", list(_verdict(comparison, letters, complete)))
    yield Section("Layers", list(_walks(comparison, letters, complete)))
    traits = list(_traits(comparison, letters, complete))
    yield Section("What differs", traits or [Line("nothing that was looked at")])
    if comparison.optimized is not None:
        yield Section("Optimized", list(_optimized(comparison.optimized, letters, complete)))
    if comparison.notes:
        yield Section("Notes", [Line(note, "note") for note in comparison.notes])


def _letter(index: int) -> str:
    """A to Z, then A1, B1, …"""
    turn, place = divmod(index, len(ascii_uppercase))
    return f"{ascii_uppercase[place]}{turn or ''}"


def _verdict(comparison: Comparison, letters: dict[str, str], complete: bool) -> Iterator[Grid | Line]:
    groups = [" = ".join(letters[name] for name in group) for group in comparison.groups]
    if comparison.same:
        yield Line(f"yes: {groups[0]}", "good")
    else:
        yield Line(f"NO: {' ≠ '.join(groups)}", "bad")
    first = comparison.models[0]
    rows = [
        (
            f"{letters[pair.first]}, {letters[pair.other]}",
            output.name,
            f"{output.max_abs:.2g}",
            f"{output.rel_l2:.2g}",
            f"{output.cosine:.6f}",
            "" if output.top1_agreement is None else f"{output.top1_agreement:.2%}",
            f"{'≤' if output.rel_l2 <= pair.tolerance else '>'} {pair.tolerance:g}",
        )
        for pair in comparison.pairs
        for output in pair.outputs
        if complete or pair.first == first
    ]
    columns = ("models", "output", ">max abs", ">rel. L2", ">cosine", ">top-1", ">tolerance")
    yield Grid(columns, rows)
    yield Line(f"on {comparison.samples} samples: {comparison.data}")
    for port in comparison.ports:
        moved = [
            f"{letters[name]} '{own}' with axes {','.join(map(str, perm))}"
            for name, own, perm in zip(comparison.models, port.names, port.perms, strict=True)
            if perm is not None
        ]
        if moved:
            yield Line(f"{port.kind} '{port.names[0]}' is {'; '.join(moved)}", "quiet")


def _walks(comparison: Comparison, letters: dict[str, str], complete: bool) -> Iterator[Grid | Line]:
    same = {(pair.first, pair.other) for pair in comparison.pairs if pair.same}
    for walk in comparison.walks:
        yield from _walk(walk, letters, complete, (walk.first, walk.other) in same)


def _walk(walk: Walk, letters: dict[str, str], complete: bool, same: bool) -> Iterator[Grid | Line]:
    pair = f"{letters[walk.first]}, {letters[walk.other]}"
    counts = [f"{sum(layer.matched_by == by for layer in walk.layers)} by {by}" for by in _ways(walk)]
    errors = [layer.rel_l2 for layer in walk.layers if layer.rel_l2 is not None]
    largest = f", largest relative L2 behind one {max(errors):.2g}" if errors else ""
    yield Line(f"{pair}: {len(walk.layers)} layers matched ({', '.join(counts) or 'none'}){largest}")
    for name, left in ((walk.first, walk.first_left), (walk.other, walk.other_left)):
        if left:
            yield Line(f"only in {letters[name]}: {', '.join(left)}", "note")
    found = walk.divergence
    if found is not None:
        kind = "note" if same else "bad"
        size = "another shape" if found.rel_l2 is None else f"relative L2 {found.rel_l2:.2g}"
        where = f"{found.name} ({found.other} in {letters[walk.other]})"
        yield Line(f"{pair} differ first behind {where}: {size}", kind)
        yield from (Line(f"  {reason}", kind) for reason in found.reasons)
        if same:
            yield Line("  the outputs agree all the same", kind)
    elif not same:
        what = "the difference stands behind them, or in layers without counterpart"
        yield Line(f"{pair}: no matched layer differs: {what}", "bad")
    if complete or found is not None:
        rows = [
            (
                layer.name,
                " → ".join(layer.others),
                layer.matched_by,
                f"{layer.weight_error:.1e}",
                "shapes differ" if layer.rel_l2 is None else f"{layer.rel_l2:.1e}",
            )
            for layer in walk.layers
        ]
        yield Grid((letters[walk.first], letters[walk.other], "matched by", ">weight", ">values"), rows)


def _ways(walk: Walk) -> list[str]:
    return list(dict.fromkeys(layer.matched_by for layer in walk.layers))


def _traits(comparison: Comparison, letters: dict[str, str], complete: bool) -> Iterator[Grid | Line]:
    for trait in comparison.traits:
        if trait.differs or complete:
            yield Line(trait.name)
            yield Line(f"  {trait.meaning}", "quiet")
            yield from (Line(f"  {line}") for line in _values(trait, list(letters.values())))
    if comparison.operators:
        columns = ("operator", *(f">{letter}" for letter in letters.values()))
        yield Grid(columns, [(op, *map(str, counts)) for op, counts in comparison.operators.items()])


def _values(trait: Trait, letters: Sequence[str]) -> Iterator[str]:
    """One line a value, with the models that have it."""
    if not trait.differs:
        yield f"all: {trait.values[0]}"
        return
    for value in dict.fromkeys(trait.values):
        who = [letter for letter, own in zip(letters, trait.values, strict=True) if own == value]
        yield f"{' '.join(who)}: {value}"


def _optimized(
    found: Sequence[OptimizedExport], letters: dict[str, str], complete: bool
) -> Iterator[Grid | Line]:
    if all(item.same_as_first for item in found):
        yield Line("the same layers by the same schemes at the same ranks in all", "good")
    else:
        others = [letters[item.name] for item in found if not item.same_as_first]
        yield Line(f"not as in {letters[found[0].name]}: {', '.join(others)}", "bad")
    first = letters[found[0].name]
    columns = ["model", ">layers", ">params", ">kept", ">MACs", ">kept", ">rel. L2"]
    timed = [item.latency for item in found if item.latency is not None]
    if timed:
        columns += [">ms", ">speed-up", f">by {first}"]
    yield Grid(columns, [_optimized_row(item, letters, complete) for item in found])
    if timed:
        noise = timed[0].noise_floor
        yield Line(f"by {first}: time of an optimized model by that of {first}; noise ±{noise:.1%}", "quiet")
    for item in found:
        yield from (Line(f"{letters[item.name]}: {line}", "note") for line in item.differences)
    yield from _plans(found, letters) if complete else _left_alone(found[0], first)


def _left_alone(item: OptimizedExport, letter: str) -> Iterator[Line]:
    for reason, names in by_reason(item.skipped).items():
        yield Line(f"{letter}: {len(names)} left alone, {reason}: {', '.join(names)}", "quiet")


def _optimized_row(item: OptimizedExport, letters: dict[str, str], complete: bool) -> tuple[str, ...]:
    row = (
        letters[item.name],
        f"{len(item.layers)}/{len(item.layers) + len(item.skipped)}",
        *_sizes(item.totals.params),
        *_sizes(item.totals.macs),
        f"{item.rel_l2:.3g}",
    )
    return row if item.latency is None else (*row, *_times(item.latency, complete))


def _sizes(value: BeforeAfter) -> tuple[str, str]:
    return "?" if value.after is None else short_count(value.after), kept_percent(value)


def _times(latency: ExportLatency, complete: bool) -> tuple[str, ...]:
    times = f"{latency.before:.3g} → {latency.after:.3g}"
    if complete:
        return times, f"{_range(latency.speedup)}x", _range(latency.after_ratio)
    return times, f"{latency.speedup.median:.2f}x", f"{latency.after_ratio.median:.2f}"


def _range(ratio: Ratio) -> str:
    return f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def _plans(found: Sequence[OptimizedExport], letters: dict[str, str]) -> Iterator[Grid | Line]:
    for item in found:
        rows = [(layer.name, layer.scheme, dims(layer.rank), "") for layer in item.layers]
        rows += [(skipped.name, "left alone", "", skipped.reason) for skipped in item.skipped]
        yield Line(letters[item.name])
        yield Grid(("layer", "scheme", ">rank", "reason"), rows)
