"""The whole objective: a weighted sum of named terms."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clipkit.errors import ConfigError
from clipkit.losses.kernels.attach import outside_compiled_graph
from clipkit.losses.schedules import ConstantSchedule, Schedule, as_schedule
from clipkit.losses.term import LossTerm, Term
from clipkit.types import Batch, Embeddings


@final
class CombinedLoss(nn.Module):
    """``contrastive_weight * contrastive + label_weight * label + ...``.

    A term whose weight is 0 is still computed and stays in the graph, as DDP wants a gradient for
    every parameter; but without embeddings of captions, those are left out that would read them and
    have weight 0 for ever. Weights may change with the step, which is counted here over the forward
    passes in training mode with gradients, and saved with the state.

    With ``uncertainty`` each term L becomes ``exp(-s) * L + s / 2`` with a learned s, before its
    weight (Kendall et al. 2018, arXiv:1705.07115); the optimizer must then get the parameters of
    this module too.

    Args:
        contrastive: A loss over pairs.
        label: A loss over labels.
        contrastive_weight: Its factor, a number or a schedule.
        label_weight: Its factor, a number or a schedule.
        distillation: A loss against a teacher.
        distillation_weight: Its factor, a number or a schedule.
        uncertainty: Learn a factor for each term.

    Raises:
        ConfigError: If a weight is negative or its term is missing.

    Examples:
        >>> from clipkit.losses import ContrastiveLoss
        >>> same = torch.eye(4)
        >>> batch = Batch(torch.zeros(4, 3, 1, 1, dtype=torch.uint8), torch.zeros(4, 1).long(),
        ...               torch.full((4,), -100), tuple("abcd"))
        >>> terms = CombinedLoss(ContrastiveLoss())(
        ...     Embeddings(same, same, torch.tensor(100.0)), batch)
        >>> terms["loss"].item(), terms["contrastive_num_samples"].item()
        (0.0, 4.0)
    """

    def __init__(
        self,
        contrastive: LossTerm,
        label: LossTerm | None = None,
        contrastive_weight: float | Schedule = 1.0,
        label_weight: float | Schedule = 0.0,
        distillation: LossTerm | None = None,
        distillation_weight: float | Schedule = 0.0,
        uncertainty: bool = False,
    ) -> None:
        super().__init__()
        self.contrastive, self.label, self.distillation = contrastive, label, distillation
        terms = {"contrastive": contrastive, "label": label, "distillation": distillation}
        weights = (contrastive_weight, label_weight, distillation_weight)
        self._weights = {
            name: _checked(name, weight, term)
            for (name, term), weight in zip(terms.items(), weights, strict=True)
            if term is not None or weight != 0
        }
        self.log_variances = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(())) for name in self._weights if uncertainty}
        )
        self.num_steps = 0

    @property
    def reads_captions(self) -> bool:
        """Whether a term that ever counts looks at the embeddings of the captions."""
        return any(
            getattr(self, name).reads_captions and not _is_zero(schedule)
            for name, schedule in self._weights.items()
        )

    @outside_compiled_graph
    def forward(self, embeddings: Embeddings, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Every term by name.

        Args:
            embeddings: What the encoder made of this rank's batch.
            batch: This rank's batch.

        Returns:
            ``loss`` is what to differentiate. For every term NAME: ``NAME`` (raw),
            ``NAME_weighted`` and ``NAME_num_samples`` (of all ranks), all three for logging.
        """
        values: dict[str, Tensor] = {}
        total = torch.zeros((), device=embeddings.image.device)
        for name, schedule in self._weights.items():
            loss: LossTerm = getattr(self, name)
            if embeddings.text is None and loss.reads_captions and _is_zero(schedule):
                total = total + self._of_no_weight(name, embeddings)
                continue
            term = loss.term(embeddings, batch)
            weighted = schedule(self.num_steps) * self._with_uncertainty(name, term)
            total = total + weighted
            values[name] = term.value.detach()
            values[f"{name}_weighted"] = weighted.detach()
            values[f"{name}_num_samples"] = term.num_samples
        if self.label is None and embeddings.label_logits is not None:
            total = total + 0 * embeddings.label_logits.sum()  # a head that nobody asks to learn
        if self.training and torch.is_grad_enabled():
            self.num_steps += 1
        return {"loss": total, **values}

    def check(self, embeddings: Embeddings) -> None:
        """Refuse an encoder that does not give what a term needs, before a run.

        Args:
            embeddings: Of any pairs, made up or not; only their shapes matter.

        Raises:
            ConfigError: Naming what is missing or in the way.
        """
        for name in self._weights:
            loss: LossTerm = getattr(self, name)
            loss.check(embeddings)

    def check_batch(self, batch: Batch, num_classes: int | None = None) -> None:
        """Refuse a batch whose values a term cannot use; call it before the batch is on a GPU.

        Args:
            batch: A batch of this rank, on the CPU.
            num_classes: Classes of the encoder's label head, or None without one.

        Raises:
            ConfigError: Naming the value.
        """
        for name in self._weights:
            loss: LossTerm = getattr(self, name)
            loss.check_batch(batch, num_classes)

    def _with_uncertainty(self, name: str, term: Term) -> Float[Tensor, ""]:
        if name not in self.log_variances:
            return term.value
        log_variance = self.log_variances[name]
        # A step without samples must not push the variance down for ever.
        seen = (term.num_samples > 0).to(term.value)
        weighted: Tensor = torch.exp(-log_variance) * term.value + seen * log_variance / 2
        return weighted

    def _of_no_weight(self, name: str, embeddings: Embeddings) -> Float[Tensor, ""]:
        """0, with a gradient of 0 for what a term that is left out would teach."""
        learned = [embeddings.logit_scale, embeddings.logit_bias, self.log_variances.get(name)]
        return 0 * torch.stack([value for value in learned if value is not None]).sum()

    def get_extra_state(self) -> Tensor:
        """The step, so that schedules go on where they were."""
        return torch.tensor(self.num_steps)

    def set_extra_state(self, state: Tensor) -> None:
        """Go on from a saved step."""
        self.num_steps = int(state)


def _is_zero(schedule: Schedule) -> bool:
    return isinstance(schedule, ConstantSchedule) and schedule.value == 0


def _checked(name: str, weight: float | Schedule, term: LossTerm | None) -> Schedule:
    if term is None:
        raise ConfigError(f"{name}_weight: expected 0 without a {name} loss, got {weight}")
    schedule = as_schedule(weight)
    if isinstance(schedule, ConstantSchedule) and schedule.value < 0:
        raise ConfigError(f"{name}_weight: expected 0 or more, got {weight}")
    return schedule
