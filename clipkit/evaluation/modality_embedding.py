"""Embeddings of samples with any number of modalities, each of which a sample may lack."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from clipkit.data.modalities.field import ModalityField
from clipkit.data.text.tokenizer import Tokenizer
from clipkit.distributed.agreement import same_errors
from clipkit.distributed.collectives import gather_rows, gather_sizes
from clipkit.distributed.texts import gather_texts
from clipkit.evaluation.datasets.chosen import ChosenSamples
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.datasets.loading import ids_of_rank, texts_in_data_order
from clipkit.evaluation.datasets.modality_loading import (
    ModalityItem,
    evaluation_fields,
    modality_batches,
)
from clipkit.evaluation.embedding import EmbeddedPairs, encode_on_ranks
from clipkit.evaluation.embedding_cache import cache_of
from clipkit.evaluation.inference import EmbedOptions
from clipkit.evaluation.memory import recall
from clipkit.evaluation.modality_cache import items_without_files, store_rows, stored_rows
from clipkit.models import TowerEncoder
from clipkit.models.evaluating import evaluating
from clipkit.models.inputs import tokenizer_of
from clipkit.models.named_towers import NamedTowerEncoder
from clipkit.patches import join_images
from clipkit.types import IGNORE_LABEL

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModalityRows:
    """Embeddings of one modality of a data set.

    Args:
        values: Unit-norm embeddings, float32 on the CPU.
        samples: Sample of each, ascending; a sample may have several captions, or none.
    """

    values: Float[Tensor, "N D"]
    samples: Int64[Tensor, " N"]


@dataclass(frozen=True, slots=True)
class EmbeddedModalities:
    """Embeddings of a data set in the order of the data, the same on every rank.

    Args:
        rows: Embeddings by the name of their modality, "image" and "text" included.
        keys: Name of each sample.
        captions: The captions, one for each row of "text".
    """

    rows: Mapping[str, ModalityRows]
    keys: tuple[str, ...]
    captions: tuple[str, ...]

    def present(self, name: str) -> Bool[Tensor, " samples"]:
        """Return which samples have a modality."""
        mask = torch.zeros(len(self.keys), dtype=torch.bool)
        return mask.index_fill(0, self.rows[name].samples, True)


def has_further(encoder: TowerEncoder) -> TypeGuard[NamedTowerEncoder]:
    """Return whether an encoder has other towers than those of images and texts."""
    return isinstance(encoder, NamedTowerEncoder) and set(encoder.towers) != {"image", "text"}


def captions_of_samples(embedded: EmbeddedModalities) -> EmbeddedPairs:
    """Return samples with their captions, without any embedding of another modality."""
    none = torch.empty(0, 0)
    texts = embedded.rows.get("text", ModalityRows(none, torch.empty(0, dtype=torch.int64)))
    labels = torch.full((len(embedded.keys),), IGNORE_LABEL)
    return EmbeddedPairs(
        none, texts.values, texts.samples, labels, embedded.keys, embedded.captions
    )


def image_caption_pairs(
    embedded: EmbeddedModalities, data: EvaluationDataset
) -> tuple[EmbeddedPairs, ChosenSamples] | None:
    """Return images with their captions and classes, as an encoder of these two embeds them.

    Args:
        embedded: Embeddings of all modalities.
        data: The samples.

    Returns:
        The embeddings of the samples that have an image and a caption, and these samples; None if
        there are none.
    """
    images, texts = embedded.rows.get("image"), embedded.rows.get("text")
    if images is None or texts is None:
        return None
    has_both = embedded.present("image") & embedded.present("text")
    ids = has_both.nonzero()[:, 0].tolist()
    if not ids:
        return None
    kept = has_both[texts.samples]
    pairs = EmbeddedPairs(
        images.values[has_both[images.samples]],
        texts.values[kept],
        (has_both.cumsum(0) - 1)[texts.samples[kept]],
        torch.tensor([data.without_file(number).label for number in ids]),
        tuple(embedded.keys[number] for number in ids),
        tuple(embedded.captions[row] for row in kept.nonzero()[:, 0].tolist()),
    )
    return pairs, ChosenSamples(data, ids, len(has_both) - len(ids))


def embed_modalities(
    encoder: NamedTowerEncoder,
    data: EvaluationDataset,
    options: EmbedOptions = EmbedOptions(),
    fields: Sequence[ModalityField] = (),
    tokenizer: Tokenizer | None = None,
) -> EmbeddedModalities:
    """Embed what the samples of a data set have of an encoder's modalities; every rank calls this.

    Args:
        encoder: The model.
        data: Samples, which may lack an image, captions, or any further modality.
        options: Batch size, number of workers, limit, precision, progress bar.
        fields: Fields that read further modalities, in evaluation mode. Sounds need none. A
            modality that nothing reads is left out, with a warning.
        tokenizer: Tokenizer for the captions; None for that of the text tower.

    Returns:
        The embeddings of each modality of the encoder that is read.

    Raises:
        ConfigError: If a field has no tower.
        SampleError: If an input cannot be read, unless its field makes it absent.

    Examples:
        >>> towers = MultimodalEncoder(encoder.towers)
        >>> embedded = embed_modalities(towers, open_dataset("data/val"))
        >>> {name: len(part.values) for name, part in embedded.rows.items()}
        {'image': 9, 'text': 9}
    """
    key = ("modalities", id(encoder), data.identity, options, tuple(map(id, fields)), id(tokenizer))
    return recall(
        key,
        (encoder, data, fields, tokenizer),
        lambda: _embed(encoder, data, options, fields, tokenizer),
    )


def _embed(
    encoder: NamedTowerEncoder,
    data: EvaluationDataset,
    options: EmbedOptions,
    fields: Sequence[ModalityField],
    tokenizer: Tokenizer | None,
) -> EmbeddedModalities:
    readers, unread = evaluation_fields(encoder, fields)
    if unread:
        _LOG.warning(
            "%s: leaving out %s: no field reads them; give the evaluator their fields",
            data.name, ", ".join(unread),
        )  # fmt: skip
    stored = None if fields else _stored(encoder, data, options, readers)
    if fields and cache_of(encoder) is not None:
        _LOG.warning(
            "%s: the embedding cache keeps captions only, because fields were given for %s",
            data.name, ", ".join(field.name for field in fields),
        )  # fmt: skip
    local = _Local(encoder, [field.name for field in readers if stored is None])
    ids = ids_of_rank(data, options)
    with same_errors(), evaluating(encoder, options.precision):
        if stored is not None:
            local.add(ids, items_without_files(data, ids, "text" in encoder.towers))
        else:
            _embed_rank(local, encoder, data, ids, readers, options)
    rows = stored or {name: local.gathered(name) for name in local.values}
    device = encoder.log_logit_scale.device
    keys = texts_in_data_order(local.keys, device)
    if not fields and stored is None:
        found = {name: (part.values, part.samples) for name, part in rows.items()}
        store_rows(encoder, data, options, found, len(keys))
    if "text" not in encoder.towers:
        return EmbeddedModalities(rows, keys, ())
    owners, captions = local.gathered_captions()
    with evaluating(encoder, options.precision):
        chosen = tokenizer or tokenizer_of(encoder.text_tower)
        texts = encode_on_ranks(encoder, chosen, captions, options.batch_size)
    return EmbeddedModalities({**rows, "text": ModalityRows(texts.cpu(), owners)}, keys, captions)


def _stored(
    encoder: NamedTowerEncoder,
    data: EvaluationDataset,
    options: EmbedOptions,
    readers: Sequence[ModalityField],
) -> dict[str, ModalityRows] | None:
    """Return the embeddings of all modalities but text from the cache; None if one is missing."""
    names = [*(["image"] if "image" in encoder.towers else []), *(field.name for field in readers)]
    rows = stored_rows(encoder, data, options, names)
    return None if rows is None else {name: ModalityRows(*part) for name, part in rows.items()}


def _embed_rank(
    local: _Local,
    encoder: NamedTowerEncoder,
    data: EvaluationDataset,
    ids: Sequence[int],
    readers: Sequence[ModalityField],
    options: EmbedOptions,
) -> None:
    start = 0
    for items in modality_batches(encoder, data, ids, readers, options):
        local.add(ids[start : start + len(items)], items)
        start += len(items)
    for fault in local.faults[:1]:
        _LOG.warning(
            "%s: %d inputs cannot be read and count as absent (first: %s)",
            data.name, len(local.faults), fault,
        )  # fmt: skip


class _Local:
    """Embeddings and captions of the samples of this rank."""

    def __init__(self, encoder: NamedTowerEncoder, names: Sequence[str]) -> None:
        self._encoder = encoder
        self.device = encoder.log_logit_scale.device
        empty = torch.empty(0, encoder.embedding_dim, device=self.device)
        shown = [*(["image"] if "image" in encoder.towers else []), *names]
        self.values = {name: [empty] for name in shown}
        self.samples: dict[str, list[int]] = {name: [] for name in shown}
        self.keys, self.faults = list[str](), list[str]()
        self.captions, self.owners = list[str](), list[int]()

    def add(self, ids: Sequence[int], items: Sequence[ModalityItem]) -> None:
        """Embed a batch of samples, but for their captions."""
        for number, item in zip(ids, items, strict=True):
            self.keys.append(item.key)
            self.faults += [f"{item.key}: {fault}" for fault in item.faults]
            self.captions += item.captions
            self.owners += [number] * len(item.captions)
        images = {n: i.image for n, i in zip(ids, items, strict=True) if i.image is not None}
        if images:
            pixels, grids = join_images(list(images.values()), self._encoder.image_tower.budget)
            grids = None if grids is None else grids.to(self.device)
            self._put(
                "image", list(images), self._encoder.encode_image(pixels.to(self.device), grids)
            )
        for name in [name for name in self.values if name != "image"]:
            signals = {n: i.signals[name] for n, i in zip(ids, items, strict=True)}
            present = [number for number, signal in signals.items() if signal.is_present]
            if present:
                values = torch.stack([signals[number].values for number in present])
                embedded = self._encoder.encode_signal(name, values.to(self.device))
                self._put(name, present, embedded)

    def _put(self, name: str, ids: list[int], values: Float[Tensor, "B D"]) -> None:
        self.values[name].append(values.float())
        self.samples[name] += ids

    def gathered(self, name: str) -> ModalityRows:
        """Return the embeddings of a modality of all ranks, in the order of the data."""
        local = torch.cat(self.values[name])
        sizes = [size for (size,) in gather_sizes(len(local), device=self.device)]
        samples = self._gathered_ids(self.samples[name], sizes)
        order = samples.argsort()
        return ModalityRows(gather_rows(local, sizes).cpu()[order], samples[order])

    def gathered_captions(self) -> tuple[Int64[Tensor, " texts"], tuple[str, ...]]:
        """Return the sample of each caption of all ranks, and the captions."""
        sizes = [size for (size,) in gather_sizes(len(self.owners), device=self.device)]
        owners = self._gathered_ids(self.owners, sizes)
        captions = gather_texts(self.captions, sizes, self.device)
        order = owners.argsort(stable=True)
        return owners[order], tuple(captions[row] for row in order.tolist())

    def _gathered_ids(self, ids: Sequence[int], sizes: Sequence[int]) -> Int64[Tensor, " N"]:
        return gather_rows(torch.tensor(ids, dtype=torch.int64, device=self.device), sizes).cpu()
