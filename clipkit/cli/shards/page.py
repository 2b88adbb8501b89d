"""The page of ``clipkit shards stats``: numbers and histograms, in one file without scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

_NUM_BINS: Final = 24
_WIDTH: Final = 640
_HEIGHT: Final = 160
_LABELS_HEIGHT: Final = 18
_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #667085; --bar: #3b6fd8; --back: #fff;
  --card: #f5f7fa; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ebf0; --soft: #98a2b3; --bar: #7aa2f7;
  --back: #12161d; --card: #1b212b; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back);
  max-width: 44rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 0; }
section { background: var(--card); border-radius: 10px; padding: 1rem; margin: 1rem 0; }
dl { display: grid; grid-template-columns: auto 1fr; gap: .2rem 1rem; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; font-variant-numeric: tabular-nums;
  overflow-wrap: anywhere; }
p { color: var(--soft); margin: .2rem 0 .6rem; }
svg { width: 100%; height: auto; } rect { fill: var(--bar); } text { fill: var(--soft);
  font-size: 12px; }
"""


def histogram(values: Sequence[int], num_bins: int = _NUM_BINS) -> list[tuple[int, int, int]]:
    """Equal bins of whole numbers from the smallest to the largest value.

    Returns:
        First value, last value and count of each bin.

    Examples:
        >>> histogram([1, 2, 2, 4], num_bins=2)
        [(1, 2, 3), (3, 4, 1)]
    """
    if not values:
        return []
    low, high = min(values), max(values)
    step = max(1, -(-(high - low + 1) // num_bins))
    counts = [0] * ((high - low) // step + 1)
    for value in values:
        counts[(value - low) // step] += 1
    return [
        (low + number * step, low + (number + 1) * step - 1, count)
        for number, count in enumerate(counts)
    ]


def render_page(summary: Mapping[str, Any], charts: Mapping[str, Sequence[int]]) -> str:
    """The whole page.

    Args:
        summary: Name and value of each number.
        charts: Title and values of each histogram.
    """
    rows = "".join(
        f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(_shown(value))}</dd>"
        for name, value in summary.items()
    )
    sections = "".join(_section(title, values) for title, values in charts.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Shards</title><style>{_STYLE}</style></head><body><h1>Shards</h1>"
        f"<section><dl>{rows}</dl></section>{sections}</body></html>\n"
    )


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_shown(item)}" for key, item in value.items()) or "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _section(title: str, values: Sequence[int]) -> str:
    if not values:
        return f"<section><h2>{escape(title)}</h2><p>none</p></section>"
    middle = sorted(values)[len(values) // 2]
    return (
        f"<section><h2>{escape(title)}</h2>"
        f"<p>{len(values):,} values from {min(values):,} to {max(values):,}, median {middle:,}</p>"
        f"{_svg(title, histogram(values))}</section>"
    )


def _svg(title: str, bins: Sequence[tuple[int, int, int]]) -> str:
    highest = max(count for _, _, count in bins)
    width = _WIDTH / len(bins)
    bars = []
    for number, (first, last, count) in enumerate(bins):
        height = _HEIGHT * count / highest
        span = f"{first:,}" if first == last else f"{first:,} to {last:,}"
        bars.append(
            f'<rect x="{number * width + 1:.1f}" y="{_HEIGHT - height:.1f}" '
            f'width="{max(1.0, width - 2):.1f}" height="{height:.1f}">'
            f"<title>{span}: {count:,}</title></rect>"
        )
    bottom = _HEIGHT + _LABELS_HEIGHT - 4
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + _LABELS_HEIGHT}" role="img" '
        f'aria-label="{escape(title, quote=True)}">{"".join(bars)}'
        f'<text x="1" y="{bottom}">{bins[0][0]:,}</text>'
        f'<text x="{_WIDTH - 1}" y="{bottom}" text-anchor="end">{bins[-1][1]:,}</text></svg>'
    )
