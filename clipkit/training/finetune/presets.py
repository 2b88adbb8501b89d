"""Presets of fine-tuning, chosen by the number of samples, each with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any, Final

from clipkit.training.finetune.facts import BaseModelInfo, FinetuneData
from clipkit.training.finetune.objective import entry, objective

_LARGEST_BATCH: Final = 256
_VALIDATIONS: Final = 10
_CALLBACKS: Final = "training.callbacks"


@dataclass(frozen=True, slots=True)
class Preset:
    """Trainable layers, learning rates and duration of a fine-tuning run."""

    below: int | None  # the preset is for fewer samples than this; None for any number
    # number of trainable layer groups per tower, counted from the output; None for all
    unlocked_groups: int | None
    learning_rate: float  # learning rate of the last layer group
    layer_decay: float  # factor of the learning rate from each layer group to the one below it
    epochs: int  # number of epochs
    crop: float  # smallest fraction of an image's area that a random crop keeps
    weight_decay: float  # weight decay of the optimizer
    reason: str  # sentence that explains the choice


PRESETS: Final = (
    Preset(1_000, 1, 1e-3, 1.0, 20, 0.8, 0.2,
           "fewer than 1,000 samples: the last layer group of each tower is trained; complete "
           "towers would overfit"),
    Preset(20_000, 4, 1e-4, 0.7, 15, 0.6, 0.1,
           "1,000 to 20,000 samples: four layer groups of each tower are trained; the last layers "
           "adapt to the new domain, the others keep their pretrained weights"),
    Preset(200_000, None, 3e-5, 0.75, 10, 0.5, 0.1,
           "20,000 to 200,000 samples: all layers are trained, lower ones with lower learning "
           "rates"),
    Preset(None, None, 3e-5, 0.9, 5, 0.4, 0.1,
           "200,000 samples or more: all layers are trained with similar learning rates, for few "
           "epochs"),
)  # fmt: skip


def choose_preset(num_samples: int) -> Preset:
    """Return the preset for a number of samples."""
    return next(p for p in PRESETS if p.below is None or num_samples < p.below)


def finetune_config(
    data: FinetuneData, base: BaseModelInfo, folder: str, templates: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """Return the complete configuration of a fine-tuning run, and the reasons of its choices."""
    preset = choose_preset(data.num_samples)
    reasons = [preset.reason]
    batch_size = min(_LARGEST_BATCH, data.num_samples, max(8, data.num_samples // 8))
    reasons.append(
        f"batches of {batch_size}: at least eight steps per epoch, and at most {_LARGEST_BATCH}"
    )
    loss, head, factors = objective(data, base.embedding_dim, reasons)
    encoder = base.encoder
    model: dict[str, Any] = {
        "encoder": {**encoder, "init_args": {**encoder["init_args"], **head}},
        "loss": loss,
        "groups": {"factors": factors, "layer_decay": preset.layer_decay},
        "optimizer": {
            "class_path": "torch.optim.AdamW",
            "init_args": {"lr": preset.learning_rate, "weight_decay": preset.weight_decay},
        },
        "schedule": entry("optim.WarmupCosine", warmup=0.1),
    }
    config = {
        "seed_everything": 0,
        "model": model,
        "data": _data(data, batch_size, templates, transform_config(base, preset, reasons)),
        "trainer": trainer_config(data, base, preset, folder, reasons),
    }
    return config, reasons


def _data(
    data: FinetuneData, batch_size: int, templates: Sequence[str], transform: dict[str, Any]
) -> dict[str, Any]:
    captions = entry("data.TextField", one_per_line=True)
    if data.multi_label:
        captions = entry("data.OptionalCaption", captions=captions)
    elif not data.has_captions:
        texts = list(templates)
        captions = entry("data.TemplatedCaptions", captions=captions, templates=texts)
    field = entry("data.MultiLabels", num_classes=len(data.class_counts))
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


def transform_config(base: BaseModelInfo, preset: Preset, reasons: list[str]) -> dict[str, Any]:
    """Return the transform of training images, and explain it."""
    reasons.append(
        f"crops of {preset.crop:.0%} to 100% of an image; no flips and no changes of colour, "
        f"because left, right or colour may matter; add them with data.samples.transform"
    )
    crops = {"scale": [preset.crop, 1.0], "interpolation": base.interpolation}
    if base.budget is not None:
        return entry("data.NaFlexTrainTransform", **asdict(base.budget), **crops)
    return entry("data.TrainTransform", size=base.image_size, **crops)


def trainer_config(
    data: FinetuneData, base: BaseModelInfo, preset: Preset, folder: str, reasons: list[str]
) -> dict[str, Any]:
    """Return the duration, the callbacks and the validation of a run, and explain them."""
    callbacks = [entry(f"{_CALLBACKS}.{name}") for name in ("ProgressBar", "Throughput")]
    if (most := preset.unlocked_groups) is not None:
        callbacks += [
            entry(f"{_CALLBACKS}.LockTower", tower=tower, unlocked_groups=min(most, num_groups))
            for tower, num_groups in base.num_groups.items()
        ]
    every = max(1, preset.epochs // _VALIDATIONS)
    lowest = {} if data.val is None else {"monitor": "val/loss", "mode": "min"}
    if data.val is not None:
        stopping = "lightning.pytorch.callbacks.EarlyStopping"
        callbacks.append({"class_path": stopping, "init_args": {**lowest, "patience": 3}})
        pause = "epoch" if every == 1 else f"{every} epochs"
        reasons.append(
            f"validation after every {pause}: best.ckpt keeps the lowest val/loss, and the run "
            f"ends after three validations without a lower one"
        )
    callbacks.append(entry(f"{_CALLBACKS}.SaveCheckpoint", every_n_minutes=10, **lowest))
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
        "logger": [entry("training.MetricsCsv", save_dir="auto")],
        "callbacks": callbacks,
    }
