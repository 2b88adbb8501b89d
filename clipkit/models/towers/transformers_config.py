"""Architectures and weights of transformers, from a folder, the hub or a dictionary."""

from __future__ import annotations

from typing import Any

from clipkit.errors import ConfigError, first_line
from clipkit.models.files.structure import is_structure_only
from clipkit.remote_code import load_trusted


def read_architecture(model: str | dict[str, Any]) -> Any:
    """Read a configuration of transformers.

    Args:
        model: A folder, a name on the Hugging Face hub, or a configuration as a dictionary with
            ``model_type``.

    Raises:
        ConfigError: If there is none.
    """
    from transformers import AutoConfig

    try:
        if isinstance(model, str):
            return load_trusted(
                f"model {model!r}",
                lambda trusted: AutoConfig.from_pretrained(model, trust_remote_code=trusted),
            )
        return AutoConfig.for_model(**model)
    except ConfigError:
        raise
    except Exception as error:  # the hub's, the disk's and the parser's errors
        raise ConfigError(
            f"model: transformers finds no configuration for {model!r}: "
            f"{type(error).__name__}: {first_line(error)}; expected a folder with a config.json"
        ) from error


def build_own(cls: Any, model: str | dict[str, Any], architecture: Any, pretrained: bool) -> Any:
    """Build a model of a class of transformers itself, which needs no code of others.

    Args:
        cls: Class of transformers with ``from_pretrained``.
        model: A folder or a name on the hub if ``pretrained``; see ``read_architecture``.
        architecture: Configuration of the class.
        pretrained: Whether to load the weights of ``model``; otherwise random initialisation.

    Raises:
        ConfigError: If the weights cannot be found or read, or belong to another architecture.
    """
    if pretrained and not isinstance(model, str):
        raise ConfigError(
            "pretrained: a configuration has no weights; set pretrained: false, or name a folder"
        )
    try:
        if not pretrained or is_structure_only():
            return cls(architecture).float()
        built, report = cls.from_pretrained(model, config=architecture, output_loading_info=True)
    except Exception as error:  # the hub's, the disk's and the parser's errors
        raise ConfigError(
            f"model: transformers cannot build {cls.__name__} of {model!r}: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    absent = sorted(report["missing_keys"])
    if absent:
        raise ConfigError(
            f"model: the weights of {model!r} have no {absent[0]!r} ({len(absent)} are missing); "
            f"expected weights of {cls.__name__}"
        )
    return built.float()  # some are stored in half precision
