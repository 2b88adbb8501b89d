"""The space of ``clipkit tune``: which options are searched, and between which values."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from clipkit.errors import ConfigError
from clipkit.suggestions import did_you_mean
from clipkit.yaml_files import read_yaml

_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "float": ("low", "high", "log", "step"),
    "int": ("low", "high", "log", "step"),
    "categorical": ("choices",),
}


class Dimension(ABC):
    """The values that one option may take."""

    @abstractmethod
    def suggest(self, trial: Any, name: str) -> Any:
        """A value for a trial of Optuna."""

    @abstractmethod
    def ends(self) -> Sequence[Any]:
        """Values that a configuration must accept if it is to accept all of them."""


@final
@dataclass(frozen=True, slots=True)
class Range(Dimension):
    """Numbers from ``low`` to ``high``, both included.

    Args:
        low: The smallest.
        high: The greatest.
        log: Whether ratios count rather than differences.
        step: Distance of neighbours; None for any number (1 for whole numbers).
        whole: Whether only whole numbers count.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    def suggest(self, trial: Any, name: str) -> Any:
        """See ``Dimension.suggest``."""
        if self.whole:
            step = 1 if self.step is None else int(self.step)
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log, step=step)
        return trial.suggest_float(name, self.low, self.high, log=self.log, step=self.step)

    def ends(self) -> Sequence[Any]:
        """See ``Dimension.ends``."""
        return [int(self.low), int(self.high)] if self.whole else [self.low, self.high]


@final
@dataclass(frozen=True, slots=True)
class Choice(Dimension):
    """One of several values of any kind that YAML has.

    Args:
        choices: The values.
    """

    choices: tuple[Any, ...]

    def suggest(self, trial: Any, name: str) -> Any:
        """See ``Dimension.suggest``; Optuna stores lists and mappings by their JSON."""
        labels = [c if isinstance(c, (str, int, float, bool, type(None))) else json.dumps(c)
                  for c in self.choices]  # fmt: skip
        return deepcopy(self.choices[labels.index(trial.suggest_categorical(name, labels))])

    def ends(self) -> Sequence[Any]:
        """See ``Dimension.ends``."""
        return self.choices


def read_space(path: Path) -> dict[str, Dimension]:
    """The dimensions of a YAML file, by the dotted names of the options.

    Args:
        path: A mapping of names to ``{type: float | int | categorical, ...}``.

    Raises:
        ConfigError: If the file cannot be read, or a dimension makes no sense.

    Examples:
        >>> read_space(Path("configs/tune/vit_tiny.yaml"))["model.optimizer.lr"]
        Range(low=0.0001, high=0.01, log=True, step=None, whole=False)
    """
    content = read_yaml(path)
    if not isinstance(content, Mapping) or not content:
        raise ConfigError(f"{path}: expected options and their ranges, got {content!r}")
    return {str(name): _dimension(spec, f"{path}: {name}") for name, spec in content.items()}


def _dimension(spec: Any, where: str) -> Dimension:
    if not isinstance(spec, Mapping) or "type" not in spec:
        raise ConfigError(f"{where}: expected {{type: float, low: ..., high: ...}}, got {spec!r}")
    kind = spec["type"]
    if kind not in _KEYS:
        raise ConfigError(
            f"{where}: type: expected float, int or categorical, got {kind!r}"
            f"{did_you_mean(str(kind), _KEYS)}"
        )
    for key in spec:
        if key != "type" and key not in _KEYS[kind]:
            raise ConfigError(
                f"{where}: a {kind} has no {key!r}{did_you_mean(str(key), _KEYS[kind])}"
            )
    if kind == "categorical":
        choices = spec.get("choices")
        if not isinstance(choices, list) or len(choices) < 2:
            raise ConfigError(f"{where}: choices: expected a list of two or more, got {choices!r}")
        return Choice(tuple(choices))
    return _range(spec, where, whole=kind == "int")


def _range(spec: Mapping[str, Any], where: str, *, whole: bool) -> Range:
    low, high = (_number(spec.get(key), f"{where}: {key}", whole=whole) for key in ("low", "high"))
    step = None if spec.get("step") is None else _number(spec["step"], f"{where}: step",
                                                         whole=whole)  # fmt: skip
    log = spec.get("log", False)
    if not isinstance(log, bool):
        raise ConfigError(f"{where}: log: expected true or false, got {log!r}")
    if low >= high:
        raise ConfigError(f"{where}: expected low below high, got {low:g} and {high:g}")
    if log and (low <= 0 or step is not None):
        raise ConfigError(f"{where}: log: needs low above 0 and no step")
    if step is not None and step <= 0:
        raise ConfigError(f"{where}: step: expected more than 0, got {step:g}")
    return Range(low, high, log, step, whole)


def _number(value: Any, where: str, *, whole: bool) -> float:
    """A number; YAML reads 1e-4, which lacks a point, as text."""
    try:
        number = math.nan if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or (whole and number != int(number)):
        raise ConfigError(
            f"{where}: expected a {'whole number' if whole else 'number'}, got {value!r}"
        )
    return number


def option_path(name: str, config: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Where an option lies in a resolved configuration.

    Args:
        name: Its dotted name; ``init_args`` may be left out, as in flags.
        config: The resolved configuration, defaults included.
        where: What the message calls the source.

    Raises:
        ConfigError: If there is no such option, with close matches.

    Examples:
        >>> config = {"optimizer": {"class_path": "AdamW", "init_args": {"lr": 0.1}}}
        >>> option_path("optimizer.lr", config, "space.yaml")
        ('optimizer', 'init_args', 'lr')
    """
    node: Any = config
    path: list[str] = []
    for part in name.split("."):
        if isinstance(node, Mapping) and "class_path" in node and part != "init_args":
            path.append("init_args")
            node = node.get("init_args") or {}
        if not isinstance(node, Mapping) or part not in node:
            known = list(_names(config))
            raise ConfigError(f"{where}: no option {name!r}{did_you_mean(name, known)}")
        path.append(part)
        node = node[part]
    return tuple(path)


def _names(node: Any, name: str = "") -> Iterator[str]:
    """Every dotted name of a configuration, without ``init_args``."""
    if not isinstance(node, Mapping):
        return
    inner = (node.get("init_args") or {}) if "class_path" in node else node
    for key, value in inner.items():
        whole = f"{name}.{key}" if name else str(key)
        yield whole
        yield from _names(value, whole)


def with_values(config: Mapping[str, Any], values: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """A copy of a configuration with some options changed.

    Args:
        config: The resolved configuration.
        values: New values, by what ``option_path`` gave.
    """
    changed: dict[str, Any] = deepcopy(dict(config))
    for path, value in values.items():
        node = changed
        for part in path[:-1]:
            node = node[part]
        node[path[-1]] = value
    return changed
