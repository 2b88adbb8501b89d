"""HTML that is escaped by construction: text becomes markup only through ``tag`` or ``Markup``."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import Final

_VOID: Final = frozenset({"meta", "link", "img", "input", "br", "col"})

Attributes = Mapping[str, str | int | float | bool]


class Markup(str):
    """Text that is HTML already and is not escaped again."""

    __slots__ = ()


def tag(name: str, attributes: Attributes | None = None, *children: str) -> Markup:
    """An element.

    Args:
        name: Name of the element.
        attributes: ``True`` writes the bare name, ``False`` leaves the attribute out.
        children: Text, which is escaped, or ``Markup``, which is not.

    Returns:
        The element with its children.

    Examples:
        >>> tag("p", {"class": "note"}, "1 < 2")
        '<p class="note">1 &lt; 2</p>'
    """
    head = "".join(_attribute(key, value) for key, value in (attributes or {}).items())
    if name in _VOID:
        assert not children, f"<{name}> holds nothing"
        return Markup(f"<{name}{head}>")
    return Markup(f"<{name}{head}>{join(children)}</{name}>")


def join(parts: Iterable[str]) -> Markup:
    """The parts in order, those that are no ``Markup`` escaped."""
    return Markup("".join(part if isinstance(part, Markup) else _escape(part) for part in parts))


def _attribute(key: str, value: str | int | float | bool) -> str:
    if value is False:
        return ""
    return f" {key}" if value is True else f' {key}="{_escape(str(value))}"'


def _escape(text: str) -> str:
    return html.escape(text, quote=True)
