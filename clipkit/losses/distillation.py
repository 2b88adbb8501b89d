"""Distillation from a teacher's similarities and features."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch

from clipkit.errors import ConfigError
from clipkit.losses.contrastive import checked_tile, select_pairs
from clipkit.losses.functional import feature_distillation_loss
from clipkit.losses.pair_terms import similarity_term
from clipkit.losses.teachers import Teacher
from clipkit.losses.term import LossTerm, Term
from clipkit.types import Batch, Embeddings


@final
class DistillationLoss(LossTerm):
    """Divergence from a teacher's distributions over texts per image and over images per text.

    The similarity part is KL(teacher || student) over the pairs of all ranks, in memory linear in
    the batch (``losses.similarity_distillation_loss``). The feature part is
    1 - cosine, averaged over both towers (``losses.feature_distillation_loss``); for
    unit-norm embeddings that is half their squared distance. ``batch.pair_mask`` excludes pairs.

    Args:
        teacher: Source of the teacher's embeddings; null for the teacher of ``CombinedLoss``.
        similarity_weight: Factor of the similarity part; the teacher may have any width.
        feature_weight: Factor of the feature part; the teacher needs the student's width.
        tile_size: Rows and columns of similarities held at a time; null to choose them by device.

    Raises:
        ConfigError: If both weights are 0 or one is negative, or the widths differ.
    """

    def __init__(
        self,
        teacher: Teacher | None = None,
        similarity_weight: float = 1.0,
        feature_weight: float = 0.0,
        tile_size: int | None = None,
    ) -> None:
        super().__init__()
        if min(similarity_weight, feature_weight) < 0 or not similarity_weight + feature_weight:
            raise ConfigError(
                f"similarity_weight and feature_weight: expected 0 or more and not both 0, "
                f"got {similarity_weight} and {feature_weight}"
            )
        self.teacher = teacher
        self.reads_teacher = teacher is None
        self.similarity_weight, self.feature_weight = similarity_weight, feature_weight
        self.gathers_text = similarity_weight > 0
        self.tile_size = checked_tile(tile_size)

    def check(self, embeddings: Embeddings) -> None:
        """Accept every encoder; the teacher is checked with the first batch."""

    def term(self, embeddings: Embeddings, batch: Batch | None) -> Term:
        """Compute the loss over the pairs of all ranks."""
        if batch is None:
            raise ConfigError("distillation loss: expected a batch, got None")
        student = select_pairs(embeddings, batch, self.exchange)
        with torch.no_grad():
            teacher = select_pairs(self._output_of_teacher(batch), batch)
        parts: list[Term] = []
        if self.similarity_weight:
            term = similarity_term(student, teacher, self.tile_size)
            parts.append(replace(term, value=self.similarity_weight * term.value))
        if self.feature_weight:
            if student.image.shape != teacher.image.shape:
                raise ConfigError(
                    f"feature_weight: expected a teacher of the student's width "
                    f"{student.image.shape[1]}, got {teacher.image.shape[1]}; "
                    f"use similarity_weight alone"
                )
            term = feature_distillation_loss(*student[:2], *teacher[:2])
            parts.append(replace(term, value=self.feature_weight * term.value))
        value = torch.stack([part.value for part in parts]).sum()
        return Term(value, parts[0].num_samples)

    def _output_of_teacher(self, batch: Batch) -> Embeddings:
        """Return the teacher's embeddings of the batch."""
        of_teacher: Embeddings | None = (
            self.of_teacher if self.teacher is None else self.teacher(batch)
        )
        if of_teacher is None:
            raise ConfigError(
                "DistillationLoss: expected a teacher, got none; set it, or that of CombinedLoss"
            )
        return of_teacher
