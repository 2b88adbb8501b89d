"""The smallest real run: towers of one layer, shards of coloured squares."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from clipkit.losses import CombinedLoss, ContrastiveLoss, LabelLoss
from clipkit.models import DualEncoder, LinearLabelHead, from_open_clip
from clipkit.optim import WarmupCosine
from clipkit.types import Batch
from tests.helpers.factories import write_shards

if TYPE_CHECKING:  # Lightning is imported by what trains
    from lightning.pytorch import Callback, Trainer

    from clipkit.training import ContrastiveModule, PairDataModule

CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "head_width": 8, "layers": 1},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
NUM_CLASSES = 4


def shards(folder: Path, counts: Sequence[int] = (9, 14), val: int = 8, **options: Any) -> Path:
    """Shards ``train/*.tar`` with 23 pairs and ``val/*.tar`` with 8, unless told otherwise."""
    write_shards(folder / "train", counts, **options)
    write_shards(folder / "val", [val], start=1000)
    return folder


def encoder(*, labels: bool = False) -> DualEncoder:
    """Always the same weights."""
    torch.manual_seed(0)
    head = LinearLabelHead(CONFIG["embed_dim"], NUM_CLASSES) if labels else None
    return from_open_clip(CONFIG, label_head=head)


def batch(length: int = 6, size: int = 4) -> Batch:
    """Pairs of uint8 images of 16 pixels and captions of one length."""
    generator = torch.Generator().manual_seed(length)
    tokens = torch.randint(1, 49000, (size, length), generator=generator)
    tokens[:, -1] = 49407
    images = torch.randint(0, 256, (size, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return Batch(images, tokens, torch.full((size,), -100), tuple("abcdefgh"[:size]))


def module(
    *,
    labels: bool = False,
    learning_rate: float = 1e-3,
    micro_batch_size: int | None = None,
    contrastive_weight: float = 1.0,
    retrieval_pairs: int = 10_000,
) -> ContrastiveModule:
    """A module with the softmax loss and, on request, a label loss."""
    from clipkit.training import ContrastiveModule

    label = LabelLoss() if labels else None
    return ContrastiveModule(
        encoder(labels=labels),
        CombinedLoss(ContrastiveLoss(), label, contrastive_weight, 0.5 if labels else 0.0),
        lambda groups: torch.optim.AdamW(groups, lr=learning_rate),
        WarmupCosine(warmup=0.1),
        micro_batch_size=micro_batch_size,
        retrieval_pairs=retrieval_pairs,
    )


def data(folder: Path, batch_size: int = 4, *, val: bool = False, **options: Any) -> PairDataModule:
    """The pairs of ``shards``."""
    from clipkit.training import PairDataModule

    return PairDataModule(
        train=str(folder / "train" / "*.tar"),
        val=str(folder / "val" / "*.tar") if val else None,
        batch_size=batch_size,
        **options,
    )


def trainer(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    """A quiet trainer on the CPU."""
    from lightning.pytorch import Trainer

    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "default_root_dir": str(folder),
        "callbacks": list(callbacks),
        "enable_checkpointing": any("Checkpoint" in type(c).__name__ for c in callbacks),
    }
    return Trainer(**{**defaults, **options})


def comparable(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the weights that runs with different rounding share after steps of Adam.

    Attention does not change with the bias of its keys, since a softmax ignores what is added to
    all its inputs. The gradient of that bias is rounding alone, and Adam makes full steps of it.

    Args:
        state: A module's state or a checkpoint's ``state_dict``; entries that are no tensors, such
            as the state of a loss, are left out.
    """
    kept = {}
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            query_key_value = value.chunk(3) if name.endswith("in_proj_bias") else ()
            kept[name] = torch.cat(query_key_value[::2]) if query_key_value else value
    return kept


def words(folder: Path, run: Path, *more: str) -> list[str]:
    """The same run as words for ``clipkit fit``, without a callback or logger."""
    return [
        "--model.encoder=clipkit.models.from_open_clip",
        f"--model.encoder.name={json.dumps(CONFIG)}",
        "--model.loss.contrastive=clipkit.losses.ContrastiveLoss",
        "--model.optimizer=torch.optim.AdamW",
        "--model.schedule=clipkit.optim.WarmupCosine",
        f"--data.train={folder}/train/*.tar",
        "--data.batch_size=4",
        "--trainer.accelerator=cpu",
        "--trainer.devices=1",
        "--trainer.max_steps=4",
        "--trainer.logger=false",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        "--trainer.enable_checkpointing=false",
        f"--trainer.default_root_dir={run}",
        *more,
    ]
