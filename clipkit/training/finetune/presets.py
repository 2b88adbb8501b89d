"""Starting points for fine-tuning, chosen by the number of samples, each with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

from clipkit.training.finetune.facts import BaseModelInfo, FinetuneData
from clipkit.training.finetune.objective import objective

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
           "fewer than 1,000 samples: enough for the last layer group of each tower; whole towers "
           "would learn them by heart"),
    Preset(20_000, 4, 1e-4, 0.7, 15, 0.6, 0.1,
           "1,000 to 20,000 samples: the last layers can follow the new domain, the lower ones "
           "keep what pretraining found; four layer groups of each tower learn"),
    Preset(200_000, None, 3e-5, 0.75, 10, 0.5, 0.1,
           "20,000 to 200,000 samples: enough for all layers, the lower ones slowly"),
    Preset(None, None, 3e-5, 0.9, 5, 0.4, 0.1,
           "200,000 samples or more: all layers learn at nearly the same rate, for few epochs"),
)  # fmt: skip


def choose_preset(num_samples: int) -> Preset:
    """The preset for a number of samples.

    Args:
        num_samples: Training samples.

    Examples:
        >>> choose_preset(400).unlocked_groups
        1
    """
    fitting = (p for p in PRESETS if p.below is None or num_samples < p.below)
    return next(fitting)


def finetune_config(
    data: FinetuneData, start: BaseModelInfo, folder: str, templates: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """The whole configuration of a fine-tuning run, and why it is what it is.

    Args:
        data: What is trained on.
        start: The model to start from.
        folder: Where the run leaves its files.
        templates: Sentences with ``{}`` around class names.

    Returns:
        Plain types for ``clipkit fit``, and sentences for people.
    """
    preset = choose_preset(data.num_samples)
    reasons = [preset.reason]
    batch_size = min(_LARGEST_BATCH, data.num_samples, max(8, data.num_samples // 8))
    reasons.append(
        f"batches of {batch_size}: at least eight steps per epoch, and at most {_LARGEST_BATCH}"
    )
    loss, head, factors = objective(data, start.embedding_dim, reasons)
    encoder = start.encoder
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
            "init_args": {"warmup": 0.1},
        },
    }
    config = {
        "seed_everything": 0,
        "model": model,
        "data": _data(data, batch_size, templates, _transform(start, preset, reasons)),
        "trainer": _trainer(data, start, preset, folder, reasons),
    }
    return config, reasons


def _data(
    data: FinetuneData, batch_size: int, templates: Sequence[str], transform: dict[str, Any]
) -> dict[str, Any]:
    captions: dict[str, Any] = {
        "class_path": "clipkit.data.TextField",
        "init_args": {"one_per_line": True},
    }
    if data.multi_label:
        captions = {
            "class_path": "clipkit.data.OptionalCaption",
            "init_args": {"captions": captions},
        }
    elif not data.has_captions:
        captions = {
            "class_path": "clipkit.data.TemplatedCaptions",
            "init_args": {"captions": captions, "templates": list(templates)},
        }
    field = {
        "class_path": "clipkit.data.MultiLabels",
        "init_args": {"num_classes": len(data.class_counts)},
    }
    return {
        "train": data.train,
        **({} if data.val is None else {"val": data.val}),
        "batch_size": batch_size,
        "samples": {
            "transform": transform,
            "caption": captions,
            "label_field": data.label_field,
            **({"fields": [field]} if data.multi_label else {}),
        },
        **({} if data.val is None else {"validation": {"caption": deepcopy(captions)}}),
        "num_workers": 2 if data.num_samples >= PRESETS[0].below else 0,  # type: ignore[operator]
    }


def _transform(start: BaseModelInfo, preset: Preset, reasons: list[str]) -> dict[str, Any]:
    reasons.append(
        f"crops of {preset.crop:.0%} to 100% of a picture; flips and colours are up to you, for "
        f"they are wrong where left, right or a colour matters (data.samples.transform)"
    )
    return {
        "class_path": "clipkit.data.TrainTransform",
        "init_args": {
            "size": start.image_size,
            "scale": [preset.crop, 1.0],
            "interpolation": start.interpolation,
        },
    }


def _trainer(
    data: FinetuneData, start: BaseModelInfo, preset: Preset, folder: str, reasons: list[str]
) -> dict[str, Any]:
    callbacks: list[dict[str, Any]] = [
        {"class_path": f"{_CALLBACKS}.{name}"} for name in ("ProgressBar", "Throughput")
    ]
    if preset.unlocked_groups is not None:
        callbacks += [
            {
                "class_path": f"{_CALLBACKS}.LockTower",
                "init_args": {
                    "tower": tower,
                    "unlocked_groups": min(preset.unlocked_groups, num_groups),
                },
            }
            for tower, num_groups in start.num_groups.items()
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
        pause = "epoch" if every == 1 else f"{every} epochs"
        reasons.append(
            f"validation after every {pause}: best.ckpt keeps the lowest val/loss, and the run "
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
