"""Find the configurations that are shipped with clipkit."""

from __future__ import annotations

from pathlib import Path

import clipkit
from clipkit.errors import ConfigError


def config_path(name: str) -> Path:
    """Return the path of a shipped configuration, in the installed package or the repository."""
    package = Path(clipkit.__file__).parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"{name}: no such configuration in {package / 'configs'}; reinstall clipkit")
