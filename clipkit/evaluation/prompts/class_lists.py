"""Class names of data: their own, a list by name, a file, or ImageNet's for WordNet ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from clipkit.errors import ConfigError, DataError
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.prompts.prompt_files import read_entry, text_list
from clipkit.evaluation.prompts.wnids import IMAGENET, are_wnids, imagenet_names, names_of_wnids

_OPTION: Final = "class_names"


def resolve_class_names(
    given: str | Sequence[str] | None, data: EvaluationDataset
) -> tuple[str, ...]:
    """Return the name of each class of a data set, in the order of its class numbers.

    WordNet ids, such as the folders of ImageNet-100, -A or -R, become ImageNet's names. If classes
    are called by numbers, such as the folders of ImageNet-V2, these are their numbers in a list.

    Args:
        given: "imagenet" for open_clip's names of ImageNet's classes; or a file with one name per
            line, a JSON or YAML list of names, a mapping by data set as CLIP_benchmark's, or a
            mapping from the data's classes to names; or the names; None for those of the data.
        data: The data set.

    Returns:
        The names; empty for a number without a name.

    Raises:
        ConfigError: If a list is unknown or a file cannot be read.
        DataError: If the names cannot be those of the data: another number of names, or a class of
            the data has another number in the list.

    Examples:
        >>> resolve_class_names(["scarlet", "lime", "navy", "gold"], open_dataset("data/val"))[0]
        'scarlet'
    """
    own = data.class_names
    if given in (None, IMAGENET) and are_wnids(own):
        return names_of_wnids(own, data.name)
    if given is None:
        return own
    if given == IMAGENET:
        names = imagenet_names()
    elif isinstance(given, str):
        content = read_entry(given, _OPTION, data.name, own)
        where = f"{_OPTION}: {given}"
        if isinstance(content, Mapping) and any(own) and set(filter(None, own)) <= set(content):
            return tuple(text_list([content[name] if name else "" for name in own], where))
        names = tuple(text_list(content, where))
    else:
        names = tuple(given)
    if _are_numbers(own):
        return _by_own_number(names, own, data.name)
    _check_numbers(names, own, data.name)
    return names


def _are_numbers(own: Sequence[str]) -> bool:
    """Return whether the classes of the data are called by numbers: folders 0 to 999."""
    return any(own) and all(name.isdecimal() for name in own if name)


def _by_own_number(names: Sequence[str], own: Sequence[str], data_name: str) -> tuple[str, ...]:
    """Return the name of each class by the number that it is called by.

    Folders that are called by numbers are sorted as text (0, 1, 10, 100, ...), so that their
    positions are not their numbers.
    """
    highest = max(int(name) for name in own if name)
    if highest >= len(names):
        raise DataError(
            f"{data_name}: has a class {str(highest)!r}, expected class names for the numbers 0 to "
            f"{highest}, got {len(names)}; give a mapping from the data's classes to names"
        )
    return tuple(names[int(name)] if name else "" for name in own)


def _check_numbers(names: Sequence[str], own: Sequence[str], data_name: str) -> None:
    """Refuse a list whose numbers cannot be those of the data's classes."""
    if not names:
        raise ConfigError(f"{_OPTION}: expected at least one name, got none")
    if not any(own):
        return
    if len(names) != len(own):
        raise DataError(
            f"{data_name}: expected {len(own)} class names, one for each class of the data, got "
            f"{len(names)}; give a list in the order of the data's class numbers, or a mapping "
            f"from the data's classes to names"
        )
    numbers: dict[str, int] = {}
    for number, name in enumerate(names):
        numbers.setdefault(_plain(name), number)
    for number, name in enumerate(own):
        at = numbers.get(_plain(name), number)
        if name and at != number and _plain(names[number]) != _plain(name):
            raise DataError(
                f"{data_name}: class {number} is {name!r}, which is number {at} of the class names "
                f"that were given (number {number} there is {names[number]!r}); give the names in "
                f"the order of the data's class numbers, or leave them out"
            )


def _plain(name: str) -> str:
    """Return a name without differences of spelling that are no difference of class."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
