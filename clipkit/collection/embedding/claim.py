"""Start a collection: write ``collection.json`` once, or check that the one there is the same."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

from clipkit.addresses import is_local
from clipkit.collection.embedding.columns import column_types
from clipkit.collection.embedding.names import shard_names
from clipkit.collection.embedding.plan import EmbedPlan
from clipkit.collection.embedding.sounds import sound_reader
from clipkit.collection.info import (
    INFO_FILE,
    RESERVED_NAMES,
    CollectionInfo,
    CollectionShard,
    create_info,
    modality_columns,
    read_info,
)
from clipkit.errors import ConfigError
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.hashes import model_hash
from clipkit.models import TowerEncoder


def start_collection(
    plan: EmbedPlan,
    encoder: TowerEncoder,
    weights: str | None,
    data: EvaluationDataset,
    versions: Mapping[str, str] | None = None,
) -> CollectionInfo:
    """Write the record of a collection, or return the one that is there.

    Several processes may do so at the same time: one of them writes, all return the same.

    Args:
        plan: What to embed.
        encoder: The plan's model.
        weights: Which weights of a checkpoint it has, as ``LoadedEncoder.weights``.
        data: The plan's data.
        versions: Versions of packages, for the record; None for none.

    Raises:
        ConfigError: If the folder contains other files, or embeddings of another model, of other
            data or with other options; the message names what differs.
        OSError: If the folder cannot be written.
    """
    folder = Path(plan.output)
    folder.mkdir(parents=True, exist_ok=True)
    others = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if not (folder / INFO_FILE).exists():
        if others:
            raise ConfigError(
                f"--output: expected a new or empty folder, or one of a previous `clipkit embed`, "
                f"got {folder} with {others[0]} and without {INFO_FILE}"
            )
        types = column_types(plan.columns, data.index, sum(plan.counts(data.index)))
        info = describe_collection(plan, encoder, weights, data, types, versions)
        if create_info(info, folder):
            return info
    found = read_info(folder)
    info = describe_collection(plan, encoder, weights, data, found.column_types, versions)
    if problems := list(_differences(found, info)):
        raise ConfigError(
            f"--output: {folder} was embedded otherwise: {'; '.join(problems)}; use the same "
            f"options to continue it, or another folder"
        )
    return found


def describe_collection(
    plan: EmbedPlan,
    encoder: TowerEncoder,
    weights: str | None,
    data: EvaluationDataset,
    types: Mapping[str, str],
    versions: Mapping[str, str] | None = None,
) -> CollectionInfo:
    """Return the record of a collection; see ``start_collection``.

    Args:
        plan: What to embed.
        encoder: The plan's model.
        weights: Which weights of a checkpoint it has.
        data: The plan's data.
        types: Arrow type of each further column.
        versions: Versions of packages; None for none.
    """
    counts = plan.counts(data.index)
    shards = data.index.shards[: len(counts)]
    names = shard_names([shard.address for shard in shards])
    modalities = tuple(sound_reader(encoder).transforms)
    _check_names(modalities, plan.columns)
    return CollectionInfo(
        model=_absolute(plan.model),
        weights=weights,
        model_hash=model_hash(encoder) or "",
        data=_absolute(plan.data),
        split=plan.split,
        embedding_dim=encoder.embedding_dim,
        precision=plan.precision,
        has_texts=not plan.images_only and "text" in encoder.towers,
        columns=plan.columns,
        column_types=dict(types),
        class_names=data.class_names,
        shards=tuple(
            CollectionShard(name, _absolute(shard.url), count, shard.size_bytes, shard.digest)
            for name, shard, count in zip(names, shards, counts, strict=True)
        ),
        options=plan.recorded_options(),
        versions=dict(versions or {}),
        modalities=modalities,
        has_images="image" in encoder.towers,
    )


def _check_names(modalities: Sequence[str], columns: Sequence[str]) -> None:
    """Refuse modalities and columns with the names of other files and columns."""
    for name in modalities:
        if name in RESERVED_NAMES:
            raise ConfigError(
                f"encoder: the embeddings of its {name}_tower cannot be stored, as {name!r} names "
                f"other files; use another name, such as 'sound'"
            )
    taken = modality_columns(modalities).keys() & set(columns)
    if taken:
        raise ConfigError(
            f"columns: {min(taken)!r} is a column of the sounds; name another field, or leave it "
            f"out"
        )


def _absolute(name: str) -> str:
    """Return a name or URL as it is, and the path of a file as one that any process can open."""
    is_path = is_local(name) and Path(name).exists()
    return os.path.abspath(name) if is_path else name  # noqa: PTH100 - links are kept


def _differences(found: CollectionInfo, info: CollectionInfo) -> Iterator[str]:
    """Yield what differs, as text; names of the same model and data may differ."""
    if found.model_hash != info.model_hash or (
        not info.model_hash and (found.model, found.weights) != (info.model, info.weights)
    ):
        yield _difference("model", _model(found), _model(info))
    for name in ("embedding_dim", "precision", "columns", "class_names", "modalities"):
        before, now = getattr(found, name), getattr(info, name)
        if before != now:
            yield _difference(name, before, now)
    if found.has_texts != info.has_texts:
        yield _difference("images only", not found.has_texts, not info.has_texts)
    for name in sorted(found.options.keys() | info.options.keys()):
        before, now = found.options.get(name), info.options.get(name)
        if before != now:
            yield _difference(name, before, now)
    yield from _shard_differences(found, info)


def _shard_differences(found: CollectionInfo, info: CollectionInfo) -> Iterator[str]:
    if len(found.shards) != len(info.shards):
        yield _difference("number of shards", len(found.shards), len(info.shards))
        return
    for before, now in zip_longest(found.shards, info.shards):
        if _identity(before) != _identity(now):
            yield _difference("shard", _shown(before), _shown(now))
            return


def _identity(shard: CollectionShard) -> tuple[object, ...]:
    """Return what is equal for a shard with the same samples; of an unknown table, the address."""
    return shard.name, shard.num_samples, shard.size_bytes, shard.digest or shard.url


def _model(info: CollectionInfo) -> str:
    weights = f", {info.weights} weights" if info.weights else ""
    return f"{info.model}{weights} (hash {info.model_hash or 'unknown'})"


def _shown(shard: CollectionShard) -> str:
    return (
        f"{shard.url} as {shard.name} ({shard.num_samples} samples, {shard.size_bytes} bytes, "
        f"digest {shard.digest or 'unknown'})"
    )


def _difference(name: str, before: object, now: object) -> str:
    return f"{name}: then {before}, now {now}"
