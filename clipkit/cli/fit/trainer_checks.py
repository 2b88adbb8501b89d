"""Check the section ``trainer`` of a configuration before anything is created from it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Final

from clipkit.errors import ConfigError, check_at_least
from clipkit.training.callbacks import SaveCheckpoint

_LEAST: Final = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "num_nodes": 1,
    "log_every_n_steps": 0,
    "num_sanity_val_steps": -1,
}
_TIME_UNITS: Final = ("days", "hours", "minutes", "seconds", "weeks")
_IN_ONE_PROGRAM: Final = ("spawn", "fork", "notebook")
_SAVER: Final = f"{SaveCheckpoint.__module__}.{SaveCheckpoint.__qualname__}"


def check_trainer_options(trainer: Mapping[str, Any]) -> None:
    """Refuse numbers that Lightning divides by or ignores, and strategies that lose the model."""
    for name, least in _LEAST.items():
        check_at_least(f"trainer.{name}", trainer.get(name), least)
    interval = trainer.get("val_check_interval")
    if isinstance(interval, int | float) and interval <= 0:
        raise ConfigError(
            f"trainer.val_check_interval: expected a number of batches, or a fraction of an epoch "
            f"above 0 up to 1.0, got {interval}; --data.val null turns validation off"
        )
    limit = trainer.get("max_time")
    if isinstance(limit, Mapping) and (unknown := [u for u in limit if u not in _TIME_UNITS]):
        units = ", ".join(_TIME_UNITS)
        raise ConfigError(f"trainer.max_time: expected {units} or DD:HH:MM:SS, got {unknown[0]!r}")
    _check_strategy(trainer.get("strategy"))


def _check_strategy(strategy: Any) -> None:
    """Refuse strategies that start the ranks in this program and end with the trained model."""
    name, start = strategy, strategy
    if not isinstance(strategy, str):
        name = getattr(strategy, "class_path", "")
        start = (getattr(strategy, "init_args", None) or {}).get("start_method")
    methods = [word for word in _IN_ONE_PROGRAM if isinstance(start, str) and word in start]
    if methods:
        raise ConfigError(
            f"trainer.strategy: {name} starts its ranks in this program ({methods[0]}), which "
            f"clipkit does not support; use ddp, or torchrun, which start the command once for "
            f"each rank"
        )


def merge_savers(callbacks: Any) -> Any:
    """Join the ``SaveCheckpoint`` entries of a configuration into one.

    A file may append an entry with ``monitor`` to a file with an entry with ``every_n_minutes``.
    For each option, the last value that is not the default is used.
    """
    if not isinstance(callbacks, list):
        return callbacks
    savers = [entry for entry in callbacks if is_saver(entry)]
    if len(savers) < 2:
        return callbacks
    merged = savers[-1]
    for name, parameter in inspect.signature(SaveCheckpoint).parameters.items():
        default = parameter.default
        given = [v for saver in savers if (v := saver.init_args[name]) != default]
        if name in ("folder", "monitor") and len(set(given)) > 1:
            raise ConfigError(
                f"trainer.callbacks: expected one SaveCheckpoint, got {len(savers)}, with "
                f"{name} {' and '.join(map(repr, given))}; remove one"
            )
        merged.init_args[name] = given[-1] if given else default
    return [entry for entry in callbacks if entry is merged or entry not in savers]


def is_saver(entry: Any) -> bool:
    """Return whether an entry of a configuration is a ``SaveCheckpoint``."""
    path = str(getattr(entry, "class_path", ""))
    return path in (_SAVER, "clipkit.training.callbacks.SaveCheckpoint", "SaveCheckpoint")


def raised_by(error: BaseException, packages: Sequence[str]) -> bool:
    """Return whether an error was raised by the code of certain packages.

    Lightning raises a ``ValueError`` to refuse an option; torch raises one for a failure in a step.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    return module.partition(".")[0] in packages
