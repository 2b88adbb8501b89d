"""A contrastive loss for small batches, whose denominators are averages over the data set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.distributed.collectives import gather_rows
from clipkit.errors import ConfigError
from clipkit.losses.contrastive import checked_tile, refuse_bias, select_pairs
from clipkit.losses.functional import global_contrastive_loss
from clipkit.losses.term import LossTerm, Term
from clipkit.schedules import Schedule, as_schedule
from clipkit.types import Batch, Embeddings
from clipkit.when import START, Progress


@final
class GlobalContrastiveLoss(LossTerm):
    """Contrastive loss whose denominators are moving averages, one per sample (SogCLR).

    For image i, ``g_i = mean over the other texts j of exp(s_ij - s_ii)``; its average is ``u_i <-
    (1 - gamma) u_i + gamma g_i``, and the gradient is that of ``log g_i`` with ``u_i`` in the
    denominator; the same for texts. The bias of small batches vanishes as the averages converge
    (Yuan et al. 2022, arXiv:2202.12387; with a decreasing gamma FastCLIP, Wei et al. 2024,
    arXiv:2407.01445). With gamma 1 it is a softmax contrastive loss without the positive in the
    denominator.

    The averages are stored by ``batch.sample_ids``, identical on all ranks, on the CPU (8 bytes per
    sample), and saved with the state. In evaluation mode, or without gradients, they are neither
    read nor changed. A denominator that is NaN or infinite is not stored, but its loss is NaN or
    infinite.

    Args:
        num_samples: Number of samples of the data set, with those that a mask removes; sample ids
            are 0 to ``num_samples`` - 1.
        gamma: Weight of the current batch in the averages, above 0 and at most 1: a number, or a
            schedule over the run.
        epsilon: Number added to the averages.
        tile_size: Rows and columns of similarities held at a time; null to choose them by device.

    Raises:
        ConfigError: If a sample id is missing or out of range, the batch has groups, or the encoder
            has a logit_bias or hard negatives.
    """

    remembers = True

    def __init__(
        self,
        num_samples: int,
        gamma: float | Schedule = 0.9,
        epsilon: float = 1e-14,
        tile_size: int | None = None,
    ) -> None:
        super().__init__()
        if num_samples < 1 or epsilon <= 0:
            raise ConfigError(
                f"num_samples and epsilon: expected positive numbers, "
                f"got {num_samples} and {epsilon}"
            )
        self.tile_size = checked_tile(tile_size)
        self.gamma, self.epsilon = as_schedule(gamma), epsilon
        _checked_gamma(self.gamma.at(START))
        # Logarithms; row 0 for images, row 1 for texts; -inf where a sample has no average yet.
        # Not a buffer: DDP would send it to every rank in every step.
        self.log_averages = torch.full((2, num_samples), -torch.inf)
        self.num_steps = 0
        # Ids and their averages before each pass since begin_step; None if it was not called.
        self._changes: list[tuple[Tensor, Tensor]] | None = None

    def check(self, embeddings: Embeddings) -> None:
        """Refuse a logit_bias and hard negatives."""
        refuse_bias(embeddings)
        if embeddings.negative_text is not None or embeddings.negative_image is not None:
            raise ConfigError("GlobalContrastiveLoss: expected no hard negatives, got some")

    def term(self, embeddings: Embeddings, batch: Batch | None) -> Term:
        """Compute the loss over the pairs of all ranks, and update their averages."""
        self.check(embeddings)
        pairs = select_pairs(embeddings, batch)
        if pairs.groups is not None:
            raise ConfigError("GlobalContrastiveLoss: expected a batch without groups, got some")
        update = None
        if self.training and torch.is_grad_enabled():
            update = partial(self._update, self._checked_ids(batch))
        options = self.epsilon, self.tile_size, pairs.rank_sizes
        return global_contrastive_loss(*pairs[:3], update, *options)

    def _update(
        self, ids: Int64[Tensor, " B"], log_means: Float[Tensor, "2 N"], sizes: Sequence[int]
    ) -> Float[Tensor, "2 N"]:
        """Move the averages of this step's samples of all ranks, and return them."""
        everyone = gather_rows(ids, sizes).cpu()
        gamma = _checked_gamma(self.gamma.at(self.progress or Progress(self.num_steps)))
        before, now = self.log_averages[:, everyone], log_means.float().cpu()
        kept = before + (math.log1p(-gamma) if gamma < 1 else -torch.inf)
        moved = torch.logaddexp(kept, now + math.log(gamma))
        moved = torch.where(before.isneginf(), now, moved)
        if self._changes is not None:
            self._changes.append((everyone, before))
        self.log_averages[:, everyone] = torch.where(now.isfinite(), moved, before)
        self.num_steps += 1
        averages = self.log_averages[:, everyone]
        return torch.where(now.isfinite(), averages, now).to(log_means)

    def begin_step(self) -> None:
        """Start to record the changes of the averages."""
        self._changes = []

    def end_step(self, left_out: bool) -> None:
        """Restore the averages if the step is skipped, and stop recording."""
        for ids, before in reversed(self._changes or []) if left_out else ():
            self.log_averages[:, ids] = before
        self._changes = None

    def _checked_ids(self, batch: Batch | None) -> Int64[Tensor, " B"]:
        ids = None if batch is None else batch.sample_ids
        if batch is None or ids is None:
            raise ConfigError("GlobalContrastiveLoss: expected a batch with sample_ids, got none")
        if batch.pair_mask is not None:
            ids = ids[batch.pair_mask]
        size = self.log_averages.shape[1]
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < size:
            raise ConfigError(
                f"sample_ids: expected 0 to {size - 1} (num_samples), "
                f"got {int(ids.min())} to {int(ids.max())}"
            )
        return ids

    def get_extra_state(self) -> dict[str, Tensor]:
        """Return the averages and the count of steps."""
        return {"log_averages": self.log_averages, "num_steps": torch.tensor(self.num_steps)}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Continue from saved averages of the same data."""
        if state["log_averages"].shape != self.log_averages.shape:
            raise ConfigError(
                f"num_samples: the saved averages are of {state['log_averages'].shape[1]} samples, "
                f"this loss has {self.log_averages.shape[1]}"
            )
        self.log_averages = state["log_averages"].cpu().clone()
        self.num_steps = int(state["num_steps"])


def _checked_gamma(gamma: float) -> float:
    if not 0 < gamma <= 1:
        raise ConfigError(f"gamma: expected over 0 and up to 1, got {gamma}")
    return gamma
