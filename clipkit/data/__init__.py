"""From shards to batches: index, order, reading, decoding, collation, packing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipkit.data.cache import ShardCache as ShardCache
    from clipkit.data.collate import collate as collate
    from clipkit.data.index import ShardIndex as ShardIndex
    from clipkit.data.mixture import Mixture as Mixture
    from clipkit.data.mixture import Source as Source
    from clipkit.data.mixture import Stage as Stage
    from clipkit.data.reader import RawSample as RawSample
    from clipkit.data.reader import ShardReader as ShardReader
    from clipkit.data.stream import PairStream as PairStream

# Name -> module; imported when first asked for, so that `import clipkit.data` stays light.
_EXPORTS = {
    "Mixture": "mixture",
    "PairStream": "stream",
    "RawSample": "reader",
    "ShardCache": "cache",
    "ShardIndex": "index",
    "ShardReader": "reader",
    "Source": "mixture",
    "Stage": "mixture",
    "collate": "collate",
}

__all__ = sorted(_EXPORTS)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return __all__
