"""A teacher that is the moving average of the encoder that is trained."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clipkit.errors import ConfigError
from clipkit.losses.accumulation import Staged
from clipkit.losses.teachers import Teacher
from clipkit.types import Batch, Embeddings


@final
class MomentumTeacher(Teacher):
    """The exponential moving average of the weights that are trained, as in ALBEF.

    Li et al. 2021, arXiv:2107.07651, section 3.4. After each optimizer step, average =
    decay * average + (1 - decay) * weights. It is in evaluation mode, gets no gradient, and is
    saved with the objective, so that a resumed run continues it. ``clipkit fit`` calls
    ``follow_student`` before a run and ``update_teachers`` after each step; a loop of your own must
    do so, too.

    Args:
        decay: Weight of the previous average at each optimizer step, at least 0 and below 1.

    Attributes:
        encoder: Encoder with the averaged weights; None before ``follow``.

    Raises:
        ConfigError: If ``decay`` is out of range.

    Examples:
        >>> teacher = MomentumTeacher(decay=0.995)
        >>> teacher.follow(encoder)  # before the first step
        >>> teacher(batch).image.shape
        torch.Size([4, 16])
        >>> teacher.update(encoder)  # after each optimizer step
    """

    def __init__(self, decay: float = 0.995) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ConfigError(f"MomentumTeacher.decay: expected 0 up to but not 1, got {decay}")
        self.decay = decay
        self.encoder: nn.Module | None = None

    def follow(self, student: nn.Module) -> None:
        """Copy the encoder that is trained, unless there is an average already."""
        if self.encoder is None:
            self.encoder = copy.deepcopy(student).requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, batch: Batch) -> Embeddings:
        """Return the average's embeddings of the batch, without its negatives.

        Raises:
            ConfigError: If there is no average.
        """
        if self.encoder is None:
            raise ConfigError(
                "MomentumTeacher: expected an encoder to follow, got none; call "
                "clipkit.losses.follow_student(loss, encoder) before the first step"
            )
        embed = self.encoder.embed if isinstance(self.encoder, Staged) else self.encoder
        embeddings: Embeddings = embed(replace(batch, negatives=None))
        return embeddings

    @torch.no_grad()
    def update(self, student: nn.Module, left_out: Float[Tensor, ""] | None = None) -> None:
        """Move the average towards the weights; see ``Teacher.update``.

        Raises:
            ConfigError: If there is no average, or the encoder has other weights by now.
        """
        own = {} if self.encoder is None else self.encoder.state_dict(keep_vars=True)
        given = student.state_dict(keep_vars=True)
        if own.keys() != given.keys():
            raise ConfigError(
                f"MomentumTeacher: expected the {len(own)} weights of the encoder that it follows, "
                f"got {len(given)}; change the encoder before follow_student"
            )
        share: float | Tensor = 1 - self.decay
        if left_out is not None:
            share = (1 - self.decay) * (1 - left_out)
        tensors = {id(value): name for name, value in own.items() if isinstance(value, Tensor)}
        for name in tensors.values():  # once each, also those of several names
            average, new = (_on_this_rank(some[name].detach()) for some in (own, given))
            if average.is_floating_point():
                average.lerp_(new.to(average), _like(share, average))
            else:
                average.copy_(new)

    def train(self, mode: bool = True) -> MomentumTeacher:
        """Set the mode of this module; the encoder stays in evaluation mode."""
        super().train(mode)
        if self.encoder is not None:
            self.encoder.eval()
        return self


def follow_student(loss: nn.Module, student: nn.Module) -> None:
    """Let the teachers of an objective start from the encoder that is trained.

    Args:
        loss: Objective, with any number of teachers.
        student: Encoder, before it is wrapped or sharded, and before a checkpoint is loaded.
    """
    for teacher in _teachers(loss):
        teacher.follow(student)


def update_teachers(
    loss: nn.Module, student: nn.Module, left_out: Float[Tensor, ""] | None = None
) -> None:
    """Let the teachers of an objective follow the encoder, after each optimizer step.

    Args:
        loss: Objective, with any number of teachers.
        student: The encoder of ``follow_student``.
        left_out: 1 if the step was skipped, on any device; 0 or None otherwise.
    """
    for teacher in _teachers(loss):
        teacher.update(student, left_out)


def averaged_encoders(loss: nn.Module) -> list[nn.Module]:
    """Return the averages of an objective's momentum teachers, of those that follow an encoder."""
    teachers = [module for module in loss.modules() if isinstance(module, MomentumTeacher)]
    return [teacher.encoder for teacher in teachers if teacher.encoder is not None]


def _teachers(loss: nn.Module) -> list[Teacher]:
    return [module for module in loss.modules() if isinstance(module, Teacher)]


def _on_this_rank(tensor: Tensor) -> Tensor:
    """Return this rank's part of a sharded tensor, and others as they are."""
    to_local: Any = getattr(tensor, "to_local", None)
    local: Tensor = tensor if to_local is None else to_local()
    return local


def _like(share: float | Tensor, average: Tensor) -> Any:
    """Return a number, or a tensor on the device and of the type of the average."""
    return share.to(average) if isinstance(share, Tensor) else share
