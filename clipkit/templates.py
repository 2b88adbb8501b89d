"""Texts with a placeholder for a class name or a caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from clipkit.errors import ConfigError

PLACEHOLDER: Final = "{}"
"""Placeholder of the name."""

_CLIP_BENCHMARK_PLACEHOLDER: Final = "{c}"


def fill_template(template: str, name: str) -> str:
    """Return the template with a name in its place.

    Examples:
        >>> fill_template("a photo of {}", "sheep"), fill_template("a photo of {c}", "sheep")
        ('a photo of sheep', 'a photo of sheep')
    """
    return template.replace(_CLIP_BENCHMARK_PLACEHOLDER, PLACEHOLDER).replace(PLACEHOLDER, name)


def check_templates(templates: Sequence[str], where: str) -> tuple[str, ...]:
    """Return the templates if each has a placeholder."""
    if not templates:
        raise ConfigError(f"{where}: expected at least one template, got none")
    for template in templates:
        if fill_template(template, "") == template:
            raise ConfigError(
                f"{where}: expected {PLACEHOLDER!r} in every template, got {template!r}"
            )
    return tuple(templates)
