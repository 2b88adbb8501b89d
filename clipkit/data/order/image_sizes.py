"""Which steps of a run have smaller images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ImageSizeStage:
    """A part of a run with images of one size."""

    image_size: int | None  # width and height in pixels; None for those of the data
    end: tuple[int, int]  # epoch and position of the first step after this stage


def image_size_at(stages: Sequence[ImageSizeStage], epoch: int, position: int) -> int | None:
    """Return the image size of the step that begins at a position; None for that of the data.

    Args:
        stages: Stages in ascending order.
        epoch: Epoch of the step.
        position: First position of the step, over all ranks.

    Examples:
        >>> stages = [ImageSizeStage(112, end=(1, 4))]
        >>> [image_size_at(stages, *place) for place in ((0, 6), (1, 2), (1, 4))]
        [112, 112, None]
    """
    return next((stage.image_size for stage in stages if (epoch, position) < stage.end), None)
