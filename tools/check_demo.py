"""Check what a demo left in its folder: all files there, figures above a floor.

Usage: python tools/check_demo.py runs/demo [--min-recall-at-10 0.2]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

FILES = ("metrics.json", "last.ckpt", "report.html")
WAYS = ("image_to_text", "text_to_image")


def problems(folder: Path, min_recall_at_10: float) -> list[str]:
    """What is wrong with a demo's folder, a line each."""
    found = [f"{folder / name}: missing" for name in FILES if not (folder / name).is_file()]
    if found:
        return found
    figures = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    for way in WAYS:
        key = f"unseen_drawings/{way}/recall_at_10"
        value = figures.get(key)
        if value is None or value < min_recall_at_10:
            found.append(f"{key}: expected at least {min_recall_at_10}, got {value}")
    return found


def main() -> int:
    """Print what is wrong; exit status 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--min-recall-at-10", type=float, default=0.2)
    args = parser.parse_args()
    found = problems(args.folder, args.min_recall_at_10)
    for line in found:
        print(f"check_demo: {line}", file=sys.stderr)
    if not found:
        print(f"check_demo: {args.folder} is complete and above its floors")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
