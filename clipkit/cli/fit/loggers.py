"""Prepare the loggers of a configuration before they are created."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Final

from clipkit.errors import ConfigError

_RUN_FOLDER: Final = "auto"
"""A logger's save_dir that stands for the folder of the run, trainer.default_root_dir."""
_EXTRAS: Final = {
    "MLFlowLogger": ("mlflow", "mlflow"),
    "TensorBoardLogger": ("tensorboard", "tensorboard"),
    "TrackioLogger": ("trackio", "trackio"),
}
"""Names of loggers, the module that each needs, and the extra that installs it."""


def prepare_loggers(trainer: Any) -> None:
    """Set the folder of the run as ``save_dir`` where it is "auto"; refuse missing packages."""
    loggers = trainer.get("logger")
    for entry in loggers if isinstance(loggers, list) else [loggers]:
        class_path = getattr(entry, "class_path", None)
        if not class_path:
            continue
        _check_installed(class_path)
        if entry["init_args"].get("save_dir") == _RUN_FOLDER:
            entry["init_args"]["save_dir"] = trainer["default_root_dir"] or "."


def _check_installed(class_path: str) -> None:
    module, extra = _EXTRAS.get(class_path.rpartition(".")[2], (None, None))
    if module is not None and find_spec(module) is None:
        raise ConfigError(
            f"trainer.logger: {class_path} needs the package {module}, which is not installed: "
            f"pip install 'clipkit[{extra}]'"
        )
