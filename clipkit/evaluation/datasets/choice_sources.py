"""Open data of pair choice.

Read are

- CLIP_benchmark's WebDataset layout: one image, and in its ``.txt`` the right caption, then the
  wrong ones, one per line (what its export writes for SugarCrepe); or the wrong ones in the field
  ``negative_captions`` of its ``.json`` (what ``clipkit evaluate build`` writes);
- SugarCrepe's own files, as CLIP_benchmark reads them: ``add_att.json`` next to ``val2017``;
- tables: the columns of Winoground, SugarCrepe, ARO and ImageCoDe on the Hugging Face Hub, or the
  columns that the user names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, final

from clipkit.addresses import is_local, local_path
from clipkit.data.packing.hub import download_parquet, hub_address
from clipkit.data.packing.packed_cache import is_raw
from clipkit.data.packing.roots import refuse_outside
from clipkit.data.packing.sources import tables_in
from clipkit.data.packing.tables.parts import is_pattern, matches_of, open_parts, parts_of
from clipkit.data.packing.tables.row_files import TableRows
from clipkit.data.shards.members import read_value
from clipkit.data.text.captions import Candidate, CaptionPicker, JsonFields, TextField
from clipkit.errors import DataError
from clipkit.evaluation.datasets.choices import ChoiceData, ChoiceRow, ShardChoices, TableChoices
from clipkit.evaluation.datasets.opening import open_dataset
from clipkit.suggestions import did_you_mean


@dataclass(frozen=True)
class ChoiceColumns:
    """Columns of a table of pair choices.

    Args:
        images: Columns with images. The first belongs to the first text, and so on.
        texts: Columns with texts. A column may hold a list: the texts that are not the first one
            are then wrong.
        category: Column with the kind of an instance, such as the relation; None if there is none.

    Examples:
        >>> ChoiceColumns(images=["photo"], texts=["right", "wrong"]).texts
        ['right', 'wrong']
    """

    images: Sequence[str]
    texts: Sequence[str]
    category: str | None = None


SUGAR_CREPE_IMAGES: Final = "val2017"
"""Folder of the images of SugarCrepe, next to its files."""
_NEGATIVES: Final = "negative_captions"
_HARD_TEXTS: Final = tuple(f"hard_text_{n}" for n in range(1, 5))
_FALSE_IMAGES: Final = tuple(f"false_image_{n}" for n in range(1, 10))
FORMS: Final = {
    "Winoground": ChoiceColumns(
        ("image_0", "image_1"), ("caption_0", "caption_1"), "collapsed_tag"
    ),
    "SugarCrepe": ChoiceColumns(("image",), ("caption", "negative_caption")),
    "SugarCrepe, lists": ChoiceColumns(("image",), ("true_label", "tested_labels")),
    "ARO": ChoiceColumns(("image",), ("true_caption", "false_caption"), "relation_name"),
    "ARO, order": ChoiceColumns(("image",), ("correct_caption", *_HARD_TEXTS)),
    "ImageCoDe": ChoiceColumns(("correct_image", *_FALSE_IMAGES), ("text",)),
}
"""Columns that are recognised, by the data set that has them."""
_OTHER_SPELLINGS: Final = {"image": ("images", "filename", "image_path", "file_name")}


def open_choices(
    source: str | Path,
    split: str = "test",
    columns: ChoiceColumns | None = None,
    allow_outside: bool = False,
) -> ChoiceData:
    """Open instances of pair choice.

    Args:
        source: Folder or URL in CLIP_benchmark's layout; a table (CSV, TSV, Parquet, or a folder or
            pattern of Parquet files); a file of SugarCrepe; or
            ``hf://datasets/OWNER/NAME/CONFIG/SPLIT``.
        split: Folder inside ``source``, in CLIP_benchmark's layout.
        columns: Columns of a table; None, or columns without images, to recognise them by their
            names. For shards, only its category is used, as a field of the JSON member.
        allow_outside: Whether images may be outside of the folder of the table.

    Raises:
        DataError: If the columns are not recognised, or an instance has no choice.

    Examples:
        >>> len(open_choices("photos/choices.csv"))
        4
    """
    if (address := hub_address(source)) is not None:
        files, versions = download_parquet(address)
        return _of_table(open_parts(files, versions), files[0].parent, columns, allow_outside)
    if (path := _table_path(str(source), split)) is not None:
        if path.suffix.lower() == ".json":
            return _of_sugar_crepe(path, allow_outside)
        parts = [path] if path.is_file() else matches_of(path)
        return _of_table(open_parts(parts), path.parent, columns, allow_outside)
    field = None if columns is None or columns.category is None else f"json:{columns.category}"
    data = open_dataset(source, split, caption=RightThenWrong(), allow_outside=allow_outside)
    return ShardChoices(data, field)


@final
class RightThenWrong(CaptionPicker):
    """The right caption of a sample, then the wrong ones.

    These are the first caption and the field ``negative_captions`` of the JSON member; without that
    field, the lines of the text.
    """

    source = "member 'txt'"

    def candidates(self, members: Mapping[str, bytes]) -> list[Candidate]:
        """See `CaptionPicker.candidates`."""
        lines = TextField(one_per_line=True).candidates(members)
        if read_value(members, f"json:{_NEGATIVES}") is None:
            return lines
        return [*lines[:1], *JsonFields({_NEGATIVES: 1.0}).candidates(members)]


def _table_path(source: str, split: str) -> Path | None:
    """Return the table that a source names, if it names one."""
    if not is_local(source):
        return None
    for path in (local_path(source) / split, local_path(source)):
        if is_pattern(path) or (path.is_file() and path.suffix.lower() != ".tar"):
            return path
        if path.is_dir() and is_raw(str(path)) and (tables := parts_of(tables_in(path))):
            return tables[0] if len(tables) == 1 else path / f"*{tables[0].suffix}"
    return None


def _of_table(
    parts: Sequence[TableRows], root: Path, columns: ChoiceColumns | None, allow_outside: bool
) -> TableChoices:
    where = parts[0].where
    used = _columns(where, parts[0].columns, columns)
    rows: list[ChoiceRow] = []
    for part in parts:
        for at, row in enumerate(part.rows(used.images)):
            images = [_image(part, name, row[name], root, at) for name in used.images]
            texts = _texts(where, at, row, used)
            category = None if used.category is None else str(row[used.category])
            key = str(row["id"]) if row.get("id") is not None else f"row{len(rows) + 1}"
            rows.append(ChoiceRow(key, texts, tuple(images), category))
    choices = TableChoices(Path(where).name, rows, len(used.images))
    return _checked(choices, rows, root, where, allow_outside)


def _checked(
    choices: TableChoices,
    rows: Sequence[ChoiceRow],
    root: Path,
    where: str | Path,
    allow_outside: bool,
) -> TableChoices:
    """Return the choices if there are any, and their files are inside the folder."""
    if not rows:
        raise DataError(f"{where}: no samples found")
    if not allow_outside:
        files = (image for row in rows for image in row.images if isinstance(image, Path))
        refuse_outside(files, root, where)
    return choices


def _image(
    part: TableRows, column: str, cell: Any, root: Path, at: int
) -> Path | tuple[TableRows, str, int]:
    if isinstance(cell, dict):
        return part, column, int(cell["row"])
    if not cell or not isinstance(cell, str):
        raise DataError(f"{part.where}: row {at + 1} has no image in column {column}")
    return root / cell


def _texts(where: str, at: int, row: Mapping[str, Any], used: ChoiceColumns) -> tuple[str, ...]:
    texts: list[str] = []
    for name in used.texts:
        cell = row[name]
        listed = [t for t in cell if t not in texts] if isinstance(cell, list) else [cell]
        texts += [text for text in listed if isinstance(text, str) and text.strip()]
    if len(texts) < len(used.texts) or len(used.images) * len(texts) < 2:
        raise DataError(
            f"{where}: row {at + 1}: expected texts in {', '.join(used.texts)}, the right one and "
            f"at least one other; got {texts}"
        )
    return tuple(texts)


def _columns(where: str, names: Sequence[str], columns: ChoiceColumns | None) -> ChoiceColumns:
    """Return the columns that the user named, with those of a known form for the others."""
    used = columns if columns is not None and columns.images else _form_of(where, names)
    if columns is not None and columns.category is not None:
        used = replace(used, category=columns.category)
    for name in filter(None, (*used.images, *used.texts, used.category)):
        if name not in names:
            raise DataError(
                f"{where}: no column {name!r}{did_you_mean(name, names)}; got columns "
                f"{', '.join(names)}"
            )
    return used


def _form_of(where: str, names: Sequence[str]) -> ChoiceColumns:
    for form in FORMS.values():
        images = [spelt for name in form.images if (spelt := _spelt(name, names)) is not None]
        if len(images) == len(form.images) and all(name in names for name in form.texts):
            return ChoiceColumns(
                images, form.texts, form.category if form.category in names else None
            )
    known = "; ".join(f"{name}: {', '.join((*f.images, *f.texts))}" for name, f in FORMS.items())
    raise DataError(
        f"{where}: expected the columns of a data set of pair choices ({known}); got "
        f"{', '.join(names)}; name others with --choice-images and --choice-texts"
    )


def _spelt(name: str, names: Sequence[str]) -> str | None:
    spellings = (name, *_OTHER_SPELLINGS.get(name, ()))
    return next((spelling for spelling in spellings if spelling in names), None)


def _of_sugar_crepe(path: Path, allow_outside: bool) -> TableChoices:
    """Read ``{"0": {"filename", "caption", "negative_caption"}, ...}``."""
    folders = [path.parent / SUGAR_CREPE_IMAGES, path.parent]
    root = next((folder for folder in folders if folder.is_dir()), path.parent)
    rows = []
    try:
        for key, entry in json.loads(path.read_text(encoding="utf-8")).items():
            texts = (str(entry["caption"]), str(entry["negative_caption"]))
            rows.append(ChoiceRow(key, texts, (root / entry["filename"],), None))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path}: expected a file of SugarCrepe: filename, caption and negative_caption by the "
            f"number of the instance; got {error!r}"
        ) from error
    return _checked(TableChoices(path.stem, rows, 1), rows, root, path, allow_outside)
