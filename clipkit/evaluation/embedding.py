"""Embeddings of every sample of a data set, each exactly once, over all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.data.text.tokenizer import Tokenizer
from clipkit.data.text.tokenizers import tokenizer_from_name
from clipkit.distributed.collectives import gather_rows, gather_sizes, world_size
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.datasets.loading import Chunk, decoded_chunks, ids_of_rank
from clipkit.evaluation.inference import EmbedOptions, evaluating
from clipkit.models import DualEncoder


@dataclass(frozen=True, slots=True)
class EmbeddedPairs:
    """A data set as its embeddings, in the order of the data, the same on every rank.

    Args:
        images: Unit-norm embeddings of the N pictures, float32 on the CPU.
        texts: Unit-norm embeddings of the M captions, float32 on the CPU.
        text_to_image: For each caption, the row of its picture.
        labels: Class of each picture, ``IGNORE_LABEL`` where it has none.
        keys: Names of the samples.
        captions: The M texts.
    """

    images: Float[Tensor, "N D"]
    texts: Float[Tensor, "M D"]
    text_to_image: Int64[Tensor, " M"]
    labels: Int64[Tensor, " N"]
    keys: tuple[str, ...]
    captions: tuple[str, ...]


def embed_pairs(
    encoder: DualEncoder,
    data: EvaluationDataset,
    options: EmbedOptions,
    tokenizer: Tokenizer | None = None,
    captions: bool = True,
) -> EmbeddedPairs:
    """Embed pictures and their captions.

    Args:
        encoder: The model.
        data: The pictures; captions where the data have them.
        options: Batch size, precision …
        tokenizer: None for the text tower's own.
        captions: Whether captions are wanted; the text tower and the tokenizer rest otherwise.

    Returns:
        The embeddings; no captions where the data have none or none are wanted.

    Raises:
        DataError: If a picture cannot be decoded.
    """
    ids = ids_of_rank(data, options)
    with evaluating(encoder, options.precision):
        chunks = [
            _embed_chunk(encoder, chunk, options, tokenizer, captions)
            for chunk in decoded_chunks(encoder, data, ids, options)
        ]
    return _join_ranks(_join_embedded(chunks, encoder, ids), ids)


def encode_texts(
    encoder: DualEncoder, tokenizer: Tokenizer, texts: Sequence[str], batch_size: int
) -> Float[Tensor, "M D"]:
    """Unit-norm float32 embeddings of texts, on the encoder's device.

    Args:
        encoder: The model, in evaluation mode.
        tokenizer: Its tokenizer.
        texts: M texts; may be none.
        batch_size: Texts in one pass.
    """
    device = encoder.log_logit_scale.device
    batches = [
        encoder.encode_text(tokenizer(list(texts[start : start + batch_size])).to(device)).float()
        for start in range(0, len(texts), batch_size)
    ]
    return torch.cat(batches) if batches else torch.empty(0, encoder.embedding_dim, device=device)


def tokenizer_of(encoder: DualEncoder) -> Tokenizer:
    """The tokenizer that belongs to the encoder's text tower."""
    tower = encoder.text_tower
    return _tokenizer(tower.tokenizer_name, tower.context_length)


@cache
def _tokenizer(name: str, context_length: int) -> Tokenizer:
    return tokenizer_from_name(name, context_length=context_length)


def _embed_chunk(
    encoder: DualEncoder,
    chunk: Chunk,
    options: EmbedOptions,
    tokenizer: Tokenizer | None,
    captions: bool,
) -> EmbeddedPairs:
    """A chunk's embeddings; ``text_to_image`` counts within the chunk."""
    device = encoder.log_logit_scale.device
    texts = [caption for own in chunk.captions for caption in own] if captions else []
    owners = [row for row, own in enumerate(chunk.captions) for _ in own] if captions else []
    embedded = torch.empty(0, encoder.embedding_dim, device=device)
    if texts:
        used = tokenizer if tokenizer is not None else tokenizer_of(encoder)
        embedded = encode_texts(encoder, used, texts, options.batch_size)
    return EmbeddedPairs(
        images=encoder.encode_image(chunk.images.to(device)).float(),
        texts=embedded,
        text_to_image=torch.tensor(owners, dtype=torch.int64, device=device),
        labels=torch.tensor(chunk.labels, dtype=torch.int64, device=device),
        keys=tuple(chunk.keys),
        captions=tuple(texts),
    )


def _join_embedded(
    chunks: Sequence[EmbeddedPairs], encoder: DualEncoder, ids: Sequence[int]
) -> EmbeddedPairs:
    """The chunks of one rank in a row; ``text_to_image`` now holds sample ids."""
    device = encoder.log_logit_scale.device
    starts = [0]
    for chunk in chunks:
        starts.append(starts[-1] + len(chunk.keys))
    own_ids = torch.tensor(ids, dtype=torch.int64, device=device)
    nothing = torch.empty(0, encoder.embedding_dim, device=device)
    owners = [start + chunk.text_to_image for start, chunk in zip(starts, chunks, strict=False)]
    return EmbeddedPairs(
        images=torch.cat([nothing, *[chunk.images for chunk in chunks]]),
        texts=torch.cat([nothing, *[chunk.texts for chunk in chunks]]),
        text_to_image=own_ids[torch.cat([own_ids[:0], *owners])],
        labels=torch.cat([own_ids[:0], *[chunk.labels for chunk in chunks]]),
        keys=tuple(key for chunk in chunks for key in chunk.keys),
        captions=tuple(caption for chunk in chunks for caption in chunk.captions),
    )


def _join_ranks(own: EmbeddedPairs, ids: Sequence[int]) -> EmbeddedPairs:
    """What all ranks embedded, on each of them, in the order of the data."""
    device = own.images.device
    sizes = gather_sizes(len(own.images), len(own.texts), device=device)
    num_images, num_texts = ([size[i] for size in sizes] for i in range(2))
    own_ids = torch.tensor(ids, dtype=torch.int64, device=device)
    by_id = gather_rows(own_ids, num_images).cpu().argsort()
    owners = gather_rows(own.text_to_image, num_texts).cpu()
    by_owner = owners.argsort(stable=True)
    keys = _gather_texts(own.keys, num_images, device)
    captions = _gather_texts(own.captions, num_texts, device)
    return EmbeddedPairs(
        images=gather_rows(own.images, num_images).cpu()[by_id],
        texts=gather_rows(own.texts, num_texts).cpu()[by_owner],
        text_to_image=owners[by_owner],
        labels=gather_rows(own.labels, num_images).cpu()[by_id],
        keys=tuple(keys[i] for i in by_id.tolist()),
        captions=tuple(captions[i] for i in by_owner.tolist()),
    )


def _gather_texts(
    texts: Sequence[str], sizes: Sequence[int], device: torch.device
) -> Sequence[str]:
    """The texts of all ranks, sent as UTF-8 bytes: nothing is pickled."""
    if world_size() == 1:
        return texts
    encoded = [text.encode() for text in texts]
    raw = torch.tensor(list(b"".join(encoded)), dtype=torch.uint8, device=device)
    lengths = torch.tensor([len(text) for text in encoded], dtype=torch.int64, device=device)
    num_bytes = [size[0] for size in gather_sizes(len(raw), device=device)]
    everything = bytes(gather_rows(raw, num_bytes).cpu().numpy())
    ends = gather_rows(lengths, sizes).cumsum(0).tolist()
    return [
        everything[start:end].decode() for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]
