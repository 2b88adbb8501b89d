"""Embeddings of a data set: each sample exactly once, over all ranks."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.data.text.tokenizer import Tokenizer
from clipkit.distributed.agreement import same_errors
from clipkit.distributed.collectives import gather_rows, gather_sizes, rank, world_size
from clipkit.distributed.texts import gather_texts
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.datasets.loading import decoded_chunks, ids_of_rank
from clipkit.evaluation.datasets.sample_source import DataSource
from clipkit.evaluation.embedding_cache import cache_of
from clipkit.evaluation.inference import EmbedOptions
from clipkit.evaluation.memory import is_remembered, recall
from clipkit.models import DualEncoder, TowerEncoder, inputs
from clipkit.models.evaluating import evaluating


@dataclass(frozen=True, slots=True)
class EmbeddedPairs:
    """Embeddings of a data set in the order of the data, the same on every rank.

    Args:
        images: Unit-norm embeddings of the N images, float32 on the CPU.
        texts: Unit-norm embeddings of the M captions, float32 on the CPU.
        text_to_image: Row of the image of each caption.
        labels: Class of each image; ``IGNORE_LABEL`` if it has none.
        keys: Name of each sample.
        captions: The M captions.
    """

    images: Float[Tensor, "N D"]
    texts: Float[Tensor, "texts D"]
    text_to_image: Int64[Tensor, " texts"]
    labels: Int64[Tensor, " N"]
    keys: tuple[str, ...]
    captions: tuple[str, ...]


def embed_pairs(
    encoder: DualEncoder,
    data: DataSource,
    options: EmbedOptions,
    tokenizer: Tokenizer | None = None,
    captions: bool = True,
) -> EmbeddedPairs:
    """Embed images and their captions.

    Args:
        encoder: The model.
        data: Images, with or without captions.
        options: Batch size, number of workers, limit, precision, progress bar.
        tokenizer: Tokenizer for the captions; None for that of the text tower.
        captions: Whether to embed captions; otherwise the text tower is not used.

    Returns:
        The embeddings, without captions if the data have none or ``captions`` is false.

    Raises:
        DataError: If an image cannot be decoded.
    """
    if data.variant:  # one of many, such as the corruptions, which would fill the memory
        return _embed(encoder, data, options, tokenizer, captions)
    key = _key(encoder, data, options, tokenizer)
    with_captions = captions or is_remembered((*key, True))
    pairs = recall(
        (*key, with_captions),
        (encoder, data, tokenizer),
        lambda: _embed(encoder, data, options, tokenizer, with_captions),
    )
    return pairs if captions == with_captions else _without_captions(pairs)


def embed_captions(
    encoder: DualEncoder,
    data: DataSource,
    options: EmbedOptions,
    tokenizer: Tokenizer | None = None,
) -> EmbeddedPairs:
    """Embed the captions of a data set; its images are neither decoded nor embedded.

    Args:
        encoder: The model.
        data: Images with captions.
        options: Batch size, limit, precision.
        tokenizer: Tokenizer for the captions; None for that of the text tower.

    Returns:
        The embeddings, without those of images, unless the same block ``remembering`` has them.
    """
    if is_remembered((*_key(encoder, data, options, tokenizer), True)):
        return embed_pairs(encoder, data, options, tokenizer)
    return _embed(encoder, data, options, tokenizer, True, with_images=False)


def known_pairs(
    encoder: DualEncoder, data: DataSource, options: EmbedOptions
) -> EmbeddedPairs | None:
    """Return embeddings of the same block ``remembering`` without a pass over the data.

    Returns:
        The embeddings, with captions if they were embedded; None if nothing embedded the data.
    """
    key = _key(encoder, data, options, None)
    for captions in (True, False):
        if is_remembered((*key, captions)):
            return embed_pairs(encoder, data, options, captions=captions)
    return None


def _key(
    encoder: DualEncoder,
    data: DataSource,
    options: EmbedOptions,
    tokenizer: Tokenizer | None,
) -> tuple[Hashable, ...]:
    return "pairs", id(encoder), data.identity, options, id(tokenizer)


def _embed(
    encoder: DualEncoder,
    data: DataSource,
    options: EmbedOptions,
    tokenizer: Tokenizer | None,
    with_captions: bool,
    with_images: bool = True,
) -> EmbeddedPairs:
    ids, cache = ids_of_rank(data, options), cache_of(encoder) if with_images else None
    key = None if cache is None else cache.images_key(data, options)
    count = len(data) if options.limit is None else min(len(data), options.limit)
    stored = None if cache is None else cache.load(key, count)
    with same_errors(), evaluating(encoder, options.precision):
        decode = with_images and stored is None
        local = _embed_rank(encoder, data, ids, options, decode)
    pairs = _join_ranks(local, ids)
    if stored is not None:
        pairs = replace(pairs, images=stored)
    elif cache is not None:
        cache.store(key, pairs.images)
    if not with_captions or not pairs.captions:
        return replace(pairs, captions=(), text_to_image=pairs.text_to_image[:0])
    with evaluating(encoder, options.precision):
        tokenizer = tokenizer or tokenizer_of(encoder)
        texts = encode_on_ranks(encoder, tokenizer, pairs.captions, options.batch_size)
    return replace(pairs, texts=texts.cpu())


def _without_captions(pairs: EmbeddedPairs) -> EmbeddedPairs:
    return replace(pairs, texts=pairs.texts[:0], text_to_image=pairs.text_to_image[:0], captions=())


def encode_texts(
    encoder: TowerEncoder, tokenizer: Tokenizer, texts: Sequence[str], batch_size: int
) -> Float[Tensor, "texts D"]:
    """Return unit-norm float32 embeddings of texts, on the encoder's device."""
    device = encoder.log_logit_scale.device
    batches = [
        encoder.encode_text(tokenizer(list(texts[start : start + batch_size])).to(device)).float()
        for start in range(0, len(texts), batch_size)
    ]
    return torch.cat(batches) if batches else torch.empty(0, encoder.embedding_dim, device=device)


