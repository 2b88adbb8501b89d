"""Embed shards into their files, one after another, in one stream of batches."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final, final

from clipkit.collection.embedding.columns import shown_misfits
from clipkit.collection.embedding.plan import EmbedPlan, default_workers
from clipkit.collection.embedding.reading import (
    BatchTasks,
    ReadBatch,
    SampleReader,
    UnreadBatch,
    read_batches,
)
from clipkit.collection.embedding.sounds import sound_reader
from clipkit.collection.embedding.towers import Towers
from clipkit.collection.info import CollectionInfo, CollectionShard, read_info
from clipkit.collection.shard_files import ShardRows
from clipkit.collection.shard_writer import ShardWriter
from clipkit.data.shards.reader import ShardReader
from clipkit.errors import FaultBudgetExceeded, ShardError
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.models import TowerEncoder
from clipkit.models.evaluating import evaluating
from clipkit.models.inputs import tokenizer_of, transform_of

_LOG: Final = logging.getLogger(__name__)
_LOUD_FAULTS: Final = 20
"""Number of bad samples per shard that are logged as warnings."""


@dataclass(frozen=True, slots=True)
class ShardReport:
    """Outcome of one shard.

    Args:
        number: Number of the shard.
        num_images: Number of images with an embedding.
        num_texts: Number of captions with an embedding.
        num_bad: Number of samples with a member that cannot be embedded, whose ``error``, or a
            column such as ``sound_error``, says why.
        failure: Why the shard has no files; "" if it is complete.
        num_sounds: Number of sounds with an embedding.
    """

    number: int
    num_images: int = 0
    num_texts: int = 0
    num_bad: int = 0
    failure: str = ""
    num_sounds: int = 0


def embed_shard(
    plan: EmbedPlan, encoder: TowerEncoder, data: EvaluationDataset, number: int
) -> ShardReport:
    """Embed one shard of a collection that ``start_collection`` started, and write its files.

    Files that are there are replaced; each appears completely or not at all, the table last.

    Args:
        plan: What to embed.
        encoder: The plan's model.
        data: The plan's data.
        number: Number of the shard, from 0.

    Returns:
        What was embedded, or why the shard cannot be.

    Raises:
        DataError: If the collection was not started.
        NonFiniteError: If an embedding is not a unit vector.
        OSError: If the files cannot be written.
    """
    return next(embed_shards(plan, read_info(plan.output), encoder, data, [number]))


def embed_shards(
    plan: EmbedPlan,
    info: CollectionInfo,
    encoder: TowerEncoder,
    data: EvaluationDataset,
    numbers: Sequence[int],
    is_wanted: Callable[[int], bool] = lambda _: True,
    on_batch: Callable[[int], None] = lambda _: None,
) -> Iterator[ShardReport]:
    """Embed several shards, and yield the report of each as soon as its files are written.

    The workers read and decode the next shard while the towers embed this one.

    Args:
        plan: What to embed.
        info: Record of the collection.
        encoder: The plan's model.
        data: The plan's data.
        numbers: Numbers of the shards, from 0, in the order in which they are embedded.
        is_wanted: Asked before a shard is read; a shard that is not wanted has no report.
        on_batch: Called with the number of samples after each batch.

    Raises:
        NonFiniteError: If an embedding is not a unit vector.
        OSError: If the files cannot be written.
    """
    counts = [shard.num_samples for shard in info.shards]
    reader = _reader(plan, info, encoder, data)
    tasks = BatchTasks(
        ShardReader(data.index), data.index, counts, numbers, plan.batch_size, is_wanted
    )
    workers = plan.num_workers
    if workers is None:
        workers = default_workers(encoder.log_logit_scale.device)
    num_batches = sum(-(-counts[number] // plan.batch_size) for number in numbers)
    writer = _Embedder(plan, info, Towers(encoder, plan.model, plan.precision), on_batch)
    batches = read_batches(reader, tasks, min(workers, num_batches))
    with closing(batches), evaluating(encoder, plan.precision):
        for first in batches:
            of_shard = _to_the_end(first, batches, counts[first.task.shard])
            report = writer.embed(first.task.shard, of_shard)
            for _ in of_shard:  # the rest of a shard that is left out
                pass
            yield report


def _to_the_end(
    batch: ReadBatch | UnreadBatch, batches: Iterator[ReadBatch | UnreadBatch], num_samples: int
) -> Iterator[ReadBatch | UnreadBatch]:
    """Yield a batch and the next ones up to the last of its shard, without reading further."""
    yield batch
    while batch.task.end < num_samples:
        batch = next(batches)
        yield batch


def _reader(
    plan: EmbedPlan, info: CollectionInfo, encoder: TowerEncoder, data: EvaluationDataset
) -> SampleReader:
    return SampleReader(
        data.index,
        ShardReader(data.index),
        transform_of(encoder.image_tower) if info.has_images else None,
        encoder.image_tower.budget,
        tokenizer_of(encoder.text_tower) if info.has_texts else None,
        data.caption,
        data.label_field,
        info.column_types,
        plan.batch_size,
        sound_reader(encoder),
    )


@final
class _Embedder:
    """Embeds the batches of a shard and writes its files."""

    def __init__(
        self,
        plan: EmbedPlan,
        info: CollectionInfo,
        towers: Towers,
        on_batch: Callable[[int], None],
    ) -> None:
        self._plan = plan
        self._info = info
        self._towers = towers
        self._on_batch = on_batch

    def embed(self, number: int, batches: Iterable[ReadBatch | UnreadBatch]) -> ShardReport:
        """Return what was embedded, or why the shard has no files."""
        shard, info = self._info.shards[number], self._info
        counts, misfits = Counter[str](), Counter[str]()
        try:
            with ShardWriter(
                self._plan.output, shard.name, info.embedding_dim, info.kinds, info.column_types
            ) as writer:
                for batch in batches:
                    if isinstance(batch, UnreadBatch):
                        raise batch.error
                    writer.append(self._rows(batch, shard, counts))
                    misfits += batch.misfits
                    self._on_batch(len(batch.columns["key"]))
        except (ShardError, FaultBudgetExceeded) as error:
            _LOG.error("shard %s is left out: %s", shard.name, error)
            return ShardReport(number, failure=str(error))
        if misfits:
            _LOG.warning(
                "%s: values that are not of the type of their column are null: %s",
                shard.url, shown_misfits(misfits),
            )  # fmt: skip
        return ShardReport(
            number, counts["images"], counts["texts"], counts["bad"], num_sounds=counts["sounds"]
        )

    def _rows(self, batch: ReadBatch, shard: CollectionShard, counts: Counter[str]) -> ShardRows:
        self._count_bad(batch, shard, counts)
        images = self._towers.embed_images(batch, shard.url) if self._info.has_images else None
        texts = self._towers.embed_texts(batch, shard.url) if self._info.has_texts else None
        counts["images"] += len(batch.places)
        counts["texts"] += 0 if texts is None else len(texts)
        modalities = {}
        for name in self._info.modalities:
            modalities[name] = self._towers.embed_signals(name, batch, shard.url)
        heard = {place for signals in batch.signals.values() for place in signals.places}
        counts["sounds"] += len(heard)
        return ShardRows(images, texts, batch.columns, modalities)

    def _count_bad(self, batch: ReadBatch, shard: CollectionShard, counts: Counter[str]) -> None:
        faults = self._plan.faults
        allowed = faults.max_bad_samples(shard.num_samples)
        for key, error in zip(batch.columns["key"], batch.faults, strict=True):
            if error is None:
                continue
            counts["bad"] += 1
            level = logging.WARNING if counts["bad"] <= _LOUD_FAULTS else logging.DEBUG
            _LOG.log(level, "no embedding of %s: %s: %s", shard.url, key, error)
            if counts["bad"] > allowed:
                raise FaultBudgetExceeded(
                    f"{shard.url}: more than {allowed} bad samples of {shard.num_samples} "
                    f"(max_bad_fraction={faults.max_bad_fraction}); the last one: {key}: {error}"
                )
