"""pyarrow, which an extra installs."""

from __future__ import annotations

from types import ModuleType
from typing import Any

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


def arrow_type(kind: str) -> Any:
    """Return the Arrow type of a column by its name in ``shard_tables.COLUMNS``."""
    pa = arrow()
    if kind.startswith("fixed_size_binary"):
        return pa.binary(int(kind[len("fixed_size_binary[") : -1]))
    return {
        "bool": pa.bool_(),
        "double": pa.float64(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "list<string>": pa.list_(pa.string()),
        "string": pa.string(),
    }[kind]
