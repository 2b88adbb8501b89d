"""Read the names of earlier versions in configurations, with one warning per name."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml
from jsonargparse import get_loader, set_loader

from clipkit.errors import ConfigError
from clipkit.training.callbacks import RENAMED as RENAMED_CALLBACKS
from clipkit.training.datamodule.options import RENAMED

_LOG: Final = logging.getLogger(__name__)
_CALLBACKS: Final = "clipkit.training.callbacks"
_CLASSES: Final = {
    f"{_CALLBACKS}.Preflight": "clipkit.training.Preflight",
    **{f"{_CALLBACKS}.{old}": f"{_CALLBACKS}.{new}" for old, new in RENAMED_CALLBACKS.items()},
}
_DATA_OPTION: Final = re.compile(r"--data\.(?P<name>\w+)(?P<rest>.*)", re.DOTALL)
_MOMENT_OPTION: Final = re.compile(
    r"(?P<start>--[\w.]+\.)(?P<name>warmup|cooldown)_(steps|fraction)\b"
)
_SOURCES: Final = "mixture.sources"
_LISTS: Final = ("samples.fields", "order.batch_size_stages", "mixture.stages", _SOURCES)
"""Options that were null where nothing was given, and are an empty list now."""

_OPTIONS: Final = (
    (None, "warmup_steps", "warmup"),
    (None, "warmup_fraction", "warmup"),
    (None, "cooldown_steps", "cooldown"),
    (None, "cooldown_fraction", "cooldown"),
    ("start", "num_steps", "length"),
    ("start", "first_step", "begin"),
    ("batch_size", "until_samples", "until"),
    ("weights", "step", "begin"),
    ("groups", "step", "begin"),
    ("groups", "fraction", "begin"),
)
"""Moments: a neighbour that the option needs, its name, and its name today.

Of two that are the same today, the first that is not null counts, as it did.
"""


def read_renamed() -> None:
    """Make the parser of configurations read the names of earlier versions too."""
    load = get_loader("yaml")
    set_loader("yaml", lambda stream: with_new_names(load(stream)), exceptions=(yaml.YAMLError,))


def with_new_names(value: Any) -> Any:
    """Replace the names of earlier versions in a part of a configuration.

    Examples:
        >>> with_new_names({"class_path": "clipkit.training.callbacks.Preflight"})
        {'class_path': 'clipkit.training.Preflight'}
        >>> with_new_names({"data": {"batch_size": 8, "fault_log": "bad.jsonl"}})
        {'data': {'batch_size': 8, 'faults': {'log': 'bad.jsonl'}}}
    """
    if isinstance(value, list):
        return [with_new_names(item) for item in value]
    if not isinstance(value, dict):
        return value
    renamed = {key: with_new_names(item) for key, item in value.items()}
    name = renamed.get("class_path")
    if isinstance(name, str) and name in _CLASSES:
        _tell(name, _CLASSES[name])
        renamed["class_path"] = _CLASSES[name]
    if isinstance(renamed.get("data"), dict):
        renamed["data"] = _nested(renamed["data"])
    _rename_options(renamed)
    _move_distillation(renamed)
    return renamed


def with_new_options(words: Sequence[str]) -> list[str]:
    """Replace the options of earlier versions in the words of a command.

    Examples:
        >>> with_new_options(["--data.fault_log=bad.jsonl", "--data.train", "a.tar"])
        ['--data.faults.log=bad.jsonl', '--data.train', 'a.tar']
        >>> with_new_options(["--model.schedule.warmup_steps=9"])
        ['--model.schedule.warmup=9']
    """
    renamed = list(words)
    for position, word in enumerate(words):
        if word.startswith("--model.loss.distillation"):
            raise ConfigError(
                "--model.loss.distillation: write --model.loss.terms="
                "'{distillation: {loss: {class_path: CLASS, init_args: {...}}, weight: 1.0}}'"
            )
        if (moment := _MOMENT_OPTION.match(word)) is not None:
            _tell(moment[0], f"{moment['start']}{moment['name']}")
            renamed[position] = f"{moment['start']}{moment['name']}{word[moment.end() :]}"
        match = _DATA_OPTION.fullmatch(word)
        if match is None or match["rest"][:1] not in ("", "=", ".", "+"):
            continue
        name, rest = match["name"], match["rest"]
        inline = "=" in rest
        value = rest.partition("=")[2] if inline else "".join(words[position + 1 : position + 2])
        is_list = (name, rest[:1]) == ("mixture", "+") or (
            name == "mixture" and rest[:1] != "." and value.strip()[:1] in ("[", "n")
        )
        new = _SOURCES if is_list else RENAMED.get(name)
        if new is None:
            continue
        _tell(f"--data.{name}", f"--data.{new}")
        if new in _LISTS and value == "null":
            value = "[]"
            rest = "=[]" if inline else rest
        renamed[position] = f"--data.{new}{rest}"
        if not inline and position + 1 < len(words):
            renamed[position + 1] = value
    return renamed


def _nested(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section ``data`` with options of earlier versions in their groups."""
    section: dict[str, Any] = {}
    for name, value in data.items():
        is_list = name == "mixture" and not isinstance(value, dict)
        new = _SOURCES if is_list else RENAMED.get(name)
        if new is None:
            group = section.get(name)
            section[name] = value | group if group and isinstance(value, dict) else value
            continue
        if value is not None:
            _tell(f"data.{name}", f"data.{new}")
        group_name, _, option = new.partition(".")
        group = section.setdefault(group_name, {})
        group[option] = [] if value is None and new in _LISTS else value
    return section


def _rename_options(part: dict[str, Any]) -> None:
    for neighbour, old, new in _OPTIONS:
        if old in part and (neighbour is None or neighbour in part):
            value = part.pop(old)
            if value is not None and new not in part:
                _tell(old, new)
                part[new] = {"samples": value} if old == "until_samples" else value


def _move_distillation(loss: dict[str, Any]) -> None:
    if "distillation" not in loss or "contrastive" not in loss:
        return
    term, weight = loss.pop("distillation"), loss.pop("distillation_weight", 0.0)
    if term is not None:
        _tell("loss.distillation", "loss.terms.distillation")
        loss["terms"] = {
            **(loss.get("terms") or {}),
            "distillation": {"loss": term, "weight": weight},
        }


def _tell(old: str, new: str) -> None:
    _LOG.warning("%s is now called %s; please rename it", old, new)
