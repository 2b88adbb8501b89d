"""Decoding of samples that may lack any of their modalities, in batches."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import UInt8
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from clipkit.data.images.formats import IMAGE_EXTENSIONS, image_member
from clipkit.data.images.transforms import ExactTransform
from clipkit.data.modalities.field import ModalityField
from clipkit.data.modalities.sounds import Sounds
from clipkit.data.samples.content import IMAGES_AND_SOUNDS, sample_errors
from clipkit.distributed.collectives import rank
from clipkit.errors import ClipkitError, ConfigError
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.inference import EmbedOptions
from clipkit.models import SignalTower, TowerEncoder
from clipkit.models.inputs import sound_transform_of, transform_of
from clipkit.types import ModalitySample

_UNUSED_SEED: Final = 0  # evaluation draws no random number


@dataclass(slots=True)
class ModalityItem:
    """Inputs of one sample."""

    key: str  # name of the sample inside its shard
    image: UInt8[Tensor, "3 H W"] | None  # None if it has none, or none is read
    captions: tuple[str, ...]  # empty if it has none
    signals: dict[str, ModalitySample]  # further modalities by name
    faults: tuple[str, ...]  # why inputs count as absent that are there


def evaluation_fields(
    encoder: TowerEncoder, given: Sequence[ModalityField]
) -> tuple[tuple[ModalityField, ...], tuple[str, ...]]:
    """Return the field that reads each further modality of an encoder, without random changes.

    Args:
        encoder: The model.
        given: Fields by the user; a tower for spectrograms needs none if it is the only one, or is
            named "sound".

    Returns:
        The fields, and the names of the modalities that nothing reads.

    Raises:
        ConfigError: If a field has no tower.
    """
    towers = {n: tower for n, tower in encoder.towers.items() if isinstance(tower, SignalTower)}
    by_name = {field.name: field for field in given}
    for name in by_name:
        if name not in towers:
            raise ConfigError(
                f"fields: expected those of the further towers ({', '.join(towers) or 'none'}), "
                f"got {name!r}"
            )
    of_sounds = [name for name, tower in towers.items() if tower.mel is not None]
    fields, unread = list[ModalityField](), list[str]()
    for name, tower in towers.items():
        if name in by_name:
            field = by_name[name].for_evaluation()
            assert isinstance(field, ModalityField), "a field remains of its kind"
            fields.append(field)
        elif name in of_sounds and (name == "sound" or len(of_sounds) == 1):
            fields.append(Sounds(sound_transform_of(tower), name))
        else:
            unread.append(name)
    return tuple(fields), tuple(unread)


def modality_batches(
    encoder: TowerEncoder,
    data: EvaluationDataset,
    ids: Sequence[int],
    fields: Sequence[ModalityField],
    options: EmbedOptions,
    images: bool = True,
) -> Iterator[list[ModalityItem]]:
    """Decode samples in batches, in the order of ``ids``.

    Args:
        encoder: Encoder whose towers read them.
        data: The samples.
        ids: Numbers of the samples.
        fields: Fields that read further modalities.
        options: Batch size, number of workers, progress bar.
        images: Whether to decode images, if the encoder has a tower for them.

    Raises:
        SampleError: If an input cannot be used, unless its field makes it absent.
    """
    has_image, has_text = images and "image" in encoder.towers, "text" in encoder.towers
    read = {name for field in fields for name in field.members}
    read |= set(IMAGE_EXTENSIONS if has_image else ())
    unread = [name for name in IMAGES_AND_SOUNDS if name not in read]
    transform = transform_of(encoder.image_tower) if has_image else None
    loader = DataLoader(
        _Decoded(data, ids, transform, fields, has_text, unread),
        batch_size=options.batch_size,
        num_workers=min(options.num_workers, len(ids)),
        collate_fn=list,
        generator=torch.Generator(),  # the global one is not drawn from
    )
    shown: Iterable[list[ModalityItem | ClipkitError]] = loader
    if options.progress and rank() == 0:
        shown = track(loader, description=f"Embedding {data.name}", total=len(loader))
    for items in shown:
        batch = []
        for item in items:
            if isinstance(item, ClipkitError):
                raise item
            batch.append(item)
        yield batch


class _Decoded(Dataset["ModalityItem | ClipkitError"]):
    """Samples of this rank; an error is returned as a value, because a worker's is a traceback."""

    def __init__(
        self,
        data: EvaluationDataset,
        ids: Sequence[int],
        transform: ExactTransform | None,
        fields: Sequence[ModalityField],
        with_captions: bool,
        unread: Collection[str],
    ) -> None:
        self._data, self._ids = data, ids
        self._transform, self._fields = transform, fields
        self._with_captions, self._unread = with_captions, unread

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> ModalityItem | ClipkitError:
        try:
            raw = self._data.members(self._ids[index], leave_out=self._unread)
            with sample_errors(self._data.name, raw.key):
                image = None
                if self._transform is not None and not raw.members.keys().isdisjoint(
                    IMAGE_EXTENSIONS
                ):
                    rng = np.random.default_rng(_UNUSED_SEED)
                    image = self._transform(image_member(raw.members), rng)
                signals, faults = dict[str, ModalitySample](), list[str]()
                for field in self._fields:
                    signals[field.name], fault = field.input_of(raw.members, _UNUSED_SEED)
                    faults += [] if fault is None else [fault]
                captions = self._data.captions_of(raw.members) if self._with_captions else ()
        except ClipkitError as error:
            return error
        return ModalityItem(raw.key, image, captions, signals, tuple(faults))
