"""Pictures and captions as they lie around, packed into WebDataset shards."""

from __future__ import annotations

from clipkit.data.packing_writer import ShardWriter

__all__ = ["ShardWriter"]
