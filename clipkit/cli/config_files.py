"""Where the configurations that come with clipkit lie."""

from __future__ import annotations

from pathlib import Path

import clipkit
from clipkit.errors import ConfigError


def config_path(name: str) -> Path:
    """A shipped configuration: inside an installed package, or in the checkout around it.

    Args:
        name: For example "experiment/demo.yaml".

    Returns:
        Its path.

    Raises:
        ConfigError: If there is none of that name.

    Examples:
        >>> config_path("experiment/demo.yaml").name
        'demo.yaml'
    """
    package = Path(clipkit.__file__).parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"{name}: no such configuration in {package / 'configs'}; reinstall clipkit")
