"""A contrastive loss for small batches, whose denominators are averages over the data set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, final

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from clipkit.distributed.collectives import gather_rows
from clipkit.errors import ConfigError
from clipkit.losses.contrastive import checked_tile, refuse_bias, select_pairs
from clipkit.losses.kernels.sample_table import SampleTable, last_of_equal
from clipkit.losses.pair_terms import global_term
from clipkit.losses.term import LossTerm, Term
from clipkit.schedules import Schedule, as_schedule
from clipkit.types import Batch, Embeddings
from clipkit.when import START, Progress

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


@final
class GlobalContrastiveLoss(LossTerm):
    """Contrastive loss whose denominators are moving averages, one per sample (SogCLR).

    For image i, ``g_i = mean over the other texts j of exp(s_ij - s_ii)``; its average is ``u_i <-
    (1 - gamma) u_i + gamma g_i``, and the gradient is that of ``log g_i`` with ``u_i`` in the
    denominator; the same for texts. The bias of small batches vanishes as the averages converge
    (Yuan et al. 2022, arXiv:2202.12387; with a decreasing gamma FastCLIP, Wei et al. 2024,
    arXiv:2407.01445). With gamma 1 it is a softmax contrastive loss without the positive in the
    denominator.

    The averages are stored by ``batch.sample_ids``, on the device of the batch: 8 bytes per sample,
    divided among the ranks. A checkpoint has those of all ranks (``complete_state_dict``) and is
    read on any number of ranks. In evaluation mode, or without gradients, averages are neither read
    nor changed. A denominator that is NaN or infinite is not stored, but its loss is NaN or
    infinite. If a sample appears twice in a step, its last pair counts.

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
    gathers_text = True

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
        self._averages = SampleTable(2, num_samples, fill=-torch.inf)
        self.num_steps = 0
        # Ids and their averages before each pass since begin_step; None if it was not called.
        self._changes: list[tuple[Tensor, Tensor]] | None = None

    @property
    def log_averages(self) -> Float[Tensor, "2 own"]:
        """Logarithms of the averages of this rank's samples; all samples in one process."""
        return self._averages.part()

    def check(self, embeddings: Embeddings) -> None:
        """Refuse a logit_bias and hard negatives."""
        refuse_bias(embeddings)
        if embeddings.negative_text is not None or embeddings.negative_image is not None:
            raise ConfigError("GlobalContrastiveLoss: expected no hard negatives, got some")

    def check_batch(self, batch: Batch, num_classes: int | None) -> None:  # noqa: ARG002
        """Refuse sample ids out of range, in training."""
        if self.training:
            ids = self._ids(batch)
            self._check_range(ids if batch.pair_mask is None else ids[batch.pair_mask])

    def term(self, embeddings: Embeddings, batch: Batch | None) -> Term:
        """Compute the loss over the pairs of all ranks, and update their averages."""
        self.check(embeddings)
        pairs = select_pairs(embeddings, batch, self.exchange)
        if pairs.groups is not None:
            raise ConfigError("GlobalContrastiveLoss: expected a batch without groups, got some")
        update = None
        if self.training and torch.is_grad_enabled():
            ids = self._ids(batch)
            ids = ids if pairs.selected is None else ids[pairs.selected]
            self._check_range(ids)
            update = partial(self._update, ids)
        return global_term(pairs, update, self.epsilon, self.tile_size)

    def _update(
        self, ids: Int64[Tensor, " B"], log_means: Float[Tensor, "2 N"], sizes: Sequence[int]
    ) -> Float[Tensor, "2 N"]:
        """Move the averages of this step's samples of all ranks, and return them."""
        everyone = gather_rows(ids, sizes)
        gamma = _checked_gamma(self.gamma.at(self.progress or Progress(self.num_steps)))
        before, now = self._averages.read(everyone), log_means.float()
        kept = before + (math.log1p(-gamma) if gamma < 1 else -torch.inf)
        moved = torch.logaddexp(kept, now + math.log(gamma))
        moved = torch.where(before.isneginf(), now, moved)
        if self._changes is not None:
            self._changes.append((everyone, before))
        last = last_of_equal(everyone)
        averages = torch.where(now.isfinite(), moved, before)[:, last]
        self._averages.write(everyone, averages)
        self.num_steps += 1
        return torch.where(now.isfinite(), averages, now).to(log_means)

    def begin_step(self) -> None:
        """Start to record the changes of the averages."""
        self._changes = []

    def end_step(self, left_out: Bool[Tensor, ""]) -> None:
        """Restore the averages on the device if the step is skipped, and stop recording."""
        for ids, before in reversed(self._changes or []):
            self._averages.restore(ids, before, left_out)
        self._changes = None

    def _ids(self, batch: Batch | None) -> Int64[Tensor, " B"]:
        if batch is None or batch.sample_ids is None:
            raise ConfigError("GlobalContrastiveLoss: expected a batch with sample_ids, got none")
        return batch.sample_ids

    def _check_range(self, ids: Int64[Tensor, " B"]) -> None:
        """Refuse ids out of range; on a GPU without waiting, by an assertion."""
        size = self._averages.num_samples
        wrong = (ids < 0) | (ids >= size)
        expected = f"sample_ids: expected 0 to {size - 1} (num_samples)"
        if wrong.is_cuda:
            torch._assert_async(~wrong.any(), expected)
        elif wrong.any():
            raise ConfigError(f"{expected}, got {int(ids.min())} to {int(ids.max())}")

    def get_extra_state(self) -> dict[str, Any]:
        """Return this rank's averages and the count of steps."""
        part = self._averages.part().cpu().clone()
        state: dict[str, Any] = {"log_averages": part, "num_steps": torch.tensor(self.num_steps)}
        rank, world_size = self._averages.layout
        return state if world_size == 1 else {**state, "rank": rank, "world_size": world_size}

    def complete_state(self, mesh: DeviceMesh | None = None) -> dict[str, Any]:
        """Return the averages of all ranks, sharded or on rank 0; every rank calls it."""
        averages = self._averages.complete() if mesh is None else self._averages.sharded(mesh)
        if averages is None:
            return {}
        return {"log_averages": averages, "num_steps": torch.tensor(self.num_steps)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from saved averages of the same data, of all ranks or of this one.

        Raises:
            ConfigError: If they are of another number of samples, or of another rank.
        """
        saved, num_samples = state["log_averages"], self._averages.num_samples
        if "world_size" in state:
            self._averages.load_part(saved, (int(state["rank"]), int(state["world_size"])))
        elif saved.shape[1] == num_samples:
            self._averages.load(saved)
        else:
            raise ConfigError(
                f"num_samples: the saved averages are of {saved.shape[1]} samples, "
                f"this loss has {num_samples}"
            )
        self.num_steps = int(state["num_steps"])


def _checked_gamma(gamma: float) -> float:
    if not 0 < gamma <= 1:
        raise ConfigError(f"gamma: expected over 0 and up to 1, got {gamma}")
    return gamma
