"""The objective: a weighted sum of named terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clipkit.errors import ConfigError
from clipkit.losses.kernels.attach import outside_compiled_graph
from clipkit.losses.kernels.text_exchange import TextExchange
from clipkit.losses.teachers import Teacher, check_teacher
from clipkit.losses.term import FusedPasses, LossTerm, Term
from clipkit.losses.unused_parts import sum_of_outputs
from clipkit.renamed_arguments import renamed_arguments
from clipkit.schedules import ConstantSchedule, Schedule, as_schedule
from clipkit.types import Batch, Embeddings
from clipkit.when import Progress


@dataclass(frozen=True)
class WeightedTerm:
    """A term of the objective with its weight.

    Args:
        loss: The term.
        weight: Factor of the term in the sum: a number, or a schedule over the run.
    """

    loss: LossTerm
    weight: float | Schedule = 1.0


@final
class CombinedLoss(nn.Module):
    """Weighted sum of named terms, ``contrastive_weight * contrastive + label_weight * label``...

    Terms of weight 0 are still computed, because DDP requires a gradient for every parameter.
    Exception: if the batch has no text embeddings, terms that need them and whose weight is the
    constant 0 are skipped.

    With ``uncertainty`` each term L becomes ``exp(-s) * L + s / 2`` with a trainable s, before its
    weight (Kendall et al. 2018, arXiv:1705.07115); the optimizer must then get the parameters of
    this module too.

    Args:
        contrastive: A loss over pairs; null for none.
        label: A loss over labels; null for none.
        contrastive_weight: Factor of the contrastive loss: a number, or a schedule over the run.
        label_weight: Factor of the label loss: a number, or a schedule over the run.
        terms: Further terms by name, each with its weight.
        uncertainty: Whether each term has a trainable factor in addition to its weight.
        teacher: Encoder that runs once per step, for all terms that distil it; null for none.

    Attributes:
        progress: Progress of the run, which schedules follow; set it before each training step.
            None to count the forward passes in training mode with gradients instead; the count is
            part of the state.

    Raises:
        ConfigError: If there is no term, a weight is negative or has no term, a name of
            ``terms`` is not a free identifier, or there is a teacher and no term that reads it, or
            the other way round.

    Examples:
        >>> from clipkit.losses import ContrastiveLoss
        >>> same = torch.eye(4)
        >>> batch = Batch(torch.zeros(4, 3, 1, 1, dtype=torch.uint8), torch.zeros(4, 1).long(),
        ...               torch.full((4,), -100), tuple("abcd"))
        >>> loss = CombinedLoss(terms={"pairs": WeightedTerm(ContrastiveLoss(), weight=0.5)})
        >>> values = loss(Embeddings(same, same, torch.tensor(100.0)), batch)
        >>> values["loss"].item(), values["pairs_num_samples"].item()
        (0.0, 4.0)
    """

    @renamed_arguments(
        {
            "distillation": "terms={'distillation': WeightedTerm(loss, weight)}",
            "distillation_weight": "terms={'distillation': WeightedTerm(loss, weight)}",
        }
    )
    def __init__(
        self,
        contrastive: LossTerm | None = None,
        label: LossTerm | None = None,
        contrastive_weight: float | Schedule = 1.0,
        label_weight: float | Schedule = 0.0,
        terms: Mapping[str, WeightedTerm] | None = None,
        uncertainty: bool = False,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__()
        if label is None and label_weight != 0:
            raise ConfigError(f"label_weight: expected 0 without a label loss, got {label_weight}")
        self.progress: Progress | None = None
        self.num_steps = 0
        self.contrastive, self.label, self.teacher = contrastive, label, teacher
        self._weights: dict[str, Schedule] = {}
        if contrastive is not None:
            self._weights["contrastive"] = _checked("contrastive_weight", contrastive_weight)
        if label is not None:
            self._weights["label"] = _checked("label_weight", label_weight)
        for name, term in (terms or {}).items():
            if not name.isidentifier() or hasattr(self, name) or name == "loss":
                raise ConfigError(
                    f"terms: expected names that are identifiers and not in use, got {name!r}"
                )
            self.add_module(name, term.loss)
            self._weights[name] = _checked(f"terms.{name}.weight", term.weight)
        if not self._weights:
            raise ConfigError("loss: expected at least one term (contrastive, label or terms)")
        check_teacher(teacher, {name for name, loss in self._terms() if loss.reads_teacher})
        self.log_variances = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(())) for name in self._weights if uncertainty}
        )

    @property
    def reads_captions(self) -> bool:
        """Whether a term that ever has a weight uses text embeddings."""
        return any(loss.reads_captions for loss in self._counted())

    @property
    def read_modalities(self) -> set[str]:
        """Names of the modalities that a term which ever has a weight uses."""
        read = {modality for loss in self._counted() for modality in loss.modalities}
        return read if self.reads_captions else read - {"text"}

    @property
    def reads_fused(self) -> bool:
        """Whether a term that ever has a weight reads all modalities that are fused."""
        return any(loss.reads_fused for loss in self._counted())

    @property
    def fused_terms(self) -> list[LossTerm]:
        """Terms that run parts of a joint encoder, also those whose weight is 0."""
        return [loss for _, loss in self._terms() if loss.passes != FusedPasses()]

    @property
    def read_heads(self) -> set[str]:
        """Names of the modalities whose label heads a term reads."""
        return {loss.label_head for _, loss in self._terms() if loss.label_head is not None}

    @property
    def gathers_text(self) -> bool:
        """Whether a term that ever has a weight gathers the texts of all ranks."""
        return any(loss.gathers_text for loss in self._counted())

    @outside_compiled_graph
    def forward(
        self, embeddings: Embeddings, batch: Batch, exchange: TextExchange | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """Compute every term and the weighted sum.

        Args:
            embeddings: Output of the encoder for this rank's batch.
            batch: This rank's batch.
            exchange: Exchange of the texts that has begun; None to begin it here.

        Returns:
            ``loss`` is the value to differentiate. For logging, each term NAME adds ``NAME`` (not
            weighted), ``NAME_weighted`` and ``NAME_num_samples`` (of all ranks).
        """
        terms = self.compute_terms(embeddings, batch, exchange)
        return self.weigh(terms, self.unused(embeddings))

    def compute_terms(
        self, embeddings: Embeddings, batch: Batch, exchange: TextExchange | None = None
    ) -> dict[str, Term]:
        """Compute every term without its weight: the part of ``forward`` that reads no schedule.

        Args:
            embeddings: Output of the encoder for this rank's batch.
            batch: This rank's batch.
            exchange: Exchange of the texts that has begun; None to begin it here.
        """
        terms = {}
        of_teacher = None if self.teacher is None else self.teacher(batch)
        for name, loss in self._terms():
            if self._is_skipped(name, loss, embeddings):
                continue
            loss.progress, loss.exchange = self.progress, exchange
            loss.of_teacher = of_teacher if loss.reads_teacher else None
            terms[name] = loss.term(embeddings, batch)
            loss.exchange = loss.of_teacher = None
        return terms

    def unused(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """Return 0, with a gradient of 0 for what no term uses, because DDP needs one."""
        total = torch.zeros((), device=embeddings.image.device)
        for name, loss in self._terms():
            if self._is_skipped(name, loss, embeddings):
                total = total + self._zero(name, embeddings)
        if self.label is None and embeddings.label_logits is not None:
            total = total + 0 * embeddings.label_logits.sum()  # the head
        if embeddings.joint is not None:
            total = total + embeddings.joint.zero()
        if embeddings.modalities is not None:
            total = total + 0 * sum_of_outputs(embeddings)  # every tower, head and scale
        return total

    def weigh(
        self, terms: Mapping[str, Term], unused: Float[Tensor, ""]
    ) -> dict[str, Float[Tensor, ""]]:
        """Add up the terms by their weights, and count the step.

        Args:
            terms: What ``compute_terms`` returned.
            unused: What ``unused`` returned.

        Returns:
            What ``forward`` returns.
        """
        values: dict[str, Tensor] = {}
        total, progress = unused, self.progress or Progress(self.num_steps)
        for name, term in terms.items():
            weighted = self._weights[name].at(progress) * self._with_uncertainty(name, term)
            total = total + weighted
            values[name] = term.value.detach()
            values[f"{name}_weighted"] = weighted.detach()
            values[f"{name}_num_samples"] = term.num_samples
        if self.training and torch.is_grad_enabled():
            self.num_steps += 1
        return {"loss": total, **values}

    def check(self, embeddings: Embeddings) -> None:
        """Refuse an encoder that does not return what a term needs, before a run.

        Args:
            embeddings: Embeddings of any pairs, real or random; only their shapes matter.

        Raises:
            ConfigError: Naming what is missing or must be absent.
        """
        for _, loss in self._terms():
            loss.check(embeddings)

    def check_batch(self, batch: Batch, num_classes: int | Mapping[str, int] | None = None) -> None:
        """Refuse a batch whose values a term cannot use; call it before the batch is on a GPU.

        Args:
            batch: A batch of this rank, on the CPU.
            num_classes: Number of classes of each label head by the name of its modality, or of the
                one on the image tower; None without a head.

        Raises:
            ConfigError: Naming the value.
        """
        sizes = {"image": num_classes} if isinstance(num_classes, int) else num_classes or {}
        for _, loss in self._terms():
            loss.check_batch(batch, sizes.get(loss.label_head or "image"))

    def get_extra_state(self) -> Tensor:
        """Return the count of steps."""
        return torch.tensor(self.num_steps)

    def set_extra_state(self, state: Tensor) -> None:
        """Continue from a saved count of steps."""
        self.num_steps = int(state)

    def _terms(self) -> list[tuple[str, LossTerm]]:
        return [(name, getattr(self, name)) for name in self._weights]

    def _is_skipped(self, name: str, loss: LossTerm, embeddings: Embeddings) -> bool:
        """Return whether a term needs captions, the batch has none, and its weight is 0."""
        return embeddings.text is None and loss.reads_captions and _is_zero(self._weights[name])

    def _counted(self) -> list[LossTerm]:
        """Return the terms that ever have a weight."""
        return [loss for name, loss in self._terms() if not _is_zero(self._weights[name])]

    def _with_uncertainty(self, name: str, term: Term) -> Float[Tensor, ""]:
        if name not in self.log_variances:
            return term.value
        log_variance = self.log_variances[name]
        # A step without samples must not decrease the variance.
        has_samples = (term.num_samples > 0).to(term.value)
        weighted: Tensor = torch.exp(-log_variance) * term.value + has_samples * log_variance / 2
        return weighted

    def _zero(self, name: str, embeddings: Embeddings) -> Float[Tensor, ""]:
        """Return 0, with a gradient of 0 for the parameters of a term that is skipped."""
        trained = [embeddings.logit_scale, embeddings.logit_bias, self.log_variances.get(name)]
        return 0 * torch.stack([value for value in trained if value is not None]).sum()


def _is_zero(schedule: Schedule) -> bool:
    return isinstance(schedule, ConstantSchedule) and schedule.value == 0


def _checked(option: str, weight: float | Schedule) -> Schedule:
    schedule = as_schedule(weight)
    if isinstance(schedule, ConstantSchedule) and schedule.value < 0:
        raise ConfigError(f"{option}: expected 0 or more, got {weight}")
    return schedule
