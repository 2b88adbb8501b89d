"""Sentences around class names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from clipkit.errors import ConfigError

PLACEHOLDER: Final = "{c}"
"""Where the class name goes; CLIP_benchmark's own mark."""

GENERIC_TEMPLATES: Final = (
    "{c}",
    "a picture of {c}",
    "a photo that shows {c}",
    "a drawing of {c}",
    "here we see {c}",
    "{c}, seen from nearby",
    "{c}, small and far away",
    "an image in the category {c}",
)
"""For data that bring no templates: several views and media, no guess about the domain."""


def fill(template: str, class_name: str) -> str:
    """The template with the class name in it.

    Examples:
        >>> fill("a picture of {c}", "sheep")
        'a picture of sheep'
    """
    return template.replace(PLACEHOLDER, class_name)


def check_templates(templates: Sequence[str], where: str) -> tuple[str, ...]:
    """The templates, if each has a place for the class name.

    Args:
        templates: Sentences with ``{c}``.
        where: The file or option that they come from, for the message.

    Raises:
        ConfigError: If there are none, or one has no place.
    """
    if not templates:
        raise ConfigError(f"{where}: expected at least one template, got none")
    for template in templates:
        if PLACEHOLDER not in template:
            raise ConfigError(
                f"{where}: expected {PLACEHOLDER!r} in every template, got {template!r}"
            )
    return tuple(templates)
