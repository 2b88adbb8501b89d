"""Texts next to evaluation data: names of classes, templates, and what the data were made for."""

from __future__ import annotations

from typing import Final, NamedTuple

from clipkit.addresses import local_path
from clipkit.class_names import parse_class_names
from clipkit.data.packing.hub import hub_address
from clipkit.data.packing.sources import CLASS_NAMES_FILE
from clipkit.data.storage.cache import read_small_file
from clipkit.data.storage.urls import UNION, parse_address
from clipkit.errors import DataError
from clipkit.templates import check_templates

TYPE_FILE: Final = "dataset_type.txt"
_TEMPLATES: Final = "zeroshot_classification_templates.txt"
TASK_OF_TYPE: Final = {
    "retrieval": "retrieval",
    "classification": "zero-shot",
    "image_caption_selection": "pair-choice",
    "multilabel": "zero-shot-multi-label",
}
"""Task of each type in ``TYPE_FILE``."""


class Description(NamedTuple):
    """What the texts next to the data say of them."""

    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    task: str


def describe(address: str) -> Description:
    """Return class names, templates and task from the text files next to the data."""
    if UNION in address:
        return Description((), (), TASK_OF_TYPE["classification"])
    folder = address.rpartition("/")[0] if address.endswith(".tar") else address
    kind = (read_text(f"{folder}/{TYPE_FILE}") or "classification").strip().lower()
    if kind not in TASK_OF_TYPE:
        raise DataError(
            f"{folder}/{TYPE_FILE}: expected one of {', '.join(TASK_OF_TYPE)}, got {kind!r}"
        )
    names = parse_class_names(read_text(f"{folder}/{CLASS_NAMES_FILE}") or "")
    templates = _templates_in(read_text(f"{folder}/{_TEMPLATES}") or "", f"{folder}/{_TEMPLATES}")
    return Description(names, templates, TASK_OF_TYPE[kind])


def texts_near(raw: str, address: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the classes and templates in the text files next to a table or folder, or above it.

    A table or folder that lacks a class would otherwise number the others without it.
    """
    if hub_address(raw):
        return (), ()
    path = local_path(raw)
    folders = [path] if path.is_dir() else []
    folders += [path.parent] if path.is_file() or raw != address else []
    names, templates = (
        next(filter(None, (read_text(f"{folder}/{file}") for folder in folders)), "")
        for file in (CLASS_NAMES_FILE, _TEMPLATES)
    )
    return parse_class_names(names), _templates_in(templates, f"{address}/{_TEMPLATES}")


def _templates_in(text: str, where: str) -> tuple[str, ...]:
    templates = tuple(filter(None, parse_class_names(text)))
    if templates:
        check_templates(templates, where)
    return templates


def read_text(url: str) -> str | None:
    """Return the text of a small file, or None if there is no such file."""
    data = read_small_file(parse_address(url))
    try:
        return None if data is None else data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{url}: not UTF-8: {error.reason}") from error
