"""A comparison as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from clipkit.evaluation.comparison.content import Change, Comparison


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison in types that JSON has; values that are not defined are None.

    Args:
        comparison: What ``compare_records`` returns.

    Examples:
        >>> sorted(comparison_json(Comparison(())))
        ['confidence', 'left_out', 'pairs', 'replicates', 'seed']
    """
    pairs = [
        asdict(pair)
        | {name: [_change(c) for c in getattr(pair, name)] for name in ("metrics", "classes")}
        for pair in comparison.pairs
    ]
    content = {**asdict(comparison.resampling), "pairs": pairs, "left_out": comparison.left_out}
    defined: dict[str, Any] = _without_nan(content)
    return defined


def _change(change: Change) -> dict[str, Any]:
    return asdict(change) | {"verdict": change.verdict}


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(content) for name, content in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(content) for content in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
