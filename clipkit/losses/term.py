"""Interface of the terms of the objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from clipkit.distributed.collectives import sum_over_ranks, world_size
from clipkit.losses.kernels.text_exchange import TextExchange
from clipkit.types import Batch, Embeddings
from clipkit.when import Progress

if TYPE_CHECKING:  # the import takes seconds
    from torch.distributed.device_mesh import DeviceMesh


@dataclass(frozen=True, slots=True)
class Term:
    """Value of one part of the objective.

    Args:
        value: Mean over ``num_samples`` samples of all ranks; the same number on every rank.
            Differentiable: gradients are multiplied by the number of ranks, because DDP averages.
        num_samples: Number of samples of all ranks in the mean.
    """

    value: Float[Tensor, ""]
    num_samples: Float[Tensor, ""]


@dataclass(frozen=True, slots=True)
class FusedPasses:
    """Passes of a joint encoder that a term adds to those of the towers, per sample.

    Args:
        fusions: Passes of the fusion.
        texts: Passes of the text tower.
        words: Share of the tokens of a caption whose words are predicted.
    """

    fusions: int = 0
    texts: int = 0
    words: float = 0.0


class LossTerm(nn.Module, ABC):
    """One part of the objective, exact over all ranks.

    Implement ``term`` and ``check`` for a new one. A term that reads labels also overrides
    ``check_batch``. A term with state other than parameters and buffers sets ``remembers`` and
    overrides ``begin_step`` and ``end_step``. Other methods are not meant to be overridden.

    Attributes:
        reads_captions: Whether the term uses text embeddings. If no term with a weight does,
            ``clipkit fit`` does not run the text tower.
        modalities: Names of the modalities whose embeddings the term uses. ``clipkit fit`` locks a
            tower that no term with a weight names, or else weight decay alone would change it.
        reads_fused: Whether the term reads the tokens of all modalities that a joint encoder fuses,
            in addition to ``modalities``.
        passes: Passes of the encoder that the term adds to those of the towers.
        micro_batch_size: Samples whose activations of ``passes`` are in memory at a time; None for
            all at once.
        label_head: Name of the modality whose label head the term reads; None for no head.
        gathers_text: Whether the term gathers the texts of all ranks, which may begin before it.
        reads_teacher: Whether the term reads ``of_teacher``.
        remembers: Whether the term has state outside of parameters and buffers.
        exchange: Exchange of the texts that has begun before the term, set by ``CombinedLoss`` for
            each call; None to gather them in the term.
        of_teacher: Output of the teacher of ``CombinedLoss`` for the batch, set for each call of a
            term that reads it; None without a teacher.
        progress: Progress of the run, set by ``CombinedLoss`` before each call; None if unknown.
    """

    reads_captions: bool = True
    modalities: tuple[str, ...] = ("image", "text")
    reads_fused: bool = False
    passes: FusedPasses = FusedPasses()
    micro_batch_size: int | None = None
    label_head: str | None = None
    gathers_text: bool = False
    reads_teacher: bool = False
    remembers: bool = False
    exchange: TextExchange | None = None
    of_teacher: Embeddings | None = None
    progress: Progress | None = None

    @abstractmethod
    def check(self, embeddings: Embeddings) -> None:
        """Refuse an encoder that does not return what this term needs.

        ``term`` does so too; this method reports it before a run, without a batch.

        Args:
            embeddings: Embeddings of any pairs, real or random; only their shapes matter.

        Raises:
            ConfigError: Naming what is missing or must be absent.
        """

    def check_batch(self, batch: Batch, num_classes: int | None) -> None:
        """Refuse a batch whose values this term cannot use, while it is on the CPU.

        Reading a value on a GPU waits for all queued work. The default checks nothing.

        Args:
            batch: A batch of this rank.
            num_classes: Number of classes of ``label_head``, or of the head on the image tower if
                that is None; None without such a head.

        Raises:
            ConfigError: Naming the value.
        """

    @abstractmethod
    def term(self, embeddings: Embeddings, batch: Batch | None) -> Term:
        """Compute the value, and the number of samples of all ranks in its mean.

        Args:
            embeddings: Output of the encoder for this rank's batch.
            batch: This rank's batch, for terms that use labels, groups or masks.
        """

    def begin_step(self) -> None:
        """Mark the state that ``end_step`` can restore, before the first pass of a step."""

    def end_step(self, left_out: Bool[Tensor, ""]) -> None:
        """Keep or undo the changes of state since ``begin_step``.

        Step counters of schedules are kept: a skipped step counts for every schedule.

        Args:
            left_out: Whether the step is skipped and its changes are undone, on the device of the
                loss: ``bool(left_out)`` waits for the GPU, ``torch.where`` does not.
        """

    def complete_state(
        self,
        mesh: DeviceMesh | None = None,  # noqa: ARG002
    ) -> dict[str, Any] | None:
        """Return the extra state of all ranks; every rank calls it.

        Override it if ``get_extra_state`` returns the part of one rank.

        Args:
            mesh: Ranks that write a checkpoint in parts, for tensors that are sharded over them;
                None to gather complete tensors on rank 0.

        Returns:
            The state, without a mesh on rank 0 alone; None if ``get_extra_state`` returns it.
        """
        return None

    def forward(self, embeddings: Embeddings, batch: Batch | None = None) -> Float[Tensor, ""]:
        """Compute the value alone; see ``term``."""
        return self.term(embeddings, batch).value


def mean_over_ranks(
    total: Float[Tensor, ""], divisor: Float[Tensor, ""], num_samples: Tensor
) -> Term:
    """Turn the sum of this rank into the mean over all ranks, with the gradient that DDP expects.

    Args:
        total: Sum over this rank's samples, differentiable.
        divisor: This rank's part of the divisor; the parts of all ranks are added.
        num_samples: Number of samples of this rank.

    Returns:
        The global mean; 0 if the divisor of all ranks is 0.

    Examples:
        >>> mean_over_ranks(torch.tensor(6.0), torch.tensor(4.0), torch.tensor(4)).value
        tensor(1.5000)
    """
    sums = sum_over_ranks(torch.stack([total.detach(), divisor.to(total), num_samples.to(total)]))
    denominator = torch.where(sums[1] > 0, sums[1], 1.0)
    own = total * (world_size() / denominator)
    return Term(own + (sums[0] / denominator - own).detach(), sums[2])
