"""The files of a demo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class DemoFiles:
    """What a demo leaves in its folder.

    Args:
        root: The folder.
    """

    root: Path

    @property
    def data(self) -> Path:
        """Shards to train and evaluate on."""
        return self.root / "data"

    @property
    def overlay(self) -> Path:
        """Options of the run; the file also marks the folder as one of a demo."""
        return self.root / "demo.yaml"

    @property
    def checkpoint(self) -> Path:
        """The trained model."""
        return self.root / "last.ckpt"

    @property
    def history(self) -> Path:
        """What was logged, a row a step."""
        return self.root / "metrics.csv"

    @property
    def metrics(self) -> Path:
        """The figures, flat."""
        return self.root / "metrics.json"

    @property
    def report(self) -> Path:
        """The page."""
        return self.root / "report.html"
