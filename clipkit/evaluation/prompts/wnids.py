"""Names of ImageNet's classes for data whose classes are WordNet ids, such as n01440764."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Final

from clipkit.errors import DataError

IMAGENET: Final = "imagenet"
_WNID: Final = re.compile("n[0-9]{8}")
_SHOWN: Final = 5


def are_wnids(names: Sequence[str]) -> bool:
    """Return whether all names are WordNet ids, as those of ImageNet's folders.

    Examples:
        >>> are_wnids(["n01440764", "n01443537"]), are_wnids(["n01440764", "shark"])
        (True, False)
    """
    return bool(names) and all(_WNID.fullmatch(name) for name in names)


def imagenet_names() -> tuple[str, ...]:
    """Return open_clip's names of ImageNet's 1,000 classes, in the order of their numbers."""
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    return tuple(IMAGENET_CLASSNAMES)


def names_of_wnids(wnids: Sequence[str], where: str) -> tuple[str, ...]:
    """Return open_clip's name of each class of ImageNet by its WordNet id.

    Args:
        wnids: WordNet ids; any of ImageNet's 1,000, in any order, as those of ImageNet-100, -A, -R.
        where: Name of the data in messages.

    Raises:
        DataError: If an id is not among ImageNet's 1,000.

    Examples:
        >>> names_of_wnids(["n15075141", "n01440764"], "data")
        ('toilet paper', 'tench')
    """
    names = _names_by_wnid()
    if unknown := [wnid for wnid in wnids if wnid not in names]:
        shown = f"{', '.join(unknown[:_SHOWN])}{', ...' if len(unknown) > _SHOWN else ''}"
        raise DataError(
            f"{where}: {len(unknown)} of {len(wnids)} classes are WordNet ids outside of "
            f"ImageNet's 1,000 ({shown}), which open_clip does not name; give a file of names "
            f"(class_names, or --classnames)"
        )
    return tuple(names[wnid] for wnid in wnids)


@cache
def _names_by_wnid() -> dict[str, str]:
    from timm.data import ImageNetInfo

    # timm lists the ids in the order of the class numbers: sorted.
    return dict(zip(ImageNetInfo("imagenet-1k").label_names(), imagenet_names(), strict=True))
