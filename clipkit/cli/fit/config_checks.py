"""Checks of a configuration before Lightning reads it."""

from __future__ import annotations

from typing import Final

from jsonargparse import Namespace

from clipkit.errors import ConfigError
from clipkit.yaml_files import read_yaml

_SECTIONS: Final = ("model", "data", "trainer")
_LARGEST_SEED: Final = 2**32 - 1
_SHOWN_CHARACTERS: Final = 60


def check_parsed(sections: Namespace) -> None:
    """Check values that the parser accepts and Lightning does not."""
    for name in _SECTIONS:
        if not isinstance(sections.get(name), Namespace):
            raise ConfigError(f"{name}: expected options by name, got {sections.get(name)!r}")
    seed = sections.get("seed_everything")
    if not isinstance(seed, bool) and seed is not None and not 0 <= seed <= _LARGEST_SEED:
        raise ConfigError(f"seed_everything: expected 0 to {_LARGEST_SEED}, got {seed}")
    if sections["trainer"].get("default_root_dir") == "":
        raise ConfigError("trainer.default_root_dir: expected a folder, got an empty text")
    if sections.get("ckpt_path") == "":
        raise ConfigError("ckpt_path: expected a checkpoint, last or best, got an empty text")


def check_sections(file: str) -> None:
    """Check that a configuration is a YAML file with options by name."""
    content = read_yaml(file)
    if not isinstance(content, dict):
        shown = repr(content)[:_SHOWN_CHARACTERS]
        raise ConfigError(
            f"{file}: expected a mapping with sections such as model, data and trainer, got "
            f"{type(content).__name__} {shown}"
        )
    if unusable := [key for key in content if not isinstance(key, str)]:
        raise ConfigError(f"{file}: expected names of sections, got the key {unusable[0]!r}")
