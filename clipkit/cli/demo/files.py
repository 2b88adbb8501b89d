"""The files of a demo."""

from __future__ import annotations

from pathlib import Path
from typing import final


@final
class DemoFiles:
    """Paths of the files of a demo in its folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = root / "data"  # shards to train and evaluate on
        self.overlay = root / "demo.yaml"  # options of the run; marks the folder as a demo's
        self.checkpoint = root / "last.ckpt"  # the trained model
        self.history = root / "metrics.csv"  # logged values, one row per step
        self.metrics = root / "metrics.json"  # the metrics, in one flat mapping
        self.report = root / "report.html"  # page of the results
