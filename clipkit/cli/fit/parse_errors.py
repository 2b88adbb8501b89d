"""Convert errors of jsonargparse into one line with a suggestion."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from clipkit.errors import ClipkitError
from clipkit.suggestions import did_you_mean, one_line
from clipkit.yaml_files import read_yaml

_UNION_LINES = (
    "Subtypes:",
    "Errors:",
    "Given value",
    "Does not validate against any",
    "Expected a <class 'NoneType'>",
)
"""Starts of lines that jsonargparse adds to the reasons of a failed union."""
_NO_OPTION = re.compile(r"does not accept option '(?P<key>[^']+)'")
_NO_ARGUMENT = re.compile(r"unrecognized arguments: --(?P<key>[\w.+-]+)")
_NO_INIT_ARG = re.compile(r"Option '(?P<key>[^']+)' is not accepted")
_NO_CLASS = re.compile(
    r"(?:module '|No )(?P<module>[\w.]+)(?:' has no attribute '| attribute )(?P<name>\w+)"
)
_EXPLAINED = re.compile(r"^ *- (?P<text>\S+: \S+: \S+ has no option .*)$", re.MULTILINE)
"""One reason of a failed union that ``explain`` wrote for the parser of a nested class."""


@dataclass(frozen=True, slots=True)
class ClassEntry:
    """One ``class_path`` of a configuration."""

    where: str  # dotted path of the mapping inside the file
    class_path: str  # the class path
    options: tuple[str, ...]  # names under ``init_args``


def explain(
    message: str, error: BaseException | None, options: Iterable[str], files: Sequence[str]
) -> str:
    """Explain an error on one line; a ``ClipkitError`` in its chain is the explanation."""
    if (cause := clipkit_error(error)) is not None:
        return str(cause)
    if (match := _EXPLAINED.search(message)) is not None:
        return match["text"]
    if (match := _NO_INIT_ARG.search(message)) is not None:
        return _explain_init_arg(match["key"], files)
    if (match := _NO_OPTION.search(message) or _NO_ARGUMENT.search(message)) is not None:
        return f"no option {match['key']!r}{did_you_mean(match['key'], options)}"
    if (match := _NO_CLASS.search(message)) is not None:
        names = public_names(match["module"])
        return f"{match['module']} has no {match['name']!r}{did_you_mean(match['name'], names)}"
    return plainer(one_line(message, omit=_UNION_LINES))


def plainer(line: str) -> str:
    """Rewrite a message of jsonargparse in the style of the other messages.

    Examples:
        >>> plainer("data.seed: Expected a <class 'int'>. Got value: x")
        'data.seed: expected int, got x'
    """
    line = re.sub(r'Parser key "([^"]+)":', r"\1:", line)
    line = re.sub(r"Expected an? <class '([^']+)'>", r"expected \1", line)
    return re.sub(r"\.? Got value:", ", got", line)


def clipkit_error(error: BaseException | None) -> ClipkitError | None:
    """Return the first ``ClipkitError`` in the chain of causes and contexts of ``error``."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, ClipkitError):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def class_entries(config: Any, where: str = "") -> Iterator[ClassEntry]:
    """Yield every mapping with a ``class_path`` in a configuration, depth first."""
    if isinstance(config, Mapping):
        path = config.get("class_path")
        if isinstance(path, str):
            options = config.get("init_args") or {}
            yield ClassEntry(where, path, tuple(options) if isinstance(options, Mapping) else ())
        for key, value in config.items():
            yield from class_entries(value, f"{where}.{key}" if where else str(key))
    elif isinstance(config, list):
        for position, value in enumerate(config):
            yield from class_entries(value, f"{where}[{position}]")


def public_names(module: str) -> list[str]:
    """Return the public names of a module; none if it cannot be imported."""
    try:
        return [name for name in dir(importlib.import_module(module)) if not name.startswith("_")]
    except ImportError:
        return []


def _explain_init_arg(key: str, files: Sequence[str]) -> str:
    for file in files:
        for entry in class_entries(read_yaml(file)):
            if key not in entry.options or (known := _parameters(entry.class_path)) is None:
                continue
            if key not in known:
                return (
                    f"{file}: {entry.where}: {entry.class_path} has no option {key!r}"
                    f"{did_you_mean(key, known)}"
                )
    return f"no option {key!r} (see --help_all, or --model.encoder.help CLASS and the like)"


def _parameters(class_path: str) -> list[str] | None:
    """Return the options of a constructor, and of its bases if it passes keywords on."""
    module, _, attribute = class_path.rpartition(".")
    try:
        target = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError):
        return None
    classes = inspect.getmro(target) if inspect.isclass(target) else (target,)
    names: list[str] = []
    for cls in classes:
        parameters = inspect.signature(cls).parameters if cls is not object else {}
        for name, parameter in parameters.items():
            if is_dataclass(parameter.default):
                names += [f"{name}.{field.name}" for field in fields(parameter.default)]
            if parameter.kind is not parameter.VAR_KEYWORD:
                names.append(name)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
    return names
