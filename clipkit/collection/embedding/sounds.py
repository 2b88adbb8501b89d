"""Read the sounds of samples as an encoder's towers do, with what the tables say of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.collection.info import modality_columns
from clipkit.collection.member_files import MAX_FILE_BYTES
from clipkit.data.audio.decode import sound_info
from clipkit.data.audio.formats import sound_extension
from clipkit.data.audio.transforms import EvalSoundTransform
from clipkit.data.samples.content import sample_errors
from clipkit.data.shards.reader import ShardReader
from clipkit.errors import SampleError, ShardError
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.mel import Spectrogram
from clipkit.models import SignalTower, TowerEncoder
from clipkit.models.inputs import sound_transform_of

_NONE: Final = "no sound"
"""Value of a column such as ``sound_error`` where a sample has no sound."""


class SignalRows(NamedTuple):
    """Inputs of a further modality in a batch."""

    places: Int64[np.ndarray, " B"]  # positions in the batch of the samples that have one
    values: Float[Tensor, "B *rest"]


class ReadSounds(NamedTuple):
    """Sounds of one sample."""

    columns: dict[str, Any]  # values of the columns of the modalities
    values: dict[str, Spectrogram]  # by the name of the modality, as far as they can be decoded
    fault: str | None  # why a sound that is there cannot be embedded


@final
@dataclass(frozen=True, slots=True)
class SoundReader:
    """Reads the sound of a sample once for each tower for sounds.

    Args:
        transforms: By the name of a modality, the transform of evaluation for its tower.
    """

    transforms: dict[str, EvalSoundTransform]

    def member(self, names: Collection[str]) -> str | None:
        """Return the member of a sample that is its sound; None without one or without towers."""
        return sound_extension(names) if self.transforms else None

    def read(
        self, member: str | None, span: tuple[int, int], members: Mapping[str, bytes]
    ) -> ReadSounds:
        """Read a sound for all towers.

        Args:
            member: The member that is the sound; None if the sample has none.
            span: Its offset and size in the shard, in bytes.
            members: Members of the sample; a sound of more than 64 MiB is not among them.
        """
        columns = dict.fromkeys(modality_columns(self.transforms))
        if member is None:
            return ReadSounds(self._with_error(columns, _NONE), {}, None)
        for name in self.transforms:
            columns |= {
                f"{name}_type": member, f"{name}_offset_bytes": span[0],
                f"{name}_size_bytes": span[1],
            }  # fmt: skip
        try:
            if member not in members:
                raise SampleError(
                    f"member {member!r}: expected at most {MAX_FILE_BYTES} bytes, got {span[1]}"
                )
            with sample_errors():
                data = members[member]
                values = {name: read.of_file(data) for name, read in self.transforms.items()}
                seconds = sound_info(data).seconds
        except SampleError as error:
            reason = error.reason.encode(errors="backslashreplace").decode()
            return ReadSounds(self._with_error(columns, reason), {}, reason)
        columns |= {f"{name}_seconds": seconds for name in self.transforms}
        return ReadSounds(columns, values, None)

    def unread(self, reason: str) -> dict[str, Any]:
        """Return the columns of a sample that cannot be read."""
        return self._with_error(dict.fromkeys(modality_columns(self.transforms)), reason)

    def _with_error(self, columns: dict[str, Any], reason: str) -> dict[str, Any]:
        return columns | {f"{name}_error": reason for name in self.transforms}


def sound_reader(encoder: TowerEncoder) -> SoundReader:
    """Return the reader for the towers of an encoder that declare their spectrograms.

    Raises:
        ConfigError: If there are such towers, and the packages for sounds are not installed.
    """
    return SoundReader(
        {name: sound_transform_of(tower) for name, tower in sound_towers(encoder).items()}
    )


def sound_towers(encoder: TowerEncoder) -> dict[str, SignalTower]:
    """Return the towers of an encoder that declare their spectrograms, by name."""
    return {
        name: tower
        for name, tower in encoder.towers.items()
        if isinstance(tower, SignalTower) and tower.mel is not None
    }


def may_have_sounds(data: EvaluationDataset, num_shards: int) -> bool:
    """Return whether a sample of some shards may have a sound, by the tables of the shards.

    A shard may have one if its table cannot be read, or would have to be transferred: that of a
    remote shard of which only the number of samples is known.

    Args:
        data: The data.
        num_shards: Number of shards, from the first one on.
    """
    reader = ShardReader(data.index)
    try:
        tables = [reader.known_table(number) for number in range(num_shards)]
    except ShardError:
        return True
    return any(t is None or sound_extension(t.extensions) is not None for t in tables)


def joined_signals(rows: Sequence[Mapping[str, Spectrogram]]) -> dict[str, SignalRows]:
    """Join the spectrograms of the samples of a batch, by the name of the modality."""
    joined = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        places = [place for place, row in enumerate(rows) if name in row]
        values = torch.stack([rows[place][name] for place in places])
        joined[name] = SignalRows(np.array(places, dtype=np.int64), values)
    return joined
