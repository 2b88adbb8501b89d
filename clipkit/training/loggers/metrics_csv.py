"""Log the history of a run in one CSV table, which a resumed run continues."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, final

import yaml
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers.logger import Logger

from clipkit.atomic_files import new_file, write_text

_LOG: Final = logging.getLogger(__name__)


@final
class MetricsCsv(Logger):
    """Writes ``metrics.csv``, a row for each step with logged values, and ``environment.yaml``.

    Rows are written immediately. Lightning's ``CSVLogger`` deletes the file of an earlier run in
    the same folder; this logger deletes only the rows from the first step of the run on, so that
    the history of a resumed run is complete. Rows that a full disk refuses are kept and written
    before the next one; they do not end the run.

    Args:
        save_dir: Folder of the file; "auto" in a configuration for the folder of the run.

    Examples:
        >>> trainer = Trainer(logger=MetricsCsv("runs/first"))
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self._path = Path(save_dir) / "metrics.csv"
        self._columns: list[str] = []
        self._begun = False
        self._environment: Mapping[str, Any] | None = None
        self._waiting: list[dict[str, float]] = []

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

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
        """Folder of the file."""
        return str(self._path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any]) -> None:  # type: ignore[override]
        """Take the environment, which is written with the first row.

        ``clipkit fit`` writes the configuration to ``config.yaml``, in the same folder.

        Args:
            params: Options by name; only ``environment`` is used.
        """
        self._environment = params.get("environment")

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a row.

        Args:
            metrics: Values by name; a new name adds a column.
            step: Step of the values; None for the next one.
        """
        number = 0 if step is None else step
        was_refused = bool(self._waiting)
        self._waiting.append({"step": number, **{n: float(v) for n, v in metrics.items()}})
        try:
            self._write_waiting()
        except OSError as error:
            if not was_refused:
                _LOG.error("%s: not written: %s; tried again later", self._path, error.strerror)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Try a last time, and report rows that are lost."""
        try:
            self._write_waiting()
        except OSError as error:
            _LOG.error(
                "%s: the last %d rows are missing: %s",
                self._path, len(self._waiting), error.strerror,
            )  # fmt: skip

    def _write_waiting(self) -> None:
        while self._waiting:
            if not self._begun:
                self._begin(int(self._waiting[0]["step"]))
            self._add(self._waiting[0])
            del self._waiting[0]

    def _add(self, row: Mapping[str, float]) -> None:
        if new := [name for name in row if name not in self._columns]:
            self._rewrite([*self._columns, *new], self._read())
        size = self._path.stat().st_size
        try:
            with self._path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(row)
        except OSError:
            os.truncate(self._path, size)  # no incomplete row before the next one
            raise

    def _begin(self, step: int) -> None:
        """Keep the rows before ``step`` of an earlier launch of this run."""
        rows = [row for row in self._read() if int(row["step"] or 0) < step]
        self._rewrite(list(rows[0]) if rows else ["step"], rows)
        if self._environment is not None:
            text = yaml.safe_dump(self._environment, sort_keys=False)
            write_text(self._path.with_name("environment.yaml"), text)
        self._begun = True

    def _read(self) -> list[dict[str, str]]:
        if not self._path.exists():
            return []
        with self._path.open(newline="", encoding="utf-8") as file:
            # An incomplete row of a killed run is shorter than the header.
            return [row for row in csv.DictReader(file) if None not in row.values()]

    def _rewrite(self, columns: list[str], rows: list[dict[str, str]]) -> None:
        with (
            new_file(self._path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        self._columns = columns
