"""Small pictures first, full size at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch.nn.functional as F
from jaxtyping import UInt8
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from clipkit.errors import ConfigError
from clipkit.models import DualEncoder
from clipkit.training.progress import run_progress
from clipkit.types import Batch


@dataclass(frozen=True, slots=True)
class ImageSizeStage:
    """A part of a run with pictures of one size.

    Args:
        size: Height and width, in pixels.
        until: Where the stage ends, as a part of the run, above 0 and below 1.
    """

    size: int
    until: float


@final
class ImageSizeSchedule(Callback):
    """Trains on smaller pictures first, which costs less in the square of their size.

    After the last stage pictures have the tower's own size (CLIPA, Li et al. 2023,
    arXiv:2305.07017). They come at that size from the data and are made smaller on the device, so
    the order, the crops and a resumed run are those of a run without this. open_clip's
    vision transformers interpolate their positions; timm's convolutions take any size.

    Args:
        stages: In order.

    Raises:
        ConfigError: If the stages are not in order, or larger than the tower's pictures.

    Example:
        >>> trainer = Trainer(callbacks=[ImageSizeSchedule([ImageSizeStage(112, until=0.8)])])
    """

    def __init__(self, stages: list[ImageSizeStage]) -> None:
        ends = [stage.until for stage in stages]
        if not stages or any(a >= b for a, b in pairwise([0.0, *ends, 1.0])):
            raise ConfigError(
                f"ImageSizeSchedule.stages: expected ends that grow between 0 and 1, got {ends}"
            )
        self.stages = stages

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Refuse sizes that cannot be."""
        encoder = pl_module.encoder
        assert isinstance(encoder, DualEncoder), "ImageSizeSchedule belongs to ContrastiveModule"
        full = encoder.image_tower.image_size
        for stage in self.stages:
            if not 1 <= stage.size <= full:
                raise ConfigError(
                    f"ImageSizeSchedule: expected sizes of at most the tower's {full} pixels, "
                    f"got {stage.size}"
                )

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        batch: Batch,
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Make the pictures of this batch as small as they shall be."""
        size = size_at(self.stages, run_progress(trainer).fraction)
        if size is not None:
            batch.images = shrink(batch.images, size)


def size_at(stages: Sequence[ImageSizeStage], fraction: float) -> int | None:
    """The size where a part of the run is behind; None for the full one.

    Example:
        >>> size_at([ImageSizeStage(112, 0.8)], 0.5), size_at([ImageSizeStage(112, 0.8)], 0.8)
        (112, None)
    """
    return next((stage.size for stage in stages if fraction < stage.until), None)


def shrink(images: UInt8[Tensor, "B 3 H W"], size: int) -> UInt8[Tensor, "B 3 H2 W2"]:
    """Pictures of ``size`` pixels, filtered so that no pixel is skipped."""
    if images.shape[-1] == size:
        return images
    small = F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
    return small.round_().clamp_(0, 255).to(images.dtype)
