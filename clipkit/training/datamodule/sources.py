"""What a run trains on, as a configuration says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipkit.data import Mixture, ShardCache, ShardIndex, Source, Stage
from clipkit.data.packing.packed_cache import Prepared, is_raw, prepare, prepare_classes
from clipkit.data.packing.source_classes import SourceClasses, classes_of, join_classes
from clipkit.errors import ConfigError


@dataclass(frozen=True, slots=True)
class MixedSource:
    """One of several data sets that are mixed in exact proportions; see ``clipkit.data.Mixture``.

    Args:
        name: For counters and checkpoints.
        urls: Its shards, or a table or folder of pictures.
        weight: Its share of the samples, relative to the other sources'.
        epochs: Instead of a weight: how often an epoch of the mixture goes through it.
    """

    name: str
    urls: str | list[str]
    weight: float | None = None
    epochs: float | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """Which of the training samples are taken, and how often.

    Args:
        samples_per_class: k for few-shot training; None for all.
        balance_classes: Show every class equally often, however many samples it has.
        seed: Of the choice.
    """

    samples_per_class: int | None = None
    balance_classes: bool = False
    seed: int = 0

    @property
    def is_everything(self) -> bool:
        """Whether nothing is left out and nothing repeated."""
        return self.samples_per_class is None and not self.balance_classes


@dataclass(frozen=True, slots=True)
class Access:
    """How shards are reached.

    Args:
        cache: Where remote shards are kept; None for the default cache.
        allow_pipe: Whether ``pipe:COMMAND`` may run a command of this machine.
        allow_outside: Whether the images of a table or folder may be outside of its folder.
    """

    cache: ShardCache | None = None
    allow_pipe: bool = False
    allow_outside: bool = False


def open_data(
    train: str | Sequence[str] | None,
    mixture: Sequence[MixedSource] | None,
    choice: Choice | None = None,
    stages: Sequence[Stage] | None = None,
    epoch_samples: int | None = None,
    access: Access | None = None,
    class_names: Sequence[str] = (),
) -> ShardIndex | Mixture:
    """The index of some shards, or the mixture of several sources.

    Args:
        train: Shards, or a table or folder of pictures, which is packed once into a cache.
        mixture: Sources; either these or shards.
        choice: Which samples of ``train``; None for all of them.
        stages: Other weights of the mixture from some steps on.
        epoch_samples: Samples of an epoch of the mixture.
        access: How the shards are reached; None for the default cache and no pipes.
        class_names: Numbers the classes of tables and folders that tell them by name.

    Returns:
        What a ``PairStream`` reads.

    Raises:
        ClipkitError: If both are given or none, if data are missing, if the sources do not make a
            mixture, or if a choice is asked of a mixture.
    """
    choice = choice or Choice()
    if train and mixture:
        raise ConfigError("data.train: expected either train or mixture, got both")
    if not mixture and (stages or epoch_samples is not None):
        raise ConfigError(
            "data.mixture_stages and data.mixture_epoch_samples: expected a mixture, got none"
        )
    if mixture:
        if not choice.is_everything:
            raise ConfigError(
                "data.mixture: samples_per_class and balance_classes go with data.train; give the "
                "sources weights instead"
            )
        sources = [
            Source(s.name, open_index(s.urls, class_names, access), s.weight, s.epochs)
            for s in mixture
        ]
        return Mixture(sources, epoch_samples, stages or ())
    if not train:
        raise ConfigError("data.train: expected data to train on, got none")
    if choice.is_everything:
        return open_index(train, class_names, access)
    return _chosen(train, choice, class_names, access or Access())


def open_index(
    data: str | Sequence[str],
    class_names: Sequence[str] | None = None,
    access: Access | None = None,
) -> ShardIndex:
    """The index of shards, or of the shards that stand for a table or folder of pictures.

    Args:
        data: Paths, URLs or patterns.
        class_names: Numbers the classes of a table or folder that tells them by name.
        access: How the shards are reached; None for the default cache and no pipes.

    Raises:
        ClipkitError: If data are missing or cannot be packed.
    """
    access = access or Access()
    shards: list[str | Path] = []
    for one in [data] if isinstance(data, str) else data:
        if is_raw(one):
            packed = prepare(one, class_names=class_names, allow_outside=access.allow_outside)
            shards += packed.shards
        else:
            shards.append(one)
    return ShardIndex.from_urls(shards, cache=access.cache, allow_pipe=access.allow_pipe)


def class_names_of(
    train: str | Sequence[str] | None,
    mixture: Sequence[MixedSource] | None = None,
    known: Sequence[str] = (),
    access: Access | None = None,
) -> tuple[str, ...]:
    """Names of the classes of all training data, in the order of the numbers that they get.

    Args:
        train: Shards, or a table or folder of images.
        mixture: Sources; either these or shards.
        known: Names that the model has numbered, which are taken if they include those of the data.
        access: How the shards are reached; None for the default cache and no pipes.

    Raises:
        ClipkitError: If data are missing, or two sources give one number to different names.
    """
    access = access or Access()
    sources = [
        _classes(one, access)
        for data in (train or [], *[source.urls for source in mixture or ()])
        for one in ([data] if isinstance(data, str) else data)
    ]
    names = join_classes(sources)
    return join_classes(sources, known) if names and {*names} <= {*known, ""} else names


def check_classes(
    val: str | Sequence[str], class_names: Sequence[str], access: Access | None = None
) -> None:
    """Compare the names of the classes in validation shards with those of training.

    Tables and folders are not checked here: they are numbered by the names.

    Args:
        val: Validation data.
        class_names: Names in the order of the class numbers.
        access: How the shards are reached; None for the default cache and no pipes.

    Raises:
        ClipkitError: If shards are missing, or a class has another name there.
    """
    access = access or Access()
    for one in [val] if isinstance(val, str) else val:
        if not is_raw(one):
            found = _classes(one, access)
            join_classes([found], class_names, "the training data")


def _classes(source: str, access: Access) -> SourceClasses:
    return classes_of(
        source,
        access.cache,
        allow_pipe=access.allow_pipe,
        allow_outside=access.allow_outside,
    )


def _chosen(
    train: str | Sequence[str], choice: Choice, class_names: Sequence[str], access: Access
) -> ShardIndex | Mixture:
    several = [train] if isinstance(train, str) else list(train)
    if len(several) != 1:
        raise ConfigError(
            "data.train: samples_per_class and balance_classes take one table, folder or folder of "
            f"shards, got {len(several)} sources"
        )
    options: dict[str, Any] = {
        "class_names": class_names,
        "samples_per_class": choice.samples_per_class,
        "seed": choice.seed,
        "allow_outside": access.allow_outside,
    }
    if not choice.balance_classes:
        return _index(prepare(several[0], **options))
    classes = prepare_classes(several[0], **options)
    # An epoch of the mixture has as many samples as the data, so steps and schedules stay alike.
    return Mixture([Source(name, _index(part), weight=1.0) for name, part in classes.items()])


def _index(prepared: Prepared) -> ShardIndex:
    return ShardIndex.from_urls(prepared.shards)
