"""What identifies the data of a mask, and the comparison of a mask with data."""

from __future__ import annotations

import logging
from typing import Final, Protocol

from clipkit.data.shards.masks.mask_files import MaskContent
from clipkit.errors import DataError

_LOG: Final = logging.getLogger(__name__)


class DataIdentity(Protocol):
    """What identifies the data of a mask; a ``ShardIndex`` has it."""

    @property
    def num_samples(self) -> int:
        """Number of samples."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of names, sizes and counts of the shards."""
        ...

    @property
    def digest(self) -> str:
        """Hash of all keys, extensions and member sizes; "" if any is unknown."""
        ...


def check_data(name: str, content: MaskContent, index: DataIdentity) -> None:
    """Check that a mask is of some data.

    Args:
        name: Name of the mask, for messages.
        content: Content of the mask.
        index: The data.

    Raises:
        DataError: If the shards have other names, sizes or samples.
    """
    advice = "use the data that were filtered, or filter these (clipkit shards filter)"
    if (content.index_fingerprint, content.num_samples) != (index.fingerprint, index.num_samples):
        raise DataError(
            f"{name}: expected a mask of these data ({index.num_samples} samples, fingerprint "
            f"{index.fingerprint}), got one of other data ({content.num_samples} samples, "
            f"{content.index_fingerprint}); {advice}"
        )
    if not content.index_digest or not index.digest:
        _LOG.warning(
            "%s: the samples of some shards are known by number only, from a counts file; only "
            "names, sizes and numbers of samples were compared. An index file of all shards "
            "identifies the samples, too (clipkit shards index SHARDS --output FILE.npz)",
            name,
        )
    elif content.index_digest != index.digest:
        raise DataError(
            f"{name}: a mask of other data: the shards have the same names, sizes and numbers of "
            f"samples, but contain other samples or another order of them (expected digest "
            f"{index.digest}, got {content.index_digest}); {advice}"
        )


def check_same_data(name: str, content: MaskContent, first_name: str, first: MaskContent) -> None:
    """Check that two masks are of the same data.

    Raises:
        DataError: If they are not.
    """
    data, expected = (
        (each.index_fingerprint, each.num_samples, each.index_digest) for each in (content, first)
    )
    digests = {data[2], expected[2]} - {""}
    if data[:2] != expected[:2] or len(digests) > 1:
        raise DataError(
            f"{name}: expected a mask of the same data as {first_name} ({first.num_samples} "
            f"samples, fingerprint {first.index_fingerprint}, digest {first.index_digest}), got "
            f"one of {content.num_samples} samples, {content.index_fingerprint}, "
            f"{content.index_digest}; filter the same data"
        )
