"""FAISS, which an extra installs."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from clipkit.errors import ConfigError


def faiss_library() -> ModuleType:
    """Return FAISS.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise ConfigError(
            "an index for search needs faiss-cpu, which is not installed; "
            "pip install 'clipkit[search]'"
        ) from error
    module: ModuleType = faiss
    return module


def lists_of(index: Any) -> Any | None:
    """Return the part of an index with inverted lists (IVF); None if it has none."""
    return faiss_library().try_extract_index_ivf(index)


def first_reason(error: Exception) -> str:
    """Return the message of an error of FAISS without the place in its source.

    Examples:
        >>> first_reason(RuntimeError("Error in f(int) at /src/a.cpp:12: Error: 'x' failed: no"))
        "Error: 'x' failed: no"
    """
    text = " ".join(str(error).split())
    _, marker, reason = text.partition(": Error: ")
    return f"Error: {reason}" if marker else text
