"""Train on smaller images and shorter captions first, and on complete ones at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import torch.nn.functional as F
from jaxtyping import UInt8
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from clipkit.data.order.image_sizes import ImageSizeStage
from clipkit.data.text.truncate import truncate_tokens, truncation_token
from clipkit.errors import ConfigError
from clipkit.models import TextTower
from clipkit.training.datamodule.pair_datamodule import PairDataModule
from clipkit.training.lightning_compat import encoder_of
from clipkit.training.progress.epoch_steps import place_where
from clipkit.training.progress.run_progress import pair_data, reached_after, run_progress
from clipkit.types import Batch
from clipkit.when import Moment, Progress, When, as_when, ascending

_SHORTEST_TEXT: Final = 3
"""Smallest length of a caption: start, one token, end."""


@dataclass(frozen=True, slots=True)
class TokenStage:
    """A part of a run with fewer tokens.

    Args:
        until: End of the stage, above 0: steps, a fraction of the run, or a ``When``.
        image_size: Height and width of the images, in pixels; None for the tower's size.
        text_length: Maximum number of tokens of a caption, with start and end; None for all.
    """

    until: Moment
    image_size: int | None = None
    text_length: int | None = None


@final
class TokenSchedule(Callback):
    """Trains on smaller images and shorter captions first, which costs less.

    After the last stage images and captions are complete (CLIPA, Li et al. 2023, arXiv:2305.07017).
    Order, crops and resuming are those of a run without this callback. Images are decoded and
    resized to their stage's size where they are read, if ``PairDataModule`` reads them with a
    transform that has ``at_size``; others, and those of a stage that a time limit ends, are reduced
    on the device. open_clip's vision transformers interpolate positions; timm's convolutional
    networks accept any size. Captions keep their end token.

    Args:
        stages: Stages in ascending order.

    Raises:
        ConfigError: If the stages are not in order, change nothing, or exceed the towers' sizes.

    Examples:
        >>> trainer = Trainer(callbacks=[
        ...     TokenSchedule([TokenStage(0.8, image_size=112, text_length=16)])])
    """

    def __init__(self, stages: list[TokenStage]) -> None:
        ends = ascending("TokenSchedule.stages.until", [stage.until for stage in stages])
        if not stages or ends[-1] == When(fraction=1.0):
            raise ConfigError(
                f"TokenSchedule.stages: expected stages that end before the run, got {stages}"
            )
        if any(stage.image_size is None and stage.text_length is None for stage in stages):
            raise ConfigError(
                f"TokenSchedule.stages: a stage needs image_size, text_length or both; got {stages}"
            )
        self.stages = stages
        self._pad_id = 0
        self._end: int | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse sizes and lengths that are not possible."""
        encoder = encoder_of(pl_module)
        full = encoder.image_tower.image_size
        sized = any(stage.image_size is not None for stage in self.stages)
        if sized and encoder.image_tower.budget is not None:
            raise ConfigError(
                "TokenSchedule.image_size: this image tower reads images of any shape, which have "
                "no size; omit image_size, and set max_tokens of the image transform"
            )
        for stage in self.stages:
            if stage.image_size is not None and not 1 <= stage.image_size <= full:
                raise ConfigError(
                    f"TokenSchedule: expected sizes of at most the tower's {full} pixels, "
                    f"got {stage.image_size}"
                )
        lengths = [stage.text_length for stage in self.stages if stage.text_length is not None]
        if lengths:
            _check_lengths(lengths, encoder.text_tower)
            data = pair_data(trainer)
            assert data is not None, "text_length needs a PairDataModule"
            tokenizer = data.resolved_tokenizer()
            self._pad_id, self._end = tokenizer.pad_id, truncation_token(tokenizer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the data module read images at the size of their step."""
        if (data := pair_data(trainer)) is not None:
            data.train_stream.set_image_sizes(planned_sizes(self.stages, trainer, data))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Reduce the captions of this batch, and images that were not read at the stage's size."""
        stage = stage_at(self.stages, run_progress(trainer))
        if stage is None:
            return
        if (size := stage.image_size) is not None:
            batch.images = shrink(batch.images, size)
            if batch.negatives is not None and batch.negatives.images is not None:
                batch.negatives.images = shrink(batch.negatives.images, size)
        if (length := stage.text_length) is not None:
            if batch.tokens is not None:
                batch.tokens = self._cut(batch.tokens, length)
            if batch.negatives is not None and batch.negatives.tokens is not None:
                batch.negatives.tokens = self._cut(batch.negatives.tokens, length)

    def _cut(self, tokens: Tensor, length: int) -> Tensor:
        return truncate_tokens(tokens, length, self._pad_id, self._end)


def stage_at(stages: Sequence[TokenStage], progress: Progress) -> TokenStage | None:
    """Return the stage at a point of the run; None after the last stage.

    Examples:
        >>> stages = [TokenStage(0.8, image_size=112)]
        >>> [stage_at(stages, Progress(step, num_steps=100)) is None for step in (50, 80)]
        [False, True]
    """
    ends = ((stage, as_when("until", stage.until)) for stage in stages)
    return next((stage for stage, end in ends if not end.is_reached(progress)), None)


def planned_sizes(
    stages: Sequence[TokenStage], trainer: Trainer, data: PairDataModule
) -> list[ImageSizeStage]:
    """Return the image size of every step from here on; none if the clock decides.

    The present position of the stream must be that of the next optimizer step.
    """
    planned = []
    for stage in stages:
        is_reached = reached_after(trainer, as_when("until", stage.until))
        if is_reached is None:
            return []
        place = place_where(
            data.train_stream.partition,
            data.train_stream.place,
            is_reached,
            trainer.limit_train_batches,
            trainer.accumulate_grad_batches,
        )
        planned.append(ImageSizeStage(stage.image_size, place))
    return planned


def shrink(images: UInt8[Tensor, "B 3 H W"], size: int) -> UInt8[Tensor, "B 3 H2 W2"]:
    """Resize images to ``size`` pixels with antialiasing."""
    if images.shape[-1] == size or not len(images):
        return images
    small = F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
    return small.round_().clamp_(0, 255).to(images.dtype)


def _check_lengths(lengths: Sequence[int], tower: TextTower) -> None:
    if not tower.trims_exactly:
        raise ConfigError(
            "TokenSchedule.text_length: this text tower pads every caption to "
            f"{tower.context_length} tokens, so shorter ones save nothing; omit text_length"
        )
    for length in lengths:
        if not _SHORTEST_TEXT <= length <= tower.context_length:
            raise ConfigError(
                f"TokenSchedule: expected captions of {_SHORTEST_TEXT} to "
                f"{tower.context_length} tokens, got text_length={length}"
            )
