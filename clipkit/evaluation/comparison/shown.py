"""Numbers of a comparison as text."""

from __future__ import annotations

import math

from clipkit.evaluation.comparison.content import Change, Estimate


def change_text(change: Change, estimate: Estimate, sign: str = "") -> str:
    """Return an estimate of a change with its interval in brackets, shares in percent.

    Args:
        change: The change, which decides whether the values are shares.
        estimate: One of its three estimates.
        sign: "+" to show the sign of positive values.

    Examples:
        >>> half = Estimate(0.5, (0.4, 0.6))
        >>> change = Change("top1", half, half, half, "mcnemar", 1.0, 1.0, True, 100)
        >>> change_text(change, half, sign="+")
        '+50.0 (+40.0, +60.0)'
    """
    value, ends = estimate_texts(change, estimate, sign)
    return f"{value} ({', '.join(ends)})" if ends else value


def estimate_texts(change: Change, estimate: Estimate, sign: str = "") -> tuple[str, list[str]]:
    """Return the value of an estimate and both ends of its interval, shares in percent.

    Args:
        change: The change, which decides whether the values are shares.
        estimate: One of its three estimates.
        sign: "+" to show the sign of positive values.

    Returns:
        The value, and two ends or none.
    """
    factor, digits = (100, 1) if change.is_share else (1, 2)
    ends = [_number(factor * end, sign, digits) for end in estimate.interval or ()]
    return _number(factor * estimate.value, sign, digits), ends


def p_value_text(p_value: float) -> str:
    """Return a p-value with three digits.

    Examples:
        >>> p_value_text(0.04321), p_value_text(1e-9)
        ('0.043', '< 0.001')
    """
    if math.isnan(p_value):
        return "–"
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _number(value: float, sign: str, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:{sign}.{digits}f}"
