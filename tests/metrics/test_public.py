"""Names of `clipkit.metrics` are imported when they are asked for."""

from __future__ import annotations

import clipkit.metrics


def test_every_name_is_found():
    for name in clipkit.metrics.__all__:
        assert getattr(clipkit.metrics, name).__name__ == name
