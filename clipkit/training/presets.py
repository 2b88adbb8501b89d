"""Starting points for fine-tuning, chosen by the number of samples, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from clipkit.losses import balanced_class_weights

_IMBALANCE: Final = 3.0
"""The largest class has so many times the samples of the smallest: rare classes get weight."""

_LARGEST_BATCH: Final = 256
_VALIDATIONS: Final = 10
_CALLBACKS: Final = "clipkit.training.callbacks"


@dataclass(frozen=True, slots=True)
class Preset:
    """How much of a model learns, how fast, and for how long.

    Args:
        below: The preset is for fewer samples than this; None for any number.
        unlocked_groups: Layer groups of each tower that learn, from the output; None for all.
        learning_rate: Of the last layers.
        layer_decay: Each layer group learns so much slower than the one above it.
        epochs: Passes over the data.
        crop: Smallest share of a picture's area that a random crop keeps.
        weight_decay: Of the optimizer.
        reason: Why, in a sentence.
    """

    below: int | None
    unlocked_groups: int | None
    learning_rate: float
    layer_decay: float
    epochs: int
    crop: float
    weight_decay: float
    reason: str


PRESETS: Final = (
    Preset(1_000, 1, 1e-3, 1.0, 20, 0.8, 0.2,
           "fewer than 1,000 samples: they can turn the last projections, but towers would learn "
           "them by heart; both are locked below their last layer group"),
    Preset(20_000, 4, 1e-4, 0.7, 15, 0.6, 0.1,
           "1,000 to 20,000 samples: the last layers can follow the new domain, the lower ones "
           "keep what pretraining found; four layer groups of each tower learn"),
    Preset(200_000, None, 3e-5, 0.75, 10, 0.5, 0.1,
           "20,000 to 200,000 samples: enough for all layers, the lower ones slowly"),
    Preset(None, None, 3e-5, 0.9, 5, 0.4, 0.1,
           "200,000 samples or more: all layers learn at nearly the same rate, for few epochs"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TuningData:
    """What is known of the data before a run.

    Args:
        train: Where the training data lie.
        val: Where the validation data lie; None for none.
        num_samples: Training samples.
        class_counts: Training samples of each class, by number; empty where there are no classes.
        has_captions: Whether the samples have captions of their own, beside their class's name.
        label_field: Where a sample's class is.
    """

    train: str
    val: str | None
    num_samples: int
    class_counts: Sequence[int] = ()
    has_captions: bool = True
    label_field: str = "cls"


def choose_preset(num_samples: int) -> Preset:
    """The preset for a number of samples.

    Args:
        num_samples: Training samples.

    Example:
        >>> choose_preset(400).unlocked_groups
        1
    """
    fitting = (p for p in PRESETS if p.below is None or num_samples < p.below)
    return next(fitting)


def tuning_config(
    data: TuningData,
    encoder: Mapping[str, Any],
    folder: str,
    embedding_dim: int,
    templates: Sequence[str],
) -> tuple[dict[str, Any], list[str]]:
    """The whole configuration of a fine-tuning run, and why it is what it is.

    Args:
        data: What is trained on.
        encoder: The model to start from: class_path and init_args.
        folder: Where the run leaves its files.
        embedding_dim: The model's.
        templates: Sentences with ``{}`` around class names.

    Returns:
        Plain types for ``clipkit fit``, and sentences for people.
    """
    preset = choose_preset(data.num_samples)
    reasons = [preset.reason]
    batch_size = min(_LARGEST_BATCH, max(8, data.num_samples // 8))
    reasons.append(
        f"batches of {batch_size}: at least eight steps an epoch, and at most {_LARGEST_BATCH}"
    )
    loss, head, factors = _objective(data, embedding_dim, reasons)
    model: dict[str, Any] = {
        "encoder": {**encoder, "init_args": {**encoder["init_args"], **head}},
        "loss": loss,
        "groups": {"factors": factors, "layer_decay": preset.layer_decay},
        "optimizer": {
            "class_path": "torch.optim.AdamW",
            "init_args": {"lr": preset.learning_rate, "weight_decay": preset.weight_decay},
        },
        "schedule": {
            "class_path": "clipkit.optim.WarmupCosine",
            "init_args": {"warmup_fraction": 0.1},
        },
    }
    config = {
        "seed_everything": 0,
        "model": model,
        "data": _data(data, batch_size, templates),
        "trainer": _trainer(data, preset, folder, reasons),
    }
    return config, reasons


def _objective(
    data: TuningData, embedding_dim: int, reasons: list[str]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, float]]:
    """Loss, label head and learning-rate factors."""
    if not data.class_counts:
        reasons.append("no classes: the contrastive loss of captions alone")
        loss: dict[str, Any] = {"contrastive": {"class_path": "clipkit.losses.ContrastiveLoss"}}
        return loss, {}, {}
    reasons.append(
        "classes: pairs of one class are right answers for each other (UniCL), and a linear head "
        "learns beside it"
        + ("" if data.has_captions else "; captions are class names in sentences")
    )
    label: dict[str, Any] = {"label_smoothing": 0.1}
    present = [count for count in data.class_counts if count]
    if max(present) >= _IMBALANCE * min(present):
        weights = balanced_class_weights(data.class_counts)
        label["class_weights"] = [round(weight, 4) for weight in weights]
        reasons.append(
            f"the largest class has {max(present)} samples, the smallest {min(present)}: rare "
            f"classes weigh more in the label loss"
        )
    head = {
        "class_path": "clipkit.models.LinearLabelHead",
        "init_args": {"embedding_dim": embedding_dim, "num_classes": len(data.class_counts)},
    }
    loss = {
        "contrastive": {"class_path": "clipkit.losses.LabelAwareContrastiveLoss"},
        "label": {"class_path": "clipkit.losses.LabelLoss", "init_args": label},
        "label_weight": 0.5,
    }
    return loss, {"label_head": head}, {"label_head": 10.0}


def _data(data: TuningData, batch_size: int, templates: Sequence[str]) -> dict[str, Any]:
    captions: dict[str, Any] = {
        "class_path": "clipkit.data.TextField",
        "init_args": {"one_per_line": True},
    }
    if not data.has_captions:
        captions = {
            "class_path": "clipkit.data.TemplatedCaptions",
            "init_args": {"captions": captions, "templates": list(templates)},
        }
    return {
        "train": data.train,
        "val": data.val,
        "batch_size": batch_size,
        "train_caption": captions,
        "val_caption": captions,
        "label_field": data.label_field,
        "num_workers": 2 if data.num_samples >= PRESETS[0].below else 0,  # type: ignore[operator]
    }


def _trainer(data: TuningData, preset: Preset, folder: str, reasons: list[str]) -> dict[str, Any]:
    callbacks: list[dict[str, Any]] = [
        {"class_path": f"{_CALLBACKS}.{name}"}
        for name in ("ProgressBar", "PrintParameters", "Throughput")
    ]
    if preset.unlocked_groups is not None:
        callbacks += [
            {
                "class_path": f"{_CALLBACKS}.LockTower",
                "init_args": {"tower": tower, "unlocked_groups": preset.unlocked_groups},
            }
            for tower in ("image_tower", "text_tower")
        ]
    saving: dict[str, Any] = {"every_n_minutes": 10}
    every = max(1, preset.epochs // _VALIDATIONS)
    if data.val is not None:
        saving |= {"monitor": "val/loss", "mode": "min"}
        callbacks.append(
            {
                "class_path": "lightning.pytorch.callbacks.EarlyStopping",
                "init_args": {"monitor": "val/loss", "mode": "min", "patience": 3},
            }
        )
        reasons.append(
            f"validation every {every} epochs: best.ckpt keeps the lowest val/loss, and the run "
            f"ends after three validations without a lower one"
        )
    callbacks.append({"class_path": f"{_CALLBACKS}.SaveCheckpoint", "init_args": saving})
    logger = {"class_path": "clipkit.training.MetricsCsv", "init_args": {"save_dir": "auto"}}
    return {
        "accelerator": "auto",
        "devices": 1,
        "max_epochs": preset.epochs,
        "check_val_every_n_epoch": every,
        "gradient_clip_val": 1.0,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 5,
        "enable_model_summary": False,
        "default_root_dir": folder,
        "logger": [logger],
        "callbacks": callbacks,
    }
