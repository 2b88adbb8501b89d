"""Whether a smaller value of a metric is better, by its name."""

from __future__ import annotations

import re
from typing import Final

_LOWER: Final = re.compile(
    r"(^|/)group_gap/|(^|[/_.-])(loss|error|errors|perplexity|ece|calibration_error|brier|nll|rank"
    r"|gap|wait|wait_share|seconds_per_query|contrastive|sigmoid|distillation)"
    r"([/_](step|epoch|weighted|calibrated))?$"
)


def lower_is_better(metric: str) -> bool:
    """Return whether a smaller value of a metric is better.

    Args:
        metric: Key of a metric or name of a logged value; its last part counts.

    Examples:
        >>> [lower_is_better(name) for name in ("val/loss", "text_to_image/median_rank", "top1")]
        [True, True, False]
    """
    return _LOWER.search(metric) is not None
