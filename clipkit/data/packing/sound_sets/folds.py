"""Sets that are divided into folds: ESC-50 with ESC-10, and UrbanSound8K."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from clipkit.data.packing.sound_sets.clips import (
    Clip,
    SoundSet,
    SplitClips,
    file_in,
    number_in,
    read_table,
    shown_class,
)
from clipkit.errors import DataError

ALL: Final = "all"
_EXCEPT: Final = "except-"
_FOLD: Final = re.compile(r"fold([1-9][0-9]{0,2})")
_ESC10: Final = "esc10"


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the table of a set."""

    file: Path
    fold: int
    number: int
    name: str
    recording: str
    where: str


def folds_of(name: str, existing: Sequence[int], where: str, protocol: str) -> set[int]:
    """Return the folds that the name of a split selects.

    Args:
        name: "all" or "", "fold1", "fold1+fold2", or "except-fold1".
        existing: Folds of the set.
        where: Name of the set in messages.
        protocol: How results of the set are measured, for messages.

    Raises:
        DataError: If it selects none, or a fold that the set does not have.

    Examples:
        >>> folds_of("except-fold2", [1, 2, 3], "ESC-50", "")
        {1, 3}
    """
    if name in ("", ALL):
        return set(existing)
    chosen = [_FOLD.fullmatch(part) for part in name.removeprefix(_EXCEPT).split("+")]
    numbers = {int(match[1]) for match in chosen if match is not None}
    if None in chosen or not numbers <= set(existing):
        raise DataError(
            f"{where}: has no split {name!r}; expected all, {fold_names(existing)}, several joined "
            f"as fold1+fold2, or except-fold1 for all others; {protocol}"
        )
    selected = set(existing) - numbers if name.startswith(_EXCEPT) else numbers
    if not selected:
        raise DataError(f"{where}: the split {name!r} has no fold left of {fold_names(existing)}")
    return selected


def fold_names(folds: Sequence[int]) -> str:
    """List the names of folds for a message."""
    return ", ".join(f"fold{number}" for number in sorted(folds))


@final
class Esc50(SoundSet):
    """ESC-50 (Piczak 2015): 50 classes of 40 clips in 5 folds; ESC-10 are 10 of the classes.

    The classes of ESC-10 are numbered from 0 to 9, in the order of their numbers in ESC-50.
    """

    title, marker = "ESC-50", "meta/esc50.csv"

    def split(self, name: str) -> SplitClips:
        """See ``SoundSet.split``; ``esc10``, ``esc10-fold1`` are those of ESC-10."""
        columns = ("filename", "fold", "target", "category", "esc10", "src_file")
        rows = []
        is_esc10 = name == _ESC10 or name.startswith(f"{_ESC10}-")
        for where, row in read_table(self.table, columns):
            if row["esc10"].lower() not in ("true", "false"):
                raise DataError(f"{where}: esc10: expected True or False, got {row['esc10']!r}")
            if is_esc10 and row["esc10"].lower() == "false":
                continue
            file = file_in(self.root / "audio", row["filename"], where)
            fold, number = (number_in(row, column, where) for column in ("fold", "target"))
            rows.append(_Row(file, fold, number, row["category"], row["src_file"], where))
        protocol = (
            "results are means over 5 runs, each of which measures one fold and trains on the "
            "others; esc10-fold1 and so on are those of ESC-10"
        )
        name = name.removeprefix(_ESC10).removeprefix("-") if is_esc10 else name
        return _clips_of(rows, name, str(self.root), protocol)


@final
class UrbanSound8K(SoundSet):
    """UrbanSound8K (Salamon et al. 2014): 10 classes, 8,732 clips in 10 folds."""

    title, marker = "UrbanSound8K", "metadata/UrbanSound8K.csv"

    def split(self, name: str) -> SplitClips:
        """See ``SoundSet.split``."""
        columns = ("slice_file_name", "fsID", "fold", "classID", "class")
        rows = []
        for where, row in read_table(self.table, columns):
            fold, number = (number_in(row, column, where) for column in ("fold", "classID"))
            file = file_in(self.root / "audio" / f"fold{fold}", row["slice_file_name"], where)
            rows.append(_Row(file, fold, number, row["class"], row["fsID"], where))
        protocol = (
            "results are means over 10 runs, each of which measures one fold and trains on the "
            "others; folds must not be mixed"
        )
        return _clips_of(rows, name, str(self.root), protocol)


def _clips_of(rows: Sequence[_Row], name: str, where: str, protocol: str) -> SplitClips:
    """Return the clips of some folds, with the classes of all folds numbered without gaps."""
    names: dict[int, str] = {}
    for row in rows:
        if names.setdefault(row.number, row.name) != row.name:
            raise DataError(
                f"{row.where}: class {row.number} is {row.name!r}, but {names[row.number]!r} in an "
                f"earlier row"
            )
    if not rows:
        raise DataError(f"{where}: its table has no such clips")
    folds = folds_of(name, sorted({row.fold for row in rows}), where, protocol)
    numbers = {number: place for place, number in enumerate(sorted(names))}
    clips = [
        Clip(row.file, (numbers[row.number],), {"fold": row.fold, "recording": row.recording})
        for row in rows
        if row.fold in folds
    ]
    return SplitClips(clips, tuple(shown_class(names[number]) for number in numbers))
