"""Open the training data that a configuration specifies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clipkit.data import Answers, Mixture, SampleMask, ShardIndex, Source, WebDatasetShards
from clipkit.data.packing.packed_cache import (
    PackedShards,
    is_raw,
    pack_classes_to_cache,
    pack_to_cache,
)
from clipkit.data.packing.source_classes import SourceClasses, classes_of, join_classes
from clipkit.data.packing.subsets import class_of
from clipkit.errors import ConfigError
from clipkit.training.datamodule.options import (
    MixtureOptions,
    MixtureSource,
    PairOptions,
    StorageOptions,
)


def check_addresses(key: str, data: object) -> None:
    """Refuse data that are not named by an address, such as tables in memory.

    Raises:
        ConfigError: If ``data`` is neither None nor a path, a URL or a list of them.

    Examples:
        >>> check_addresses("data.train", ["a.tar", "b.tar"])
    """
    names = data if isinstance(data, list | tuple) else [] if data is None else [data]
    for name in names:
        if not isinstance(name, str | Path):
            raise ConfigError(
                f"{key}: expected a path, a URL or a list of them, got "
                f"{type(name).__module__}.{type(name).__name__}; write a datasets.Dataset into "
                f"shards once, clipkit.data.pack(dataset, FOLDER), and name the folder"
            )


def open_data(
    train: str | Sequence[str] | None,
    mixture: MixtureOptions = MixtureOptions(),
    samples: PairOptions = PairOptions(),
    seed: int = 0,
    storage: StorageOptions = StorageOptions(),
    class_names: Sequence[str] = (),
) -> ShardIndex | Mixture:
    """Open some shards, or a mixture of several sources, and the masks of their samples."""
    if train and mixture.sources:
        raise ConfigError("data.train: expected either train or mixture, got both")
    if not mixture.sources and (mixture.stages or mixture.epoch_samples is not None):
        raise ConfigError(
            "data.mixture.stages and data.mixture.epoch_samples: expected data.mixture.sources, "
            "got none"
        )
    if samples.mask and (mixture.sources or samples.selects):
        raise ConfigError(
            "data.samples.mask: is a mask of the shards of data.train; for a mixture, give each "
            "source its mask (data.mixture.sources: mask), and leave out samples.per_class and "
            "samples.balance_classes, which pack other shards"
        )
    if mixture.sources:
        if samples.selects:
            raise ConfigError(
                "data.mixture: samples.per_class and samples.balance_classes need data.train; "
                "use weights of the sources instead"
            )
        sources = [
            Source(s.name, open_index(s.urls, class_names, storage, s.mask), s.weight, s.epochs)
            for s in mixture.sources
        ]
        return Mixture(sources, mixture.epoch_samples, mixture.stages)
    if not train:
        raise ConfigError("data.train: expected data to train on, got none")
    if samples.selects:
        return _selected(train, samples, seed, class_names, storage)
    return open_index(train, class_names, storage, samples.mask)


def webdataset_shards(
    train: str | Sequence[str] | None,
    mixture: MixtureOptions,
    samples: PairOptions,
    storage: StorageOptions,
) -> WebDatasetShards:
    """Return the training shards for webdataset, if it can read the training data."""
    options = storage.webdataset
    if samples.mask:
        raise ConfigError(
            "data.samples.mask: webdataset reads shards without an index, so that samples have no "
            "ids; leave out data.storage.webdataset, or the mask and filter in a pipeline of your "
            "own (data.storage.webdataset.pipeline)"
        )
    if options.num_samples is None:
        raise ConfigError(
            "data.storage.webdataset.num_samples: expected the number of samples that count as an "
            "epoch, got none; the length of the data need not be known"
        )
    if mixture.sources or samples.selects:
        raise ConfigError(
            "data.storage.webdataset: data.mixture, samples.per_class and samples.balance_classes "
            "need an exact order; leave out one or the other"
        )
    if not train and options.pipeline is None:
        raise ConfigError("data.train: expected shards to train on, got none")
    for source in [train] if isinstance(train, str) else train or ():
        if is_raw(source):
            raise ConfigError(
                f"data.train: {source}: webdataset reads shards, got a table or folder of images; "
                f"pack it (clipkit shards pack), or leave out data.storage.webdataset"
            )
    return WebDatasetShards(
        train or None,
        options.num_samples,
        options.resampled,
        options.pipeline,
        storage.counts,
        storage.allow_pipe,
        storage.cache,
    )


def open_index(
    data: str | Sequence[str],
    class_names: Sequence[str] | None = None,
    storage: StorageOptions = StorageOptions(),
    mask: str | Sequence[str] | None = None,
) -> ShardIndex:
    """Return the index of shards, or of the packed shards of a table or folder of images.

    Raises:
        ClipkitError: If the data or a mask cannot be used, or the mask is of other data.
    """
    shards: list[str | Path] = []
    for one in [data] if isinstance(data, str) else data:
        if is_raw(one):
            packed = pack_to_cache(
                one,
                class_names=class_names,
                allow_outside=storage.allow_outside,
                columns=storage.columns,
            )
            shards += packed.shards
        else:
            shards.append(one)
    is_packed = any(isinstance(shard, Path) for shard in shards)
    index = ShardIndex.from_urls(
        shards,
        counts=None if is_packed else storage.counts,
        cache=storage.cache,
        allow_pipe=storage.allow_pipe,
    )
    if not mask:
        return index
    files = [mask] if isinstance(mask, str | Path) else mask
    return index.with_mask(SampleMask.combine([SampleMask.load(file) for file in files]))


def class_names_of(
    train: str | Sequence[str] | None,
    mixture: Sequence[MixtureSource] = (),
    known: Sequence[str] = (),
    storage: StorageOptions = StorageOptions(),
) -> tuple[str, ...]:
    """Return the class names of all training data, in the order of their numbers."""
    sources = [
        _classes(one, storage)
        for data in (train or [], *[source.urls for source in mixture])
        for one in ([data] if isinstance(data, str) else data)
    ]
    names = join_classes(sources)
    return join_classes(sources, known) if names and {*names} <= {*known, ""} else names


def check_classes(
    val: str | Sequence[str], class_names: Sequence[str], storage: StorageOptions = StorageOptions()
) -> None:
    """Compare the names of the classes in validation shards with those of training.

    Tables and folders are not checked here: they are numbered by the names.
    """
    for one in [val] if isinstance(val, str) else val:
        if not is_raw(one):
            found = _classes(one, storage)
            join_classes([found], class_names, "the training data")


def _classes(source: str, storage: StorageOptions) -> SourceClasses:
    return classes_of(
        source,
        storage.cache,
        allow_pipe=storage.allow_pipe,
        allow_outside=storage.allow_outside,
        columns=storage.columns,
    )


def _selected(
    train: str | Sequence[str],
    samples: PairOptions,
    seed: int,
    class_names: Sequence[str],
    storage: StorageOptions,
) -> ShardIndex | Mixture:
    sources = [train] if isinstance(train, str) else list(train)
    if len(sources) != 1:
        raise ConfigError(
            "data.train: samples.per_class and samples.balance_classes need one table, folder or "
            f"folder of shards, got {len(sources)} sources"
        )
    answers = (field.label_of for field in samples.fields if isinstance(field, Answers))
    label_of = next(answers, class_of)
    if not samples.balance_classes:
        return _index(
            pack_to_cache(
                sources[0],
                class_names=class_names,
                samples_per_class=samples.per_class,
                seed=seed,
                allow_outside=storage.allow_outside,
                columns=storage.columns,
                label_of=label_of,
            )
        )
    classes = pack_classes_to_cache(
        sources[0],
        class_names=class_names,
        samples_per_class=samples.per_class,
        seed=seed,
        allow_outside=storage.allow_outside,
        columns=storage.columns,
        label_of=label_of,
    )
    # An epoch of the mixture has as many samples as the data: steps and schedules stay the same.
    return Mixture([Source(name, _index(part), weight=1.0) for name, part in classes.items()])


def _index(prepared: PackedShards) -> ShardIndex:
    return ShardIndex.from_urls(prepared.shards)
