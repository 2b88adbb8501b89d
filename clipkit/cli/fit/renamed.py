"""Names of earlier versions in configurations, read as today's names with one line that says so."""

from __future__ import annotations

import logging
from typing import Any, Final

import yaml
from jsonargparse import get_loader, set_loader

_LOG: Final = logging.getLogger(__name__)
_CLASSES: Final = {"clipkit.training.callbacks.Preflight": "clipkit.training.Preflight"}


def read_renamed() -> None:
    """Make the parser of configurations read the names of earlier versions too."""
    load = get_loader("yaml")
    set_loader("yaml", lambda stream: with_new_names(load(stream)), exceptions=(yaml.YAMLError,))


def with_new_names(value: Any) -> Any:
    """Replace the names of earlier versions in a part of a configuration.

    Args:
        value: Plain types, as YAML gives them; not changed.

    Returns:
        The same with today's names.

    Examples:
        >>> with_new_names({"class_path": "clipkit.training.callbacks.Preflight"})
        {'class_path': 'clipkit.training.Preflight'}
    """
    if isinstance(value, list):
        return [with_new_names(item) for item in value]
    if not isinstance(value, dict):
        return value
    renamed = {key: with_new_names(item) for key, item in value.items()}
    name = renamed.get("class_path")
    if isinstance(name, str) and name in _CLASSES:
        _LOG.warning("%s is now called %s; please rename it", name, _CLASSES[name])
        renamed["class_path"] = _CLASSES[name]
    return renamed
