"""Files of class names, templates and prompts: one per line, JSON or YAML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from clipkit.class_names import parse_class_names
from clipkit.errors import ConfigError, first_line
from clipkit.suggestions import did_you_mean
from clipkit.yaml_files import read_yaml

_SUFFIXES: Final = (".txt", ".json", ".yaml", ".yml")
_PREFIXES: Final = ("wds_", "wds/", "vtab/", "tfds/")
_SHOWN: Final = 5


def read_entry(address: str, option: str, data_name: str, class_names: Sequence[str] = ()) -> Any:
    """Read a file of names, templates or prompts.

    Args:
        address: ``FILE.txt`` with one entry per line; or ``FILE.json`` or ``FILE.yaml``. If that
            file is a mapping by data set, as those of CLIP_benchmark, ``FILE.json:KEY`` selects the
            data set.
        option: Name of the option in messages.
        data_name: Name of the data, which selects the data set if there is no ``KEY``.
        class_names: Names of the classes: a mapping by class is returned as it is.

    Returns:
        List of the lines of a text file; the content of another one.

    Raises:
        ConfigError: If the file cannot be read, or has no entry for the data.
    """
    path, key = _split_key(address)
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(
            f"{option}: expected a name of a list or a file ({', '.join(_SUFFIXES)}), "
            f"got {address!r}"
        )
    if not path.is_file():
        raise ConfigError(f"{option}: there is no file {path}")
    if path.suffix.lower() == ".txt":
        return list(parse_class_names(_read_text(path, option)))
    content = _read_json(path, option) if path.suffix.lower() == ".json" else read_yaml(path)
    if key is None:
        is_by_class = isinstance(content, dict) and set(class_names) - {""} <= set(content)
        return content if class_names and is_by_class else _entry_of_data(content, data_name)
    if not isinstance(content, dict) or key not in content:
        keys = [str(name) for name in content] if isinstance(content, dict) else []
        raise ConfigError(f"{option}: {path} has no key {key!r}{did_you_mean(key, keys)}")
    return content[key]


def _split_key(address: str) -> tuple[Path, str | None]:
    """Split ``FILE.json:KEY``."""
    for suffix in _SUFFIXES[1:]:
        file, separator, key = address.rpartition(f"{suffix}:")
        if separator:
            return Path(file + suffix), key
    return Path(address), None


def _entry_of_data(content: Any, data_name: str) -> Any:
    """Return the entry of a mapping by data set; the content itself if it is none."""
    if not isinstance(content, dict):
        return content
    names = [data_name]
    for prefix in _PREFIXES:
        names += [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    # The Hub's names have "-" where CLIP_benchmark's have "/": wds_vtab-pets is vtab/pets.
    names += [name.replace("-", "/", 1) for name in names]
    names += [name.partition("/")[2] for name in names if "/" in name]
    return next((content[name] for name in names if name in content), content)


def _read_text(path: Path, option: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{option}: cannot read {path}: {first_line(error)}") from error


def _read_json(path: Path, option: str) -> Any:
    try:
        return json.loads(_read_text(path, option), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{option}: {path}: not JSON: {first_line(error)}") from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} occurs twice")
    return content


def text_list(content: Any, what: str) -> list[str]:
    """Return a list of texts, or refuse another content.

    Examples:
        >>> text_list(["a {}"], "templates")
        ['a {}']
    """
    if isinstance(content, dict):
        keys = ", ".join(str(name) for name in list(content)[:_SHOWN])
        raise ConfigError(
            f"{what}: expected a list of texts, got a mapping with the keys {keys}"
            f"{', ...' if len(content) > _SHOWN else ''}; select one with FILE.json:KEY"
        )
    if not isinstance(content, list) or not all(isinstance(text, str) for text in content):
        raise ConfigError(f"{what}: expected a list of texts, got {str(content)[:80]!r}")
    return content
