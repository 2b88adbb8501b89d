"""What images lose as squares, and what they pad with at their own shape.

    python tools/bench_shapes.py photos --output shapes.json

Sizes are read from the headers of all JPEG, PNG and WebP files in a folder. Batches are those of
clipkit's order, without crops. Prints and writes JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from bench_lengths import epoch_of
from jaxtyping import Int64
from PIL import Image, ImageOps

from clipkit.patches import TokenBudget

PATCH_SIZE = 16
BUDGETS = (
    TokenBudget(PATCH_SIZE, 196),
    TokenBudget(PATCH_SIZE, 256),
    TokenBudget(PATCH_SIZE, 1024, enlarge=False),
)
BATCHES = (16, 64, 256)
WINDOWS = (None, 4, 8)
"""``data.order.length_bucket_batches`` of images that are not enlarged."""
EPOCHS = 20


def sizes_of(folder: Path) -> list[tuple[int, int]]:
    """Widths and heights of upright images."""
    files = (
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")
    )
    return [ImageOps.exif_transpose(Image.open(path)).size for path in files]


def as_squares(sizes: list[tuple[int, int]]) -> dict[str, float]:
    """Shares of pixels, and the factor by which shapes change."""
    narrow = np.array([min(size) / max(size) for size in sizes])
    return {
        "cropped_away_by_shortest": float(1 - narrow.mean()),
        "padding_by_longest": float(1 - narrow.mean()),
        "stretched_by_squash": float((1 / narrow).mean()),
        "stretched_by_squash_most": float((1 / narrow).max()),
    }


def at_own_shape(sizes: list[tuple[int, int]], budget: TokenBudget) -> dict[str, float]:
    """Use of the budget, padding of batches, and the factor by which shapes change."""
    grids = [budget.grid(*size) for size in sizes]
    tokens = np.array([rows * columns for rows, columns in grids])
    stretched = [
        (columns / rows) / (width / height)
        for (rows, columns), (width, height) in zip(grids, sizes, strict=True)
    ]
    factors = np.exp(np.abs(np.log(stretched)))
    figures = {
        "shapes": float(len(set(grids))),
        "tokens": float(tokens.mean()),
        "stretched": float(factors.mean()),
        "stretched_most": float(factors.max()),
    }
    for batch_size in BATCHES:
        for window in WINDOWS[:1] if budget.enlarge else WINDOWS:
            if len(tokens) >= batch_size * (window or 1):
                name = f"padding_in_batches_of_{batch_size}_windows_of_{window}"
                figures[name] = padding(tokens, batch_size, window)
    return figures


def padding(tokens: Int64[np.ndarray, " N"], batch_size: int, window: int | None) -> float:
    """Share of padding over some epochs in clipkit's order."""
    used = computed = 0
    for seed in range(EPOCHS):
        for batch in epoch_of(tokens, batch_size, window, seed):
            used += int(batch.sum())
            computed += int(batch.max()) * len(batch)
    return 1 - used / computed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of images, searched with its folders")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    sizes = sizes_of(args.folder)
    figures = {"images": len(sizes), "squares": as_squares(sizes)}
    for budget in BUDGETS:
        kind = "enlarged" if budget.enlarge else "not enlarged"
        figures[f"{budget.max_tokens} patches, {kind}"] = at_own_shape(sizes, budget)
    text = json.dumps(figures, indent=2)
    print(text)
    if args.output:
        args.output.write_text(text)


if __name__ == "__main__":
    main()
