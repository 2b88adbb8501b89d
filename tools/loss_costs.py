"""Bytes sent and held by a rank in one step of the contrastive loss, by formula, as Markdown.

Nothing is measured here: the formulas count what the code sends and keeps. Ring algorithms are
assumed, in which an all-gather or a reduce-scatter of N rows sends N - b of them, and an all-reduce
twice that::

    python tools/loss_costs.py --ranks 8 64 1024 --pairs 1024 --width 512
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

FLOAT = 4


@dataclass(frozen=True)
class Step:
    """One step.

    Args:
        ranks: Processes.
        pairs: Pairs of each.
        width: Components of an embedding.
        tile: Width of a tile of clipkit's loss.
    """

    ranks: int
    pairs: int
    width: int
    tile: int

    @property
    def total(self) -> int:
        """Pairs of all ranks."""
        return self.ranks * self.pairs

    @property
    def others(self) -> int:
        """Pairs of all other ranks."""
        return self.total - self.pairs


def clipkit_sent(step: Step) -> int:
    """Captions out, their gradients back; column sums as an all-reduced maximum and sum."""
    return FLOAT * (2 * step.others * step.width + 4 * step.others)


def clipkit_held(step: Step) -> int:
    """All captions and their gradient, own rows three times, vectors, three buffers of a tile."""
    rows = 2 * step.total + 3 * step.pairs
    tile = 3 * min(step.tile, step.pairs) * min(step.tile, step.total)
    return FLOAT * (rows * step.width + 4 * step.total + tile)


def open_clip_sent(step: Step) -> int:
    """Both towers out, both gradients back."""
    return FLOAT * 4 * step.others * step.width


def open_clip_held(step: Step) -> int:
    """Both towers and their gradients, two matrices of logits and two of log-probabilities."""
    return FLOAT * (4 * step.total * step.width + 4 * step.pairs * step.total)


def shown(size: float) -> str:
    """Bytes in a unit that suits them."""
    return f"{size / 2**20:,.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"


def table(ranks: list[int], pairs: int, width: int, tile: int) -> str:
    """One row a number of ranks."""
    rows = [
        "| ranks | batch | clipkit sends | open_clip sends | clipkit holds | open_clip holds |",
        "|---|---|---|---|---|---|",
    ]
    for number in ranks:
        step = Step(number, pairs, width, tile)
        counts = (clipkit_sent, open_clip_sent, clipkit_held, open_clip_held)
        cells = [f"{number:,}", f"{step.total:,}", *(shown(count(step)) for count in counts)]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    ranks = [8, 16, 32, 64, 128, 256, 512, 1024]
    parser.add_argument("--ranks", type=int, nargs="+", default=ranks)
    parser.add_argument("--pairs", type=int, default=1024, help="pairs of a rank")
    parser.add_argument("--width", type=int, default=512, help="components of an embedding")
    parser.add_argument("--tile", type=int, default=4096, help="tile of a GPU")
    options = parser.parse_args()
    print(table(options.ranks, options.pairs, options.width, options.tile))


if __name__ == "__main__":
    main()
