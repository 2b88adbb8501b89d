"""Read the members of a sample that are embedded or stored, unless they would fill the memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from clipkit.collection.member_files import MAX_FILE_BYTES
from clipkit.data.samples.content import IMAGES_AND_SOUNDS
from clipkit.data.shards.reader import ShardReader
from clipkit.data.text.captions import CaptionPicker
from clipkit.errors import SampleError

MAX_TEXT_BYTES: Final = 16 * 2**20
"""Largest member with captions, a label or columns that is read."""


def needed_members(caption: CaptionPicker, fields: Iterable[str]) -> frozenset[str] | None:
    """Return the members of captions and other fields; None if the captions may be in any.

    Examples:
        >>> from clipkit.data import JsonFields
        >>> sorted(needed_members(JsonFields({"title": 1.0}), ["cls", "json:author"]))
        ['cls', 'json']
    """
    if caption.members is None:
        return None
    return caption.members | {field.partition(":")[0] for field in fields}


def read_members(
    reader: ShardReader,
    sample_id: int,
    sizes: Mapping[str, int],
    needed: Collection[str] | None,
    media: Collection[str] = (),
) -> dict[str, bytes]:
    """Read the media and the needed members of a sample.

    Args:
        reader: Reader of the samples.
        sample_id: Position of the sample in the data set.
        sizes: Size of each member in bytes.
        needed: Members that are read; None for all of at most 16 MiB that are no images or
            sounds.
        media: The members that are its image and its sound.

    Raises:
        SampleError: If one of the media is larger than 64 MiB, or a needed member than 16 MiB.
        ShardError: If the shard cannot be read.
    """

    def is_text(name: str) -> bool:
        return name not in IMAGES_AND_SOUNDS and sizes[name] <= MAX_TEXT_BYTES

    wanted = {
        name
        for name in sizes
        if name in media or (name in needed if needed is not None else is_text(name))
    }
    for name in wanted:
        most = MAX_FILE_BYTES if name in media else MAX_TEXT_BYTES
        if sizes[name] > most:
            raise SampleError(f"member {name!r}: expected at most {most} bytes, got {sizes[name]}")
    return reader.read(sample_id, leave_out=sizes.keys() - wanted).members
