"""A mask of sample ids: which samples of a data set are kept, and which filter removed the rest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial, reduce
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Bool, UInt8

from clipkit.data.shards.masks.data_identity import DataIdentity, check_data, check_same_data
from clipkit.data.shards.masks.kept_samples import KeptBits, num_ones
from clipkit.data.shards.masks.mask_files import (
    MAX_FILTERS,
    MaskContent,
    check_filter,
    read_mask,
    read_reasons,
    write_mask,
)
from clipkit.data.storage.urls import parse_address
from clipkit.errors import DataError

Reasons = UInt8[np.ndarray, " removed"]


@dataclass(frozen=True, slots=True)
class MaskSummary:
    """Facts about a mask that need none of its samples.

    Args:
        name: File of the mask, or files of several that were combined.
        fingerprint: ``SampleMask.fingerprint``.
        num_samples: Number of samples of the data.
        num_kept: Number of samples that are kept.
        filters: Description of each filter.
    """

    name: str
    fingerprint: str
    num_samples: int
    num_kept: int
    filters: tuple[str, ...]


@final
class SampleMask:
    """Which samples of a data set are kept, and by which filter each other was removed first.

    It takes one bit of memory per sample; ``kept`` and ``removed_by`` take a byte per sample, and
    are made when they are asked for.

    Args:
        content: Which samples are kept, of which data.
        reasons: Returns the number of the filter, from 1, of each removed sample, in order.
        name: File of the mask, for messages.

    Examples:
        >>> index = ShardIndex.from_urls("data/train")
        >>> removed_by = np.zeros(index.num_samples, dtype=np.uint8)
        >>> removed_by[[2, 5]] = 1
        >>> mask = SampleMask.of(index, removed_by, ["caption is a file name"])
        >>> mask.save("train.mask.npz")
        >>> SampleMask.load("train.mask.npz").num_kept
        7
    """

    def __init__(self, content: MaskContent, reasons: Callable[[], Reasons], name: str) -> None:
        self._content = content
        self._reasons = reasons
        self.name = name

    @classmethod
    def of(
        cls, index: DataIdentity, removed_by: UInt8[np.ndarray, " N"], filters: Sequence[str]
    ) -> SampleMask:
        """Return the mask of some filters.

        Args:
            index: The data, a ``ShardIndex``.
            removed_by: For each sample 0 if it is kept, and k if ``filters[k - 1]`` removed it.
            filters: Description of each filter, at most 255.

        Raises:
            DataError: If there is not one number per sample, or not one filter per number.
        """
        removed_by = np.asarray(removed_by)
        if removed_by.dtype != np.uint8 or removed_by.shape != (index.num_samples,):
            raise DataError(
                f"removed_by: expected uint8 [{index.num_samples}], a number for each sample of "
                f"the data, got {removed_by.dtype} {list(removed_by.shape)}"
            )
        _check_filters(filters)
        if removed_by.max() > len(filters):
            raise DataError(
                f"removed_by: expected numbers up to {len(filters)}, the number of filters, got "
                f"{removed_by.max()}"
            )
        bits = np.packbits(removed_by == 0, bitorder="little")
        reasons = removed_by[removed_by != 0]
        content = MaskContent(
            index.num_samples, bits, tuple(filters), index.fingerprint, index.digest, len(reasons)
        )
        return cls(content, partial(_given, reasons), "mask")

    @classmethod
    def load(cls, path: Path | str) -> SampleMask:
        """Read the file of a mask; nothing is unpickled.

        Args:
            path: Path or URL of the file.

        Raises:
            DataError: If the file is missing, damaged, or of another kind or version.
        """
        source = parse_address(str(path))
        content = read_mask(source)
        return cls(content, partial(read_reasons, source, content), str(path))

    @classmethod
    def combine(cls, masks: Sequence[SampleMask]) -> SampleMask:
        """Return the mask that keeps what all of some masks keep.

        Args:
            masks: Masks of the same data, at least one. A sample was removed first by the first
                mask that does not keep it.

        Raises:
            DataError: If they are of different data, or have more than 255 filters together.

        Examples:
            >>> index = ShardIndex.from_urls("data/val")
            >>> first, second = (np.eye(index.num_samples, dtype=np.uint8)[k] for k in (0, 1))
            >>> masks = [SampleMask.of(index, first, ["a"]), SampleMask.of(index, second, ["b"])]
            >>> SampleMask.combine(masks).removed_by[:3].tolist()
            [1, 2, 0]
        """
        if not masks:
            raise DataError("masks: expected at least one, got none")
        if len(masks) == 1:
            return masks[0]
        for mask in masks[1:]:
            check_same_data(mask.name, mask._content, masks[0].name, masks[0]._content)
        filters = [text for mask in masks for text in mask.filters]
        _check_filters(filters)
        bits = reduce(np.bitwise_and, (mask._content.bits for mask in masks))
        digest = next((mask.index_digest for mask in masks if mask.index_digest), "")
        content = replace(
            masks[0]._content,
            bits=bits,
            filters=tuple(filters),
            index_digest=digest,
            num_removed=masks[0].num_samples - num_ones(bits),
        )
        return cls(content, partial(_joined, tuple(masks)), ", ".join(mask.name for mask in masks))

    def save(self, path: Path | str) -> None:
        """Write the file of the mask, completely or not at all.

        Args:
            path: The file, ending in ``.npz``.

        Raises:
            DataError: If the name does not end in ``.npz``.
        """
        write_mask(Path(path), self._content, self._reasons())

    @property
    def num_samples(self) -> int:
        """Number of samples of the data."""
        return self._content.num_samples

    @property
    def num_kept(self) -> int:
        """Number of samples that are kept."""
        return self._content.num_samples - self._content.num_removed

    @property
    def filters(self) -> tuple[str, ...]:
        """Description of each filter."""
        return self._content.filters

    @property
    def index_fingerprint(self) -> str:
        """Fingerprint of the data: names, sizes and counts of the shards."""
        return self._content.index_fingerprint

    @property
    def index_digest(self) -> str:
        """Digest of the data: keys, extensions and member sizes; "" if it was not known."""
        return self._content.index_digest

    @property
    def kept(self) -> Bool[np.ndarray, " N"]:
        """Whether each sample is kept."""
        bits = np.unpackbits(self._content.bits, count=self.num_samples, bitorder="little")
        kept: Bool[np.ndarray, " N"] = bits.view(np.bool_)
        return kept

    @property
    def removed_by(self) -> UInt8[np.ndarray, " N"]:
        """Number of the filter that removed each sample first, from 1; 0 if it is kept.

        Raises:
            DataError: If the file of the mask was changed since it was loaded.
        """
        removed_by = np.zeros(self.num_samples, dtype=np.uint8)
        removed_by[~self.kept] = self._reasons()
        return removed_by

    @cached_property
    def fingerprint(self) -> str:
        """Hash of which samples are kept, of which data; it does not depend on the filters."""
        digest = hashlib.sha256(f"{self.index_fingerprint}\0{self.num_samples}\0".encode())
        digest.update(self._content.bits.data)
        return digest.hexdigest()[:32]

    @property
    def summary(self) -> MaskSummary:
        """Facts about the mask, for screens and records."""
        return MaskSummary(
            self.name, self.fingerprint, self.num_samples, self.num_kept, self.filters
        )

    def kept_samples(self) -> KeptBits:
        """Return the kept samples, to find the n-th of them."""
        return KeptBits(self._content.bits, self.num_samples)

    def check(self, index: DataIdentity) -> None:
        """Check that the mask is of these data.

        Args:
            index: The data, a ``ShardIndex``.

        Raises:
            DataError: If the shards have other names, sizes or samples.
        """
        check_data(self.name, self._content, index)


def _check_filters(filters: Sequence[str]) -> None:
    if len(filters) > MAX_FILTERS:
        raise DataError(f"filters: expected at most {MAX_FILTERS}, got {len(filters)}")
    for text in filters:
        check_filter(text)


def _given(reasons: Reasons) -> Reasons:
    return reasons


def _joined(masks: Sequence[SampleMask]) -> Reasons:
    """Return the first reason of each sample that one of some masks removed."""
    removed_by = masks[0].removed_by
    num_filters = len(masks[0].filters)
    for mask in masks[1:]:
        others = mask.removed_by
        is_new = (removed_by == 0) & (others != 0)
        removed_by[is_new] = others[is_new] + np.uint8(num_filters)
        num_filters += len(mask.filters)
    reasons: Reasons = removed_by[removed_by != 0]
    return reasons
