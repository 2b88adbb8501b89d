"""The stream of batches: exact, resumable, the same over any topology."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import torch

from clipkit.data.cache import ShardCache
from clipkit.data.faults import Fault, FaultBudget, FaultLedger
from clipkit.data.index import ShardIndex
from clipkit.data.lanes import LaneOrder, Layout, choose_layout
from clipkit.data.order import SampleOrder, SequentialOrder, ShuffledOrder, Slicing, Tail, Task
from clipkit.data.preflight import check_first_sample, check_sizes
from clipkit.data.reader import ShardReader
from clipkit.data.samples import BatchBuilder, Caption, Encoder, SampleMaker, Transform
from clipkit.data.urls import is_local
from clipkit.distributed.world import World, current_world
from clipkit.errors import CheckpointError, ConfigError
from clipkit.types import Batch

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

_LOG = logging.getLogger(__name__)
_STATE_VERSION: Final = 1
_PREFETCHED_BATCHES: Final = 4


@final
class PairStream:
    """Batches of image-text pairs, every sample of an epoch once, in an order that is fixed.

    The order depends on the seed, the epoch and the data. Killed and resumed, even on other
    numbers of ranks, workers or samples a batch, a stream gives what it would have given. What was
    handed out but not committed is handed out again.

    A new iteration starts where the last commit left off; after an iteration that ran to the end of
    its epoch, with the next epoch.

    Args:
        index: The data.
        tokenizer: For the captions.
        batch_size: Samples of a batch on one rank.
        seed: Of the order, the augmentation and the choice of captions.
        image_size: Width and height in pixels, where ``image_transform`` is left out: random crops
            when shuffling, else the whole picture, resized and cut to its middle.
        image_transform: From an image file and random numbers to uint8 pixels ``[3 H W]``.
        caption: Picks the text of a sample; None for its ``.txt``.
        label_field: Where the class is: a member (``"cls"``) or a JSON field (``"json:category"``).
        num_workers: Processes that build batches; 0 builds them in this one. The batches are the
            same.
        rank: This process among those that share an epoch; None asks the environment.
        world_size: Their number; None asks the environment.
        shuffle: False for evaluation: the order of the shards, the same every time, no gaps filled.
        tail: What happens to an epoch's last samples, too few for a whole step: "drop", "pad" (with
            the epoch's first ones, counted) or "keep" (a smaller batch, shared out evenly; a rank
            may go without). None drops when shuffling and keeps otherwise.
        shuffle_window: Samples that are shuffled together inside a lane; None to choose.
        num_threads: Samples that a worker makes at the same time.
        max_bad_fraction: Bad samples that are replaced before the run ends, as a fraction of all.
        max_bad_shards: Bad shards that are left out before the run ends.
        fault_log: File that names every bad sample and shard, one JSON object a line.
        cache: Where remote shards are kept; None for the default cache.

    Raises:
        ConfigError: If the sizes cannot work (a step needs more samples than there are).
        DataError: If the first samples have no image or no caption.

    Example:
        >>> stream = PairStream(index, tokenizer=tokenizer, batch_size=64)  # doctest: +SKIP
        >>> for batch in stream:  # doctest: +SKIP
        ...     train_on(batch)
        ...     stream.commit(batch)
        >>> torch.save(stream.state_dict(), "stream.pt")  # doctest: +SKIP
    """

    def __init__(
        self,
        index: ShardIndex,
        *,
        tokenizer: Encoder,
        batch_size: int,
        seed: int = 0,
        image_size: int = 224,
        image_transform: Transform | None = None,
        caption: Caption | None = None,
        label_field: str = "cls",
        num_workers: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        shuffle: bool = True,
        tail: Tail | None = None,
        shuffle_window: int | None = None,
        num_threads: int = 1,
        max_bad_fraction: float = 0.05,
        max_bad_shards: int = 0,
        fault_log: str | Path | None = None,
        cache: ShardCache | None = None,
    ) -> None:
        self._index = index
        self._world = _world(rank, world_size)
        self._shuffle = shuffle
        self._num_workers = num_workers
        self._num_threads = num_threads
        self._seed = seed
        self._reader = ShardReader(index, cache)
        self._maker = SampleMaker(
            tokenizer=tokenizer,
            image_transform=image_transform or _default_transform(image_size, shuffle),
            caption=caption or _default_caption(),
            label_field=label_field,
            seed=seed,
        )
        layout = choose_layout(
            index.num_samples,
            batch_size,
            self._world.size,
            random_access=all(is_local(shard.url) for shard in index.shards),
            window=shuffle_window,
        )
        self._order = self._make_order([layout])
        self._slicing = Slicing(
            num_samples=self._order.num_samples,
            batch_size=batch_size,
            rank=self._world.rank,
            world_size=self._world.size,
            tail=tail or ("drop" if shuffle else "keep"),
        )
        check_sizes(self._slicing)
        check_first_sample(index, self._reader, self._maker)
        self._ledger = FaultLedger(
            FaultBudget(max_bad_fraction, max_bad_shards),
            index.num_samples,
            _log_of_rank(fault_log, self._world),
        )
        self._committed = (0, 0)
        self._next = (0, 0)
        self._padded = 0
        self._iteration = 0
        self._tasks: list[Task] = []
        self._loader: DataLoader[Any] | None = None

    def __len__(self) -> int:
        """Batches of this rank in a whole epoch, wherever the stream stands."""
        return self._slicing.num_batches()

    @property
    def epoch(self) -> int:
        """The epoch of the next batch to be trained on."""
        return self._committed[0]

    @property
    def num_samples(self) -> int:
        """Samples in an epoch, over all ranks, the tail included."""
        return self._order.num_samples

    def __iter__(self) -> Iterator[Batch]:
        """The batches from here to the epoch's end. Workers start with the first one."""
        self._iteration += 1
        mine = self._iteration
        epoch, position = self._start()
        self._tasks = list(self._slicing.tasks(epoch, position))
        for item in self._batches():
            if isinstance(item, Exception):
                raise item
            assert item.cursor is not None
            faults = [Fault(*fault) for fault in item.cursor["faults"]]
            self._ledger.record(faults, item.cursor["faults_epoch"])
            yield item
            if self._iteration != mine:
                raise ConfigError(
                    "a newer iteration of this PairStream has begun; only one can run at a time"
                )
        self._next = (epoch + 1, 0)

    def commit(self, batch: Batch) -> None:
        """This batch has been trained on: a resume starts after it.

        Args:
            batch: As the stream gave it, or its copy on a device.

        Raises:
            ConfigError: If the batch carries no cursor, so is no batch of a stream.
        """
        if batch.cursor is None:
            raise ConfigError("commit: expected a batch of a PairStream, got one without a cursor")
        self._committed = (int(batch.cursor["epoch"]), int(batch.cursor["position"]))
        self._next = self._committed
        self._padded += int(batch.cursor["padded"])

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands after the last commit: plain types, the same on every rank.

        Faults of other ranks are in it after ``sync_faults``.
        """
        epoch, position = self._committed
        return {
            "version": _STATE_VERSION,
            "fingerprint": self._index.fingerprint,
            "num_samples": self._index.num_samples,
            "seed": self._seed,
            "epoch": epoch,
            "position": position,
            "padded": self._padded,
            **self._order.to_state(),
            **self._ledger.to_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go where a stream stood, on any number of ranks and workers and with any batch size.

        Args:
            state: What ``state_dict`` gave.

        Raises:
            CheckpointError: If the state is of another format, of other data, or of another kind.
        """
        _check_state(state, self._index)
        if bool(state["layouts"]) != self._shuffle:
            raise CheckpointError("stream state: of a stream with another value of shuffle")
        if state["seed"] != self._seed:
            _LOG.warning("seed: the state's %s goes on, not %s", state["seed"], self._seed)
            self._seed = int(state["seed"])
            self._maker = replace(self._maker, seed=self._seed)
        self._order = self._make_order([Layout.from_state(item) for item in state["layouts"]])
        self._ledger.merge(FaultLedger.faults_of_state(state))
        for number, shard in enumerate(self._index.shards):
            if shard.url in self._ledger.bad_shards:
                self._reader.mark_bad(number, self._ledger.bad_shards[shard.url])
        self._committed = self._next = (int(state["epoch"]), int(state["position"]))
        self._padded = int(state["padded"])
        self._iteration += 1
        self._loader = None

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; in the middle of that epoch already, stay there."""
        if epoch != self._start()[0]:
            self._committed = self._next = (epoch, 0)

    def counters(self) -> dict[str, int]:
        """Bad samples, bad shards and padded samples so far, for logs."""
        return {
            "bad_samples": self._ledger.num_bad_samples,
            "bad_shards": self._ledger.num_bad_shards,
            "padded": self._padded,
        }

    def _start(self) -> tuple[int, int]:
        """Where the next iteration begins: never at an end where no batch is left."""
        epoch, position = self._next
        if position and not self._slicing.num_batches(position):
            return epoch + 1, 0
        return epoch, position

    def _make_order(self, layouts: list[Layout]) -> SampleOrder:
        if not self._shuffle:
            return SequentialOrder(self._index.num_samples)
        return ShuffledOrder(LaneOrder(self._index.counts, layouts[0], self._seed))

    def _batches(self) -> Iterator[Batch | Exception]:
        from torch.utils.data import DataLoader

        if self._loader is None:
            builder = BatchBuilder(self._reader, self._maker, self._order, self._num_threads)
            self._loader = DataLoader(
                builder,  # type: ignore[arg-type]
                sampler=_Tasks(self),
                batch_size=None,
                num_workers=self._num_workers,
                persistent_workers=self._num_workers > 0,
                prefetch_factor=_PREFETCHED_BATCHES if self._num_workers else None,
                pin_memory=torch.cuda.is_available(),
                # A generator of its own: the global one must not depend on how often we iterate.
                generator=torch.Generator(),
            )
        return iter(self._loader)


@final
class _Tasks:
    """The tasks of the current iteration, as the loader's sampler."""

    def __init__(self, stream: PairStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[Task]:
        return iter(self._stream._tasks)

    def __len__(self) -> int:
        return len(self._stream._tasks)


def _world(rank: int | None, world_size: int | None) -> World:
    if rank is None and world_size is None:
        return current_world()
    if rank is None or world_size is None:
        raise ConfigError(f"rank and world_size: give both or none, got {rank} and {world_size}")
    return World(rank, world_size)


def _default_transform(image_size: int, shuffle: bool) -> Transform:
    from clipkit.data.transforms import EvalTransform, TrainTransform

    transform: Transform = TrainTransform(image_size) if shuffle else EvalTransform(image_size)
    return transform


def _default_caption() -> Caption:
    from clipkit.data.captions import TextField

    caption: Caption = TextField("txt")
    return caption


def _log_of_rank(path: str | Path | None, world: World) -> Path | None:
    if path is None:
        return None
    path = Path(path)
    return path if world.size == 1 else path.with_suffix(f".rank{world.rank}{path.suffix}")


def _check_state(state: Mapping[str, Any], index: ShardIndex) -> None:
    if state.get("version") != _STATE_VERSION:
        raise CheckpointError(
            f"stream state: expected version {_STATE_VERSION}, got {state.get('version')!r}"
        )
    if state["fingerprint"] != index.fingerprint:
        raise CheckpointError(
            f"stream state: taken on other data: {state['num_samples']} samples, fingerprint "
            f"{state['fingerprint']}; now {index.num_samples} samples, {index.fingerprint}. Use "
            f"the same shards in the same order, or start without the state"
        )
