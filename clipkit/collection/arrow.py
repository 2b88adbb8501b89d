"""pyarrow, which an extra installs."""

from __future__ import annotations

from types import ModuleType

from clipkit.errors import ConfigError


def arrow() -> ModuleType:
    """Return pyarrow, with its Parquet part.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(
            "embedded collections need pyarrow, which is not installed; "
            "pip install 'clipkit[tables]'"
        ) from error
    module: ModuleType = pyarrow
    return module
