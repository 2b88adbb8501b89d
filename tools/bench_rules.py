"""The rule of ``bench_filter.py``, a function of a user's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def keep(row: Mapping[str, Any]) -> bool:
    """Keep large images with a high score."""
    return bool(row["score"] > 0.2 and min(row["width_pixels"], row["height_pixels"]) > 200)