def encode_on_ranks(
    encoder: TowerEncoder, tokenizer: Tokenizer, texts: Sequence[str], batch_size: int
) -> Float[Tensor, "texts D"]:
    """Return what ``encode_texts`` does; each rank embeds a part of the same texts.

    Texts for the encoder's own tokenizer are read from the cache of ``cached_embeddings``.
    """
    cache = cache_of(encoder) if tokenizer is tokenizer_of(encoder) else None
    key = None if cache is None else cache.texts_key(texts)
    stored = None if cache is None else cache.load(key, len(texts))
    if stored is not None:
        return stored.to(encoder.log_logit_scale.device)
    share = -(-len(texts) // world_size())
    start = rank() * share
    with same_errors():
        local = encode_texts(encoder, tokenizer, texts[start : start + share], batch_size)
    sizes = [size for (size,) in gather_sizes(len(local), device=local.device)]
    rows = gather_rows(local, sizes)
    if cache is not None:
        cache.store(key, rows)
    return rows


def tokenizer_of(encoder: TowerEncoder) -> Tokenizer:
    """Return the tokenizer of the encoder's text tower."""
    return inputs.tokenizer_of(encoder.text_tower)


def _embed_rank(
    encoder: DualEncoder,
    data: DataSource,
    ids: Sequence[int],
    options: EmbedOptions,
    decode: bool,
) -> EmbeddedPairs:
    """Read the samples of this rank and embed their images; ``text_to_image`` is the sample's id.

    Without ``decode`` there are no embeddings of images. There are never any of texts.
    """
    device = encoder.log_logit_scale.device
    images = [torch.empty(0, encoder.embedding_dim, device=device)]
    captions, labels, keys = list[tuple[str, ...]](), list[int](), list[str]()
    if decode:
        inputs = data.modality.inputs(encoder)
        for chunk in decoded_chunks(encoder, data, ids, options):
            images.append(inputs.encode(*chunk.on(device)).float())
            captions += chunk.captions
            labels += chunk.labels
            keys += chunk.keys
    else:
        read = data.without_file if isinstance(data, EvaluationDataset) else data.sample
        for sample in map(read, ids):  # one image in memory at a time
            captions.append(sample.captions)
            labels.append(sample.label)
            keys.append(sample.key)
    owners = [i for i, texts in zip(ids, captions, strict=True) for _ in texts]
    return EmbeddedPairs(
        images=torch.cat(images),
        texts=images[0],
        text_to_image=torch.tensor(owners, dtype=torch.int64, device=device),
        labels=torch.tensor(labels, dtype=torch.int64, device=device),
        keys=tuple(keys),
        captions=tuple(text for texts in captions for text in texts),
    )


def _join_ranks(local: EmbeddedPairs, ids: Sequence[int]) -> EmbeddedPairs:
    """Gather the samples of all ranks on every rank, in the order of the data."""
    device = local.images.device
    sizes = gather_sizes(len(local.keys), len(local.captions), len(local.images), device=device)
    num_samples, num_texts, num_images = ([size[i] for size in sizes] for i in range(3))
    local_ids = torch.tensor(ids, dtype=torch.int64, device=device)
    order = gather_rows(local_ids, num_samples).cpu().argsort()
    text_to_image = gather_rows(local.text_to_image, num_texts).cpu()
    text_order = text_to_image.argsort(stable=True)
    images = gather_rows(local.images, num_images).cpu()
    keys = gather_texts(local.keys, num_samples, device)
    captions = gather_texts(local.captions, num_texts, device)
    return EmbeddedPairs(
        images=images[order] if len(images) else images,
        texts=local.texts.cpu(),
        text_to_image=text_to_image[text_order],
        labels=gather_rows(local.labels, num_samples).cpu()[order],
        keys=tuple(keys[i] for i in order.tolist()),
        captions=tuple(captions[i] for i in text_order.tolist()),
    )
