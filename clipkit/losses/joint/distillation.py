"""Distillation of a fusion: from a larger joint encoder, or the average of its own weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from clipkit.errors import ConfigError, check_at_least
from clipkit.losses.joint.fused_rows import (
    Tokens,
    at_least_float32,
    checked_micro_batch,
    complete_samples,
    in_micro_batches,
    joint_of,
    tokens_of,
)
from clipkit.losses.joint.masking import WordMasking, chosen_places, chosen_states
from clipkit.losses.joint.pairs import check_names, check_pair, draw_pairs, pair_logits
from clipkit.losses.term import FusedPasses, LossTerm, Term, mean_over_ranks
from clipkit.token_sequences import JointStage
from clipkit.types import Batch, Embeddings


@final
class MatchingDistillationLoss(LossTerm):
    """KL(teacher || student) of whether two modalities belong together, over hard pairs.

    The pairs are those of ``MatchingLoss`` with the same seed: each sample, with a wrong ``first``,
    and with a wrong ``second``. The value is the mean over all pairs of the divergence between two
    classes, match and no match. The teacher is that of ``CombinedLoss``.

    Args:
        first: Modality whose negatives are drawn by ``second``.
        second: Modality whose negatives are drawn by ``first``.
        micro_batch_size: Samples whose fused activations are in memory at a time, computed again
            in the backward pass; null for all at once.
        seed: Seed of the draws.

    Raises:
        ConfigError: If both are the same, or encoder or teacher do not fuse them.
    """

    reads_fused = True
    reads_teacher = True
    passes = FusedPasses(fusions=3)

    def __init__(
        self,
        first: str = "image",
        second: str = "text",
        micro_batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.names = self.modalities = check_names(first, second, "MatchingDistillationLoss")
        self.reads_captions = "text" in self.names
        self.micro_batch_size = checked_micro_batch(micro_batch_size)
        self.seed = seed

    def check(self, embeddings: Embeddings) -> None:
        """Refuse an encoder that does not fuse the two modalities."""
        check_pair(embeddings, self.names, "MatchingDistillationLoss")

    def term(self, embeddings: Embeddings, batch: Batch | None) -> Term:
        """Compute the divergence over the samples of all ranks."""
        term = "MatchingDistillationLoss"
        self.check(embeddings)
        joint, teacher = joint_of(embeddings, term), _teacher_of(self, term)
        check_pair(teacher.embeddings, self.names, f"{term}, teacher")
        drawn = draw_pairs(embeddings, batch, self.names, self.seed, term)
        pairs = drawn.tokens(tokens_of(embeddings, joint, term))
        with torch.no_grad():
            of_teacher = drawn.tokens(teacher.tokens)
            parts = in_micro_batches(
                lambda rows: pair_logits(teacher.joint, of_teacher, rows),
                drawn.valid,
                self.micro_batch_size,
            )
            targets = torch.cat(list(parts))

        def losses(rows: slice) -> Float[Tensor, "rows 3"]:
            return _binary_divergence(targets[rows], pair_logits(joint, pairs, rows))

        values = torch.cat(list(in_micro_batches(losses, drawn.valid, self.micro_batch_size)))
        total = torch.where(drawn.counted, values, 0.0).sum()
        return mean_over_ranks(total, drawn.counted.sum(), drawn.valid.sum())


@final
class MaskedWordDistillationLoss(LossTerm):
    """KL(teacher || student) of the distribution of masked words over the vocabulary.

    Li et al. 2021, arXiv:2107.07651, equation 7. Words are masked as by ``MaskedWordLoss`` with the
    same options, and the teacher reads the same masked captions: it needs the student's tokens. The
    value is the mean over the chosen tokens of all ranks. The teacher is that of ``CombinedLoss``.

    Args:
        mask_id: Token id of masked words; see ``MaskedWordLoss``.
        special_ids: Token ids that are never masked, nor taken as a random word.
        probability: Probability of a token to be chosen.
        micro_batch_size: Samples whose activations are in memory at a time, computed again in the
            backward pass; null for all at once.
        seed: Seed of the choices.

    Raises:
        ConfigError: If the probability is not between 0 and 1, or encoder or teacher have no word
            head, or other vocabularies.
    """

    modalities = ("text",)
    reads_fused = True
    reads_teacher = True

    def __init__(
        self,
        mask_id: int,
        special_ids: Sequence[int],
        probability: float = 0.15,
        micro_batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        term = "MaskedWordDistillationLoss"
        self.masking = WordMasking(mask_id, special_ids, probability, seed, term)
        self.passes = FusedPasses(fusions=1, texts=1, words=probability)
        self.micro_batch_size = checked_micro_batch(micro_batch_size)

    def check(self, embeddings: Embeddings) -> None:
        """Refuse an encoder that cannot predict words, and ids beyond its vocabulary."""
        self.masking.check(joint_of(embeddings, "MaskedWordDistillationLoss"))

    def term(self, embeddings: Embeddings, batch: Batch | None) -> Term:
        """Compute the divergence over the chosen tokens of all ranks."""
        term = "MaskedWordDistillationLoss"
        joint, teacher = joint_of(embeddings, term), _teacher_of(self, term)
        masked = self.masking.masked(embeddings, batch)
        _check_words(joint, teacher.joint, batch)
        tokens = tokens_of(embeddings, joint, term)
        places = chosen_places(masked.chosen, self.micro_batch_size)

        def of_teacher(rows: slice) -> Float[Tensor, "words teacher_width"]:
            return chosen_states(teacher.joint, teacher.tokens, masked, rows, places[rows.start])

        with torch.no_grad():
            parts = list(in_micro_batches(of_teacher, masked.chosen, self.micro_batch_size))

        def losses(rows: slice) -> Float[Tensor, " 1"]:
            states = parts[rows.start // (self.micro_batch_size or len(masked.chosen) or 1)]
            with torch.no_grad():  # not before: logits of all words take much memory
                targets = at_least_float32(teacher.joint.predict_words(states)).log_softmax(1)
            states = chosen_states(joint, tokens, masked, rows, places[rows.start])
            logits = at_least_float32(joint.predict_words(states)).log_softmax(1)
            return F.kl_div(logits, targets, reduction="sum", log_target=True)[None]

        values = list(in_micro_batches(losses, masked.chosen, self.micro_batch_size))
        count = masked.chosen.sum()
        return mean_over_ranks(torch.cat(values).sum(), count, count)


@final
class FusedStateDistillationLoss(LossTerm):
    """Mean squared error between the pooled vectors of the student's and the teacher's fusion.

    The value is the mean over the components of the teacher's vector, and over the samples of all
    ranks that have all modalities. The teacher is that of ``CombinedLoss``.

    Args:
        widths: Components of the student's and of the teacher's pooled vector, between which a
            linear layer is trained; null if both are equal, for none.
        micro_batch_size: Samples whose fused activations are in memory at a time, computed again
            in the backward pass; null for all at once.

    Raises:
        ConfigError: If a width is less than 1 or not that of the encoder, or the encoder has no
            fusion.
    """

    modalities = ()
    reads_captions = False  # unless texts are fused
    reads_fused = True
    reads_teacher = True
    passes = FusedPasses(fusions=1)

    def __init__(
        self, widths: tuple[int, int] | None = None, micro_batch_size: int | None = None
    ) -> None:
        super().__init__()
        for width in widths or ():
            check_at_least("FusedStateDistillationLoss.widths", width, 1)
        self.projection = None if widths is None else nn.Linear(*widths)
        self.micro_batch_size = checked_micro_batch(micro_batch_size)

    def check(self, embeddings: Embeddings) -> None:
        """Refuse an encoder without a fusion; widths are checked with the first batch."""
        joint_of(embeddings, "FusedStateDistillationLoss")

    def term(self, embeddings: Embeddings, batch: Batch | None) -> Term:
        """Compute the error over the samples of all ranks."""
        term = "FusedStateDistillationLoss"
        joint, teacher = joint_of(embeddings, term), _teacher_of(self, term)
        tokens = tokens_of(embeddings, joint, term)
        valid = complete_samples(embeddings, batch, joint)
        with torch.no_grad():
            parts = in_micro_batches(
                lambda rows: _pooled(teacher.joint, teacher.tokens, rows),
                valid,
                self.micro_batch_size,
            )
            targets = torch.cat(list(parts))

        def losses(rows: slice) -> Float[Tensor, " rows"]:
            states = self._projected(_pooled(joint, tokens, rows), targets.shape[1])
            return (at_least_float32(states) - targets[rows]).square().mean(1)

        values = torch.cat(list(in_micro_batches(losses, valid, self.micro_batch_size)))
        count = valid.sum()
        return mean_over_ranks(torch.where(valid, values, 0.0).sum(), count, count)

    def _projected(
        self, states: Float[Tensor, "rows width"], teacher_width: int
    ) -> Float[Tensor, "rows teacher_width"]:
        layer = self.projection
        own, given = states.shape[1], (states.shape[1], teacher_width)
        widths = (own, own) if layer is None else (layer.in_features, layer.out_features)
        if widths != given:
            raise ConfigError(
                f"FusedStateDistillationLoss.widths: expected those of the pooled vectors of "
                f"student and teacher, {[*given]}, got {[*widths] if layer else None}"
            )
        return states if layer is None else layer(states)


class _JointTeacher(NamedTuple):
    embeddings: Embeddings
    joint: JointStage
    tokens: Tokens


def _teacher_of(loss: LossTerm, term: str) -> _JointTeacher:
    """Return what the teacher made of the batch; refuse one that does not fuse."""
    if loss.of_teacher is None:
        raise ConfigError(
            f"{term}: expected a teacher, got none; set model.loss.teacher (CombinedLoss.teacher)"
        )
    joint = joint_of(loss.of_teacher, f"{term}, teacher")
    return _JointTeacher(
        loss.of_teacher, joint, tokens_of(loss.of_teacher, joint, f"{term}, teacher")
    )


def _check_words(student: JointStage, teacher: JointStage, batch: Batch | None) -> None:
    """Refuse a teacher whose words are not those of the student."""
    term = "MaskedWordDistillationLoss"
    if teacher.vocab_size != student.vocab_size or "text" not in teacher.returned_names:
        raise ConfigError(
            f"{term}: expected a teacher with a word_head of {student.vocab_size} words and a "
            f"fusion that returns the tokens of text, got {teacher.vocab_size} words and tokens of "
            f"{', '.join(teacher.returned_names)}"
        )
    if batch is not None and batch.teacher is not None and batch.teacher.tokens is not None:
        raise ConfigError(
            f"{term}: expected a teacher that reads the student's tokens, got batches with tokens "
            f"of its own; leave tokenizer out of clipkit.data.TeacherInputs"
        )


def _pooled(joint: JointStage, tokens: Tokens, rows: slice) -> Float[Tensor, "rows width"]:
    return joint.fuse({name: tokens[name].rows(rows) for name in joint.fused_names}).pooled


def _binary_divergence(
    teacher: Float[Tensor, "rows pairs"], student: Float[Tensor, "rows pairs"]
) -> Float[Tensor, "rows pairs"]:
    """Return KL(teacher || student) of two classes, from the logits of one of them."""
    parts = [
        torch.sigmoid(sign * teacher)
        * (F.logsigmoid(sign * teacher) - F.logsigmoid(sign * student))
        for sign in (1, -1)
    ]
    return torch.stack(parts).sum(0)
