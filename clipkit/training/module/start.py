"""What happens once before a run: the encoder meets its data, and what cannot work is refused."""

from __future__ import annotations

from lightning.pytorch import Trainer

from clipkit.losses import CombinedLoss
from clipkit.models import TowerEncoder
from clipkit.training.checks.classes import adopt_class_names, heads_of_labels
from clipkit.training.checks.modalities import check_modalities
from clipkit.training.checks.options import (
    check_accumulation,
    check_clipping,
    check_norms,
    check_objective,
    warn_of_start,
)
from clipkit.training.datamodule.pair_datamodule import PairDataModule
from clipkit.training.progress.run_progress import pair_data


def connect_data(data: PairDataModule, encoder: TowerEncoder, loss: CombinedLoss) -> None:
    """Compare the towers with the fields of the data, and name the classes of label heads."""
    check_modalities(encoder, data.samples.fields)
    for head in encoder.heads.values():
        head.read_texts(data.resolved_tokenizer())
    for head in heads_of_labels(encoder.heads, loss.read_heads):
        adopt_class_names(head, data.class_names)


def check_start(trainer: Trainer, encoder: TowerEncoder, loss: CombinedLoss) -> None:
    """Refuse what cannot work, before the first step."""
    check_clipping(trainer.gradient_clip_val)
    check_objective(encoder, loss)
    check_norms(encoder, trainer.world_size)
    data = pair_data(trainer)
    has_stages = data is not None and bool(data.order.batch_size_stages)
    check_accumulation(trainer.accumulate_grad_batches, has_stages)
    if trainer.global_step == 0:
        warn_of_start(encoder)
