"""Partition an epoch into the batches of each step and rank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from clipkit.data.order.image_sizes import ImageSizeStage, image_size_at
from clipkit.errors import ConfigError
from clipkit.renamed_arguments import renamed_arguments
from clipkit.when import Moment, When, as_when

Tail = Literal["drop", "pad", "keep", "even"]


@renamed_arguments({"until_samples": "until: {samples: N}"})
@dataclass(frozen=True, slots=True)
class BatchSizeStage:
    """A part of a run with smaller batches.

    Args:
        batch_size: Number of samples of a batch on one rank.
        until: ``When(samples=...)``: the stage ends with the first step at which the number of
            samples consumed, over all ranks and epochs and including dropped ones, reaches this.

    Raises:
        ConfigError: If ``until`` is not a number of samples.
    """

    batch_size: int
    until: Moment

    def __post_init__(self) -> None:
        when = as_when("batch_size_stages.until", self.until)
        if when.samples is None:
            raise ConfigError(
                f"batch_size_stages.until: expected a number of samples, such as {{samples: 4000}} "
                f"(the size of a step changes), got {when}"
            )

    @property
    def until_samples(self) -> int:
        """Number of samples at which the stage ends."""
        assert isinstance(self.until, When)
        assert self.until.samples is not None
        return self.until.samples


@dataclass(frozen=True, slots=True)
class BatchTask:
    """One batch of one rank."""

    epoch: int  # number of the pass
    first: int  # first position in canonical order
    num_samples: int  # number of samples; positions may exceed the epoch's end
    end_epoch: int  # epoch of the cursor after this step, on all ranks
    end_position: int  # position of the cursor after this step
    dropped: int = 0  # number of samples at the epoch's end that all ranks drop with this step
    # whether positions after the epoch's end are the first ones of the next epoch; otherwise those
    # of this epoch (padding)
    continues: bool = False
    num_equal_ranks: int = 0  # number of ranks, if all have as many samples in this step; else 0
    image_size: int | None = None  # width and height of the images; None for those of the data

    def parts(self, max_samples: int) -> list[BatchTask]:
        """Cut the batch into parts of nearly equal size, at most ``max_samples``, in order."""
        number = max(1, -(-self.num_samples // max_samples))
        ends = [self.num_samples * part // number for part in range(number + 1)]
        return [
            replace(self, first=self.first + start, num_samples=end - start)
            for start, end in pairwise(ends)
        ]


@dataclass(frozen=True, slots=True)
class UniformSteps:
    """Consecutive steps of one size."""

    position: int  # first position of the first step
    batch_size: int  # number of samples of a batch on one rank
    num_steps: int  # number of steps, at least one


@dataclass(frozen=True, slots=True)
class EpochPartition:
    """Partition of an epoch into steps, and of a step into ranks."""

    num_samples: int  # number of positions in an epoch
    batch_size: int  # number of samples of a batch on one rank, after all stages
    rank: int  # number of this rank
    world_size: int  # number of ranks
    # what happens to the last samples, too few for a complete step: "drop", "pad" (fill the step
    # with the epoch's first samples), or "keep" (a smaller batch, divided evenly). "even" divides
    # the epoch into steps of nearly equal size, none larger than necessary for every rank to have a
    # sample in each
    tail: Tail
    stages: tuple[BatchSizeStage, ...] = ()  # smaller batches at first; see ``check_stages``
    # whether epochs are continuous (mixtures): a step at an epoch's end includes the first samples
    # of the next epoch and belongs to the epoch in which it begins; ``tail`` has no effect
    carries: bool = False
    image_sizes: tuple[ImageSizeStage, ...] = ()  # smaller images at first, in ascending order

    @property
    def varies(self) -> bool:
        """Whether epochs differ in their numbers of steps."""
        return bool(self.stages) or (self.carries and self.num_samples % self.step_samples != 0)

    @property
    def step_samples(self) -> int:
        """Number of samples of a step, over all ranks, after all stages."""
        return self.batch_size * self.world_size

    def is_settled(self, epoch: int) -> bool:
        """Return whether all stages have ended when an epoch begins."""
        return not self.stages or self.stages[-1].until_samples <= epoch * self.num_samples

    def uniform_steps(self, epoch: int, position: int = 0) -> Iterator[UniformSteps]:
        """Return the complete steps from ``position`` to the epoch's end."""
        while True:
            batch_size, limit = self._stage_at(epoch, position)
            step_samples = batch_size * self.world_size
            left = self.num_samples - position
            num_steps = -(-left // step_samples) if self.carries else left // step_samples
            if limit is not None:
                num_steps = min(num_steps, -(-(limit - position) // step_samples))
            if num_steps <= 0:
                return
            yield UniformSteps(position, batch_size, num_steps)
            position += num_steps * step_samples

    def num_batches(self, epoch: int, position: int = 0) -> int:
        """Count the batches of this rank from ``position`` to the end of an epoch."""
        if self.tail == "even":
            return self._even_steps(position)
        full, rest_at = self._full_steps(epoch, position)
        return full + (self._rest(epoch, rest_at)[1] > 0)

    def has_steps(self, epoch: int, position: int) -> bool:
        """Return whether any rank has a batch from ``position`` to the end of an epoch."""
        full, rest_at = self._full_steps(epoch, position)
        return full > 0 or self._has_rest(rest_at)

    def progress(self, epoch: int, position: int) -> tuple[int, int]:
        """Count the batches of this rank in an epoch: before ``position``, and all.

        If epochs are continuous, the first batch of an epoch may begin after its start: then the
        batches are counted back from ``position``.
        """
        left = self.num_batches(epoch, position)
        if not self.carries:
            total = self.num_batches(epoch)
            return total - left, total
        done = 0
        for uniform in self.uniform_steps(epoch):
            step_samples = uniform.batch_size * self.world_size
            fits = max(0, (position - uniform.position) // step_samples)
            done += min(fits, uniform.num_steps)
        return done, done + left

    def end(self, epoch: int, position: int) -> tuple[int, int]:
        """Return epoch and position after the last step of all ranks from ``position`` on."""
        _, rest_at = self._full_steps(epoch, position)
        return epoch + 1, max(0, rest_at - self.num_samples)

    def start(self, epoch: int, position: int) -> tuple[int, int, int]:
        """Return where an iteration starts, and the samples skipped before it.

        It is never an end where no rank has a batch left.
        """
        if position and not self.has_steps(epoch, position):
            return epoch + 1, 0, self.num_samples - position
        return epoch, position, 0

    def tasks_of_epochs(self, epoch: int, position: int) -> Iterator[BatchTask]:
        """Yield the batches of this rank from ``position`` on, in this epoch and in all later ones.

        They end at an epoch in which this rank has no batch.
        """
        num_tasks = -1
        while num_tasks:
            num_tasks = 0
            start = self.start(epoch, position)
            for num_tasks, task in enumerate(self.tasks(*start), 1):  # noqa: B007
                yield task
            epoch, position = self.end(*start[:2])

    def tasks(self, epoch: int, position: int, skipped: int = 0) -> Iterator[BatchTask]:
        """Yield the batches of this rank from ``position`` to the epoch's end."""
        if self.tail == "even":
            yield from self._even_tasks(epoch, position, skipped)
            return
        full, rest_at = self._full_steps(epoch, position)
        offset, count = self._rest(epoch, rest_at)
        dropped = 0 if self._has_rest(rest_at) else max(0, self.num_samples - rest_at)
        for uniform in self.uniform_steps(epoch, position):
            step_samples = uniform.batch_size * self.world_size
            for number in range(uniform.num_steps):
                start = uniform.position + number * step_samples
                full -= 1
                # The cursor is that of all ranks, also if this rank has none of the last samples.
                last = full == 0 and not self._has_rest(rest_at)
                end = (epoch + 1, max(0, rest_at - self.num_samples))
                yield BatchTask(
                    epoch,
                    start + self.rank * uniform.batch_size,
                    uniform.batch_size,
                    *(end if last else (epoch, start + step_samples)),
                    dropped=(skipped if start == position else 0) + (dropped if last else 0),
                    continues=self.carries,
                    num_equal_ranks=self.world_size,
                    image_size=image_size_at(self.image_sizes, epoch, start),
                )
        if count:
            size = image_size_at(self.image_sizes, epoch, rest_at)
            yield BatchTask(epoch, rest_at + offset, count, epoch + 1, 0, image_size=size)

    def _even_steps(self, position: int) -> int:
        """Return the number of steps from a position to the end, for the tail "even"."""
        left = self.num_samples - position
        return min(-(-left // self.step_samples), left // self.world_size)

    def _even_tasks(self, epoch: int, position: int, skipped: int) -> Iterator[BatchTask]:
        """Yield this rank's batches for the tail "even"; sizes differ by one sample at most."""
        num_steps, left = self._even_steps(position), self.num_samples - position
        for step in range(num_steps):
            start, end = (position + left * number // num_steps for number in (step, step + 1))
            offset, count = self._share(end - start)
            last = step == num_steps - 1
            yield BatchTask(
                epoch, start + offset, count, epoch + last, 0 if last else end,
                dropped=0 if step else skipped,
                image_size=image_size_at(self.image_sizes, epoch, start),
            )  # fmt: skip

    def _share(self, samples: int) -> tuple[int, int]:
        """Return offset and size of this rank's share of a step."""
        share, extra = divmod(samples, self.world_size)
        return self.rank * share + min(self.rank, extra), share + (self.rank < extra)

    def _stage_at(self, epoch: int, position: int) -> tuple[int, int | None]:
        """Return the batch size at a position, and the position in this epoch where it ends."""
        before = epoch * self.num_samples
        for stage in self.stages:
            if before + position < stage.until_samples:
                return stage.batch_size, stage.until_samples - before
        return self.batch_size, None

    def _full_steps(self, epoch: int, position: int) -> tuple[int, int]:
        """Return the number of steps from a position on, and their end."""
        steps = 0
        for uniform in self.uniform_steps(epoch, position):
            steps += uniform.num_steps
            position = uniform.position + uniform.num_steps * uniform.batch_size * self.world_size
        return steps, position

    def _has_rest(self, position: int) -> bool:
        """Return whether the samples after the complete steps are a step."""
        return position < self.num_samples and self.tail != "drop" and not self.carries

    def _rest(self, epoch: int, position: int) -> tuple[int, int]:
        """Return offset and size of this rank's share of an epoch's last, incomplete step."""
        if not self._has_rest(position):
            return 0, 0
        rest = self.num_samples - position
        if self.tail == "pad":
            batch_size, _ = self._stage_at(epoch, position)
            return self.rank * batch_size, batch_size
        return self._share(rest)


def check_stages(stages: tuple[BatchSizeStage, ...], batch_size: int) -> None:
    """Check that batches grow from stage to stage.

    Otherwise a later position could have fewer steps before it than an earlier one, on another
    number of ranks, and the size after all stages would not be the largest.
    """
    if not stages:
        return
    sizes = [*(stage.batch_size for stage in stages), batch_size]
    ends = [0, *(stage.until_samples for stage in stages)]
    if sizes[0] < 1 or any(a >= b for a, b in pairwise(sizes)):
        raise ConfigError(
            f"batch_size_stages: expected batches that grow up to batch_size {batch_size}, got "
            f"{sizes[:-1]}"
        )
    if any(a >= b for a, b in pairwise(ends)):
        raise ConfigError(
            f"batch_size_stages: expected ends (until, in samples) that grow from above 0, got "
            f"{ends[1:]}"
        )
