"""The files of a demo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class DemoFiles:
    """Paths of the files of a demo.

    Args:
        root: Folder of the demo.
    """

    root: Path

    @property
    def data(self) -> Path:
        """Shards to train and evaluate on."""
        return self.root / "data"

    @property
    def overlay(self) -> Path:
        """Options of the run; the file also marks the folder as that of a demo."""
        return self.root / "demo.yaml"

    @property
    def checkpoint(self) -> Path:
        """Checkpoint of the trained model."""
        return self.root / "last.ckpt"

    @property
    def history(self) -> Path:
        """Logged values, one row per step."""
        return self.root / "metrics.csv"

    @property
    def metrics(self) -> Path:
        """The metrics, in one flat mapping."""
        return self.root / "metrics.json"

    @property
    def report(self) -> Path:
        """Page of the results."""
        return self.root / "report.html"
