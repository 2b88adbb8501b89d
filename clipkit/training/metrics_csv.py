"""The history of a run as one CSV table, which a resumed run goes on with."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers.logger import Logger


@final
class MetricsCsv(Logger):
    """Writes ``metrics.csv``: a row for each step that something was logged at.

    Rows are on the disk at once. Lightning's ``CSVLogger`` deletes the file of an earlier run in
    the same folder; this one drops only the rows from the step on that the run starts with, so a
    resumed run has one unbroken history.

    Args:
        save_dir: Folder of the file; "auto", in a configuration, is the run's folder.

    Example:
        >>> trainer = Trainer(logger=MetricsCsv("runs/first"))
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self._path = Path(save_dir) / "metrics.csv"
        self._columns: list[str] = []
        self._begun = False

    @property
    def name(self) -> str:
        """Fixed; Lightning wants one."""
        return "metrics"

    @property
    def version(self) -> str:
        """Fixed; Lightning wants one."""
        return ""

    @property
    def save_dir(self) -> str:
        """The folder of the file."""
        return str(self._path.parent)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the resolved configuration lies beside the table."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a row.

        Args:
            metrics: Values by name; a new name makes a new column.
            step: The step that they belong to.
        """
        number = 0 if step is None else step
        if not self._begun:
            self._begin(number)
        row = {"step": number, **{name: float(value) for name, value in metrics.items()}}
        new = [name for name in row if name not in self._columns]
        if new:
            rows = self._read()
            self._columns += new
            self._rewrite(rows)
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    def _begin(self, step: int) -> None:
        """Take over the rows before ``step`` of an earlier start of this run."""
        self._begun = True
        rows = [row for row in self._read() if int(row["step"] or 0) < step]
        self._columns = list(rows[0]) if rows else ["step"]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._rewrite(rows)

    def _read(self) -> list[dict[str, str]]:
        if not self._path.exists():
            return []
        with self._path.open(newline="", encoding="utf-8") as file:
            # A row that a killed run left half is shorter than the header.
            return [row for row in csv.DictReader(file) if None not in row.values()]

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        beside = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        with beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        beside.replace(self._path)
