"""FSD50K, in which a sound has several classes."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Final, final

from clipkit.data.packing.sound_sets.clips import (
    Clip,
    SoundSet,
    SplitClips,
    file_in,
    read_table,
    shown_class,
)
from clipkit.errors import DataError

_FOLDER: Final = "FSD50K.ground_truth"
_PARTS: Final = {"train": "dev", "val": "dev", "dev": "dev", "eval": "eval"}
"""Table of each split; a row of the first table says whether it is of "train" or "val"."""


@final
class Fsd50k(SoundSet):
    """FSD50K (Fonseca et al. 2022): 200 classes, several per sound, 51,197 clips."""

    title, marker = "FSD50K", f"{_FOLDER}/vocabulary.csv"

    def split(self, name: str) -> SplitClips:
        """See ``SoundSet.split``: "train", "val", both as "dev", or "eval"."""
        if name and name not in _PARTS:
            raise DataError(
                f"{self.root}: has no split {name!r}; expected {', '.join(_PARTS)}; results are "
                f"mean average precisions on eval, after training on train"
            )
        numbers = self._vocabulary()
        parts = [_PARTS[name]] if name else ["dev", "eval"]
        clips = [
            clip
            for part in parts
            for of, clip in self._clips(part, numbers)
            if name in ("", part, of)
        ]
        if not clips:
            raise DataError(f"{self.root}: its tables have no clips of the split {name!r}")
        return SplitClips(clips, tuple(shown_class(label) for label in numbers), several=True)

    def _vocabulary(self) -> dict[str, int]:
        """Return the number of each label; the file has no line with names of columns."""
        try:
            with self.table.open(encoding="utf-8-sig", newline="") as file:
                rows = [row for row in csv.reader(file) if row]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{self.table}: cannot be read: {error}") from error
        for at, row in enumerate(rows):
            if len(row) < 2 or row[0] != str(at) or not row[1]:
                raise DataError(
                    f"{self.table}: line {at + 1}: expected {at}, a label and its id in AudioSet, "
                    f"got {','.join(row)[:60]!r}"
                )
        numbers = {row[1]: number for number, row in enumerate(rows)}
        if len(numbers) < len(rows):
            raise DataError(f"{self.table}: expected each label once, got one several times")
        return numbers

    def _clips(self, part: str, numbers: dict[str, int]) -> Iterator[tuple[str, Clip]]:
        """Yield the clips of a table with their split."""
        table, folder = self.root / _FOLDER / f"{part}.csv", self.root / f"FSD50K.{part}_audio"
        columns = ("fname", "labels", "split") if part == "dev" else ("fname", "labels")
        for where, row in read_table(table, columns):
            split = row.get("split", part)
            if _PARTS.get(split) != part:
                raise DataError(f"{where}: split: expected train or val, got {split!r}")
            labels = row["labels"].split(",")
            if unknown := [label for label in labels if label not in numbers]:
                raise DataError(
                    f"{where}: the label {unknown[0]!r} is not in {self.table}, which has "
                    f"{len(numbers)} labels"
                )
            classes = tuple(sorted({numbers[label] for label in labels}))
            yield split, Clip(_sound(folder, row["fname"], where), classes, {"split": split})


def _sound(folder: Path, name: str, where: str) -> Path:
    """Return the file of a clip, whose name the table has without its suffix."""
    return file_in(folder, f"{name.removesuffix('.wav')}.wav", where)
