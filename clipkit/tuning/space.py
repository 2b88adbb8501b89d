"""Read the search space of a study, and set options of a resolved configuration."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from clipkit.errors import ConfigError
from clipkit.suggestions import did_you_mean
from clipkit.yaml_files import read_yaml

_RANGES: Final = {"float": FloatDistribution, "int": IntDistribution}
_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(_RANGES, ("low", "high", "log", "step")),
    "categorical": ("choices",),
}


def read_space(path: Path | str) -> dict[str, BaseDistribution]:
    """Read the distributions of a YAML file, by the dotted names of the options.

    Args:
        path: YAML file with a mapping of names to ``{type: float | int | categorical, ...}``. Other
            keys are those of Optuna's distribution. Choices may be lists and mappings; they are
            stored as JSON (see ``decoded``).

    Returns:
        A distribution of Optuna for each option.

    Raises:
        ConfigError: If the file cannot be read or a distribution is invalid.

    Examples:
        >>> read_space("configs/tune/vit_tiny.yaml")["model.optimizer.lr"]
        FloatDistribution(high=0.01, log=True, low=0.0001, step=None)
    """
    content = read_yaml(path)
    if not isinstance(content, Mapping) or not content:
        raise ConfigError(f"{path}: expected options and their ranges, got {content!r}")
    return {str(name): _distribution(spec, f"{path}: {name}") for name, spec in content.items()}


def bounds(distribution: BaseDistribution) -> Sequence[Any]:
    """Return the values that a configuration must accept to accept all values."""
    if isinstance(distribution, CategoricalDistribution):
        return [decoded(choice) for choice in distribution.choices]
    return [distribution.low, distribution.high]


def decoded(choice: Any) -> Any:
    """Return the value of a choice: a text that is a JSON list or object stands for its content."""
    if isinstance(choice, str) and choice.startswith(("[", "{")):
        return json.loads(choice)
    return choice


def _distribution(spec: Any, where: str) -> BaseDistribution:
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
                f"{where}: unknown key {key!r} of type {kind}{did_you_mean(str(key), _KEYS[kind])}"
            )
    try:
        return _categorical(spec, where) if kind == "categorical" else _range(spec, where)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _categorical(spec: Mapping[str, Any], where: str) -> BaseDistribution:
    choices = spec.get("choices")
    if not isinstance(choices, list):
        raise ConfigError(f"{where}: choices: expected a list, got {choices!r}")
    return CategoricalDistribution(
        [json.dumps(choice) if isinstance(choice, list | dict) else choice for choice in choices]
    )


def _range(spec: Mapping[str, Any], where: str) -> BaseDistribution:
    is_int, log = spec["type"] == "int", spec.get("log", False)
    if not isinstance(log, bool):
        raise ConfigError(f"{where}: log: expected true or false, got {log!r}")
    low, high = (_number(spec.get(key), f"{where}: {key}", is_int) for key in ("low", "high"))
    step: float | None = 1 if is_int else None
    if spec.get("step") is not None:
        step = _number(spec["step"], f"{where}: step", is_int)
    return _RANGES[spec["type"]](low, high, log=log, step=step)


def _number(value: Any, where: str, is_int: bool) -> float:
    """Convert a number; YAML reads 1e-4, which has no decimal point, as text."""
    try:
        number = math.nan if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or (is_int and number != int(number)):
        raise ConfigError(
            f"{where}: expected {'an integer' if is_int else 'a number'}, got {value!r}"
        )
    return int(number) if is_int else number


def option_path(name: str, config: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Return the keys that lead to an option of a resolved configuration.

    Args:
        name: Dotted name of the option; ``init_args`` may be omitted, as in flags.
        config: The resolved configuration, including defaults.
        where: Source of the name, for the message.

    Raises:
        ConfigError: If there is no such option; names close matches.

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
            raise ConfigError(f"{where}: no option {name!r}{did_you_mean(name, _names(config))}")
        path.append(part)
        node = node[part]
    return tuple(path)


def _names(node: Any, name: str = "") -> Iterator[str]:
    """Yield every dotted name of a configuration, without ``init_args``."""
    if not isinstance(node, Mapping):
        return
    inner = (node.get("init_args") or {}) if "class_path" in node else node
    for key, value in inner.items():
        dotted = f"{name}.{key}" if name else str(key)
        yield dotted
        yield from _names(value, dotted)


def with_values(config: Mapping[str, Any], values: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Return a copy of a configuration with changed options.

    Args:
        config: The resolved configuration.
        values: New values, by the keys that ``option_path`` returns.
    """
    changed: dict[str, Any] = deepcopy(dict(config))
    for path, value in values.items():
        node = changed
        for part in path[:-1]:
            node = node[part]
        node[path[-1]] = value
    return changed
