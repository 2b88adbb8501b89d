"""Sources of a teacher's embeddings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from clipkit.errors import ConfigError
from clipkit.types import Batch, Embeddings, TeacherBatch


class Teacher(nn.Module, ABC):
    """A source of target embeddings without gradient."""

    @abstractmethod
    def forward(self, batch: Batch) -> Embeddings:
        """Return the teacher's embeddings of this rank's batch, of any width."""

    def follow(self, student: nn.Module) -> None:
        """Start from the weights of the encoder that is trained; the default does nothing."""

    def update(self, student: nn.Module, left_out: Float[Tensor, ""] | None = None) -> None:
        """Follow the encoder that is trained after an optimizer step; the default does nothing.

        Args:
            student: The encoder, with the parameters of ``follow``.
            left_out: 1 if the step was skipped, on any device; 0 or None otherwise.
        """


def check_teacher(teacher: Teacher | None, names: Set[str]) -> None:
    """Refuse terms without the teacher that they read, and a teacher that none reads.

    Args:
        teacher: Teacher of an objective.
        names: Names of the terms that read it.
    """
    if teacher is None and names:
        raise ConfigError(
            f"loss.teacher: expected a teacher, which the terms {', '.join(sorted(names))} read, "
            f"got none; set MomentumTeacher or EncoderTeacher"
        )
    if teacher is not None and not names:
        raise ConfigError(
            f"loss.teacher: expected a term that reads the teacher, got none; add one such as "
            f"MatchingDistillationLoss, or leave {type(teacher).__name__} out"
        )


@final
class StoredTeacher(Teacher):
    """Embeddings that were computed once and are stored with the samples.

    Args:
        logit_scale: Inverse temperature of the teacher, linear.

    Raises:
        ConfigError: If a batch has no teacher embeddings.
    """

    def __init__(self, logit_scale: float = 100.0) -> None:
        super().__init__()
        self.logit_scale = logit_scale

    def forward(self, batch: Batch) -> Embeddings:
        """Return ``batch.teacher.image`` and ``batch.teacher.text``, normalised to unit norm."""
        teacher = batch.teacher or TeacherBatch()
        image, text = teacher.image, teacher.text
        if image is None or text is None:
            raise ConfigError(
                "StoredTeacher: expected batches with teacher.image and teacher.text, got none; "
                "store the teacher's embeddings with the samples and read them by "
                "data.samples.fields (clipkit.data.TeacherEmbeddings), or use EncoderTeacher"
            )
        dtype = torch.promote_types(image.dtype, torch.float32)
        scale = torch.full((), self.logit_scale, dtype=dtype, device=image.device)
        image, text = F.normalize(image.to(dtype), dim=1), F.normalize(text.to(dtype), dim=1)
        return Embeddings(image, text, scale)


@final
class EncoderTeacher(Teacher):
    """A frozen encoder that runs on the same samples.

    If the batch has ``teacher.pixels`` or ``teacher.tokens`` (by ``clipkit.data.TeacherInputs``),
    the encoder gets these: they were made by its own transform and tokenizer.

    The encoder is not part of this module's state: it is neither trained nor saved with
    checkpoints, and it is moved to the device of the batch.

    Args:
        encoder: Encoder that returns the embeddings of a batch.
        image_size: Height and width of the encoder's images, in pixels; null for the batch's own.
        tokenize: Function that returns the encoder's token ids of captions; null for the batch's
            own tokens.

    Raises:
        ConfigError: If ``tokenize`` is given and the batch has no captions.
    """

    def __init__(
        self,
        encoder: nn.Module,
        image_size: int | None = None,
        tokenize: Callable[[Sequence[str]], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self._hidden = (encoder.requires_grad_(False).eval(),)  # torch does not look into tuples
        self.image_size = image_size
        self.tokenize = tokenize

    @torch.no_grad()
    def forward(self, batch: Batch) -> Embeddings:
        """Return the encoder's embeddings of the batch, resized and tokenized for it."""
        (encoder,) = self._hidden
        device = batch.images.device
        teacher = batch.teacher or TeacherBatch()
        if teacher.tokens is not None:
            batch = replace(batch, tokens=teacher.tokens)
        elif self.tokenize is not None:
            if len(batch.captions) != len(batch):
                raise ConfigError(
                    f"EncoderTeacher: tokenize needs the captions, expected {len(batch)} in the "
                    f"batch, got {len(batch.captions)}"
                )
            batch = replace(batch, tokens=self.tokenize(batch.captions).to(device))
        if teacher.pixels is not None:
            batch = replace(batch, images=teacher.pixels, grids=None)
        elif self.image_size is not None and batch.grids is not None:
            raise ConfigError(
                "EncoderTeacher.image_size: the batch has patches of images of any shape, which "
                "cannot be resized; read the teacher's images with clipkit.data.TeacherInputs"
            )
        elif self.image_size not in (None, batch.images.shape[-1]):
            batch = replace(batch, images=_resized(batch.images, self.image_size))
        # Only the pairs are compared with the teacher.
        batch = replace(batch, negatives=None)
        embeddings: Embeddings = encoder.to(device)(batch)
        return embeddings


def _resized(images: Tensor, size: int | None) -> Tensor:
    assert size is not None
    pixels = F.interpolate(
        images.float(), (size, size), mode="bicubic", antialias=True, align_corners=False
    )
    return pixels.round().clamp(0, 255).to(images.dtype)
