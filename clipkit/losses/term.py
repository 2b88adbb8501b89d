"""What every part of the objective looks like from outside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clipkit.types import Batch, Embeddings


@dataclass(frozen=True, slots=True)
class Term:
    """The value of one part of the objective.

    Args:
        value: Mean over ``num_samples`` samples of all ranks; the same number on every rank.
            Differentiable: gradients are multiplied by the number of ranks, because DDP averages.
        num_samples: Samples of all ranks that the value is a mean of.
    """

    value: Float[Tensor, ""]
    num_samples: Float[Tensor, ""]


class LossTerm(nn.Module, ABC):
    """One part of the objective, exact over all ranks.

    Write a new one by implementing :meth:`term` and :meth:`check`. A term that reads labels
    overrides :meth:`check_batch` too. A term that keeps more than parameters and buffers from step
    to step sets ``remembers`` and overrides :meth:`begin_step` and :meth:`end_step`. Nothing
    else is meant to be overridden.

    Attributes:
        reads_captions: Whether it looks at the embeddings of the captions. Where no term
            that counts does, ``clipkit fit`` leaves the text tower alone.
        remembers: Whether it keeps a memory of its own, outside of parameters and buffers.
    """

    reads_captions: bool = True
    remembers: bool = False

    @abstractmethod
    def check(self, embeddings: Embeddings) -> None:
        """Refuse an encoder that does not give what this term needs.

        :meth:`term` does so too; this tells it before a run, without a batch.

        Args:
            embeddings: Of any pairs, made up or not; only their shapes matter.

        Raises:
            ConfigError: Naming what is missing or in the way.
        """

    def check_batch(self, batch: Batch, num_classes: int | None) -> None:
        """Refuse a batch whose values this term cannot use, while it is on the CPU.

        On a GPU, to look at a value is to wait for all queued work. A term that reads labels
        overrides this; others have nothing to look at.

        Args:
            batch: A batch of this rank.
            num_classes: Classes of the encoder's label head, or None without one.

        Raises:
            ConfigError: Naming the value.
        """

    @abstractmethod
    def term(self, embeddings: Embeddings, batch: Batch | None) -> Term:
        """The value, and how many samples of all ranks it is a mean of.

        Args:
            embeddings: What the encoder made of this rank's batch.
            batch: This rank's batch, for those terms that look at labels, groups or masks.
        """

    def begin_step(self) -> None:
        """Mark the state to which :meth:`end_step` can go back, before a step's first pass."""

    def end_step(self, left_out: bool) -> None:
        """Keep what the passes since :meth:`begin_step` changed of the memory, or undo it.

        Counters of schedules stay: a step that is left out counts for every schedule.

        Args:
            left_out: Whether the step is left out, and its changes with it.
        """

    def forward(self, embeddings: Embeddings, batch: Batch | None = None) -> Float[Tensor, ""]:
        """The value alone; see :meth:`term`."""
        return self.term(embeddings, batch).value


def count(num_samples: int, like: Tensor) -> Float[Tensor, ""]:
    """``num_samples`` as a scalar on the device of ``like``."""
    return torch.full((), float(num_samples), device=like.device)
