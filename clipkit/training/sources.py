"""What a run trains on, as a configuration says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clipkit.data import Mixture, ShardCache, ShardIndex, Source, Stage
from clipkit.data.packing_sources import CLASS_NAMES_FILE, open_source
from clipkit.data.prepared import Prepared, is_raw, prepare, prepare_classes
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
) -> ShardIndex | Mixture:
    """The index of some shards, or the mixture of several sources.

    Args:
        train: Shards, or a table or folder of pictures, which is packed once into a cache.
        mixture: Sources; either these or shards.
        choice: Which samples of ``train``; None for all of them.
        stages: Other weights of the mixture from some steps on.
        epoch_samples: Samples of an epoch of the mixture.
        access: How the shards are reached; None for the default cache and no pipes.

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
            Source(s.name, open_index(s.urls, access=access), s.weight, s.epochs) for s in mixture
        ]
        return Mixture(sources, epoch_samples, stages or ())
    if not train:
        raise ConfigError("data.train: expected data to train on, got none")
    if choice.is_everything:
        return open_index(train, access=access)
    return _chosen(train, choice, access or Access())


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
    data: str | Sequence[str] | None, access: Access | None = None
) -> tuple[str, ...]:
    """The names of the classes of a table or folder; none where it is something else.

    Args:
        data: What is trained on.
        access: How it is reached.
    """
    if not isinstance(data, str) or not is_raw(data):
        return ()
    source = open_source(Path(data), allow_outside=access is not None and access.allow_outside)
    return tuple(source.files.get(CLASS_NAMES_FILE, "").splitlines())


def _chosen(train: str | Sequence[str], choice: Choice, access: Access) -> ShardIndex | Mixture:
    several = [train] if isinstance(train, str) else list(train)
    if len(several) != 1:
        raise ConfigError(
            "data.train: samples_per_class and balance_classes take one table, folder or folder of "
            f"shards, got {len(several)} sources"
        )
    data, number, seed, outside = (
        several[0], choice.samples_per_class, choice.seed, access.allow_outside
    )  # fmt: skip
    if not choice.balance_classes:
        return _index(prepare(data, samples_per_class=number, seed=seed, allow_outside=outside))
    classes = prepare_classes(data, samples_per_class=number, seed=seed, allow_outside=outside)
    # An epoch of the mixture has as many samples as the data, so steps and schedules stay alike.
    return Mixture([Source(name, _index(part), weight=1.0) for name, part in classes.items()])


def _index(prepared: Prepared) -> ShardIndex:
    return ShardIndex.from_urls(prepared.shards)
