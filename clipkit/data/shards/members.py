"""Read the members of a sample: class, classes, text and JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from clipkit.data.shards.class_vectors import read_vector
from clipkit.errors import SampleError
from clipkit.types import IGNORE_LABEL

LARGEST_LABEL: Final = 2**63 - 1
_WHOLE_NUMBER: Final = re.compile("[+-]?[0-9]{1,19}")


def read_label(members: Mapping[str, bytes], field: str) -> int:
    """Return the class number of a sample.

    Examples:
        >>> read_label({"json": b'{"category": 7}'}, "json:category")
        7
    """
    value = read_value(members, field)
    if value is None:
        return IGNORE_LABEL
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise SampleError(f"label {field}: expected an integer, got {value!r}")
    if isinstance(value, str) and not _WHOLE_NUMBER.fullmatch(value.strip()):
        raise SampleError(f"label {field}: expected an integer, got {value!r}")
    label = int(value)
    if label != IGNORE_LABEL and not 0 <= label <= LARGEST_LABEL:
        raise SampleError(f"label {field}: expected at least 0, at most 2^63 - 1, got {label}")
    return label


def read_classes(members: Mapping[str, bytes], field: str = "json:labels") -> list[int] | None:
    """Return the classes of a sample that may have several.

    Examples:
        >>> read_classes({"json": b'{"labels": [0, 3]}'})
        [0, 3]
    """
    value = read_value(members, field)
    if value is None:
        return None
    if not isinstance(value, list) or any(
        type(n) is not int or not 0 <= n <= LARGEST_LABEL for n in value
    ):
        raise SampleError(f"{field}: expected a list of class numbers, got {value!r}")
    return value


def read_value(members: Mapping[str, bytes], field: str) -> Any:
    """Return a member as text, a field of a JSON member, or an element of a ``.npy`` member.

    Examples:
        >>> read_value({"json": b'{"region": "asia"}'}, "json:region")
        'asia'
    """
    member, _, name = field.partition(":")
    if member == "npy" and name.isdecimal():
        return None if member not in members else _element(members[member], int(name), field)
    text = read_text(members, member)
    if not text:
        return None
    if not name:
        return text
    content = parsed_json(text, member)
    if not isinstance(content, dict):
        raise SampleError(f"member {member}: expected a JSON object, got {type(content).__name__}")
    return content.get(name)


def _element(data: bytes, position: int, field: str) -> Any:
    vector = read_vector(data)
    if position >= len(vector):
        raise SampleError(
            f"{field}: expected a vector with this element, got {len(vector)} of them"
        )
    return vector[position].item()


def read_text(members: Mapping[str, bytes], field: str) -> str:
    """Return a member as text, without white space around it; "" if it is missing."""
    data = members.get(field, b"")
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise SampleError(
            f"member {field!r} is not UTF-8: byte {data[error.start]:#04x} at {error.start}"
        ) from None


def parsed_json(data: bytes | str, member: str) -> Any:
    """Parse a JSON member."""
    try:
        return json.loads(data)
    except ValueError as error:
        raise SampleError(f"member {member!r} is not JSON: {error}") from None
    except RecursionError:
        raise SampleError(f"member {member!r}: JSON that is nested too deeply") from None
