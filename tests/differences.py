"""Where two protobuf messages differ: every field is compared, those that this ONNX does not know as well."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message

__all__ = ["differences", "messages"]


def messages(message: Message) -> Iterator[Message]:
    """A message and all messages in it."""
    yield message
    for _, value in message.ListFields():
        for inner in [value] if _is_single(value) else value:
            if isinstance(inner, Message):
                yield from messages(inner)


def differences(expected: Any, actual: Any, path: str) -> list[str]:
    """Where the two differ, as deep as possible; empty if their bytes are the same."""
    if not isinstance(expected, Message):
        return [] if expected == actual else [f"{path}: {expected!r:.60} became {actual!r:.60}"]
    if expected.SerializeToString(deterministic=True) == actual.SerializeToString(deterministic=True):
        return []
    names = [field.name for field in expected.DESCRIPTOR.fields]
    found = [line for name in names for line in _in_field(expected, actual, name, f"{path}.{name}")]
    return found or [f"{path}: fields that this ONNX does not know"]


def _in_field(expected: Message, actual: Message, name: str, path: str) -> Iterator[str]:
    left, right = getattr(expected, name), getattr(actual, name)
    if not _is_single(left):
        yield from _in_list(left, right, path)
    elif expected.HasField(name) != actual.HasField(name):
        yield f"{path}: {'lost' if expected.HasField(name) else 'new'}"
    else:
        yield from differences(left, right, path)


def _in_list(left: Any, right: Any, path: str) -> Iterator[str]:
    if len(left) != len(right):
        yield f"{path}: {len(left)} became {len(right)}"
    for i, (expected, actual) in enumerate(zip(left, right, strict=False)):
        yield from differences(expected, actual, f"{path}[{i}{_name(expected)}]")


def _is_single(value: Any) -> bool:
    return isinstance(value, Message | str | bytes | int | float)


def _name(element: Any) -> str:
    name = getattr(element, "name", "")
    return f" '{name}'" if name else ""
