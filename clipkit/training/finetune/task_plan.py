"""Plan the training of a task of images with texts: questions, entailment, classes, dialogues."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from clipkit.errors import ConfigError, check_at_least, check_choice
from clipkit.training.finetune.facts import FinetuneData
from clipkit.training.finetune.objective import class_weights, entry
from clipkit.training.finetune.presets import Preset, trainer_config, transform_config
from clipkit.training.finetune.run import (
    DEFAULT_MODEL,
    FinetunePlan,
    numbered_names,
    refuse_run,
)
from clipkit.training.finetune.task_facts import (
    TaskModel,
    inspect_labelled_texts,
    inspect_questions,
    inspect_task_model,
    inspect_turns,
)

TASKS: Final = ("vqa", "entailment", "classification", "dialogue")
"""Tasks of images with texts."""
_MEASURES: Final = {
    "vqa": "question-answering",
    "entailment": "joint-classification",
    "classification": "joint-classification",
    "dialogue": "dialogue",
}
"""Task of ``clipkit evaluate`` that measures each of them."""
_ANSWERS_FILE: Final = "answers.txt"
_LARGEST_BATCH: Final = 128
_STEPS: Final = 400
"""Number of steps that few labels are repeated for."""
_FEW: Final = 1_000
_MOST_EPOCHS: Final = 200
_LEAST_EPOCHS: Final = 10
_CANDIDATES: Final = 8
"""Candidates per turn in training."""
_PAIRS: Final = 128
"""Pairs of an image and a candidate whose activations are in memory at a time."""


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """Options of a task.

    Args:
        num_answers: Largest number of answers that are learned, for "vqa".
        per_class: Number of samples per class, or of questions per answer, selected by ``seed``,
            for few-shot training; None for all. Dialogues have no classes.
        seed: Seed of the run and of the selection.

    Raises:
        ConfigError: If a number is out of range.
    """

    num_answers: int = 1000
    per_class: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least("num_answers", self.num_answers, 2)
        check_at_least("per_class", self.per_class, 1)


def plan_task(
    task: str,
    train: Path | str,
    output: Path | str,
    *,
    val: Path | str | None = None,
    model: str = DEFAULT_MODEL,
    weights: str | None = None,
    options: TaskOptions = TaskOptions(),
    allow_outside: bool = False,
    overwrite: bool = False,
) -> FinetunePlan:
    """Inspect data and model, and choose the configuration of a task of a fusion.

    Args:
        task: "vqa" for questions with answers, "entailment" for hypotheses with classes,
            "classification" for any texts with classes, "dialogue" for questions with candidates.
        train: Table with the columns of the task, or shards.
        output: Folder of the run.
        val: Validation data of the same kinds; None to train without validation.
        model: The model to start from, with or without a fusion, which is added; see
            ``clipkit.models.load_model``.
        weights: "average" or "raw" weights of a checkpoint; None for the average if there is one.
        options: Number of answers, or of samples per class, and seed.
        allow_outside: Whether the images of a table may be outside of its folder.
        overwrite: Whether to replace the run that the folder contains.

    Returns:
        The plan; nothing is written.

    Raises:
        ClipkitError: If the data or the model cannot be used, or the folder contains a run.
    """
    check_choice("task", task, TASKS)
    folder = Path(output)
    refuse_run(folder, overwrite=overwrite)
    data = _inspected(task, train, val, options, allow_outside)
    found = inspect_task_model(model, weights)
    reasons = _facts(task, data)
    config = _config(task, data, found, folder, options, reasons)
    if allow_outside:
        config["data"]["storage"] = {"allow_outside": True}
    files = {}
    if task == "vqa":
        files[_ANSWERS_FILE] = "".join(f"{answer}\n" for answer in data.class_names)
    return FinetunePlan(config, reasons, data, folder, _MEASURES[task], files)


def _facts(task: str, data: FinetuneData) -> list[str]:
    """Return what was found in the data."""
    if task == "dialogue":
        return [f"{data.num_samples:,} turns of dialogues"]
    what = "answers" if task == "vqa" else "classes"
    return [
        f"{data.num_samples:,} samples, {sum(map(bool, data.class_counts))} {what}",
        f"{what}: {numbered_names(data.class_names)}",
    ]


def _inspected(
    task: str,
    train: Path | str,
    val: Path | str | None,
    options: TaskOptions,
    allow_outside: bool,
) -> FinetuneData:
    if task in ("entailment", "classification"):
        return inspect_labelled_texts(
            train, val, per_class=options.per_class, allow_outside=allow_outside
        )
    if task == "vqa":
        return inspect_questions(
            train, val, num_answers=options.num_answers, per_class=options.per_class,
            allow_outside=allow_outside,
        )  # fmt: skip
    if options.per_class is not None:
        raise ConfigError(
            "per_class: expected the task vqa, entailment or classification, whose samples have "
            f"answers or classes, got {task}; for fewer turns, shorten the table"
        )
    return inspect_turns(train, val, allow_outside=allow_outside)


def _config(
    task: str,
    data: FinetuneData,
    found: TaskModel,
    folder: Path,
    options: TaskOptions,
    reasons: list[str],
) -> dict[str, Any]:
    size = min(_LARGEST_BATCH, data.num_samples, max(8, data.num_samples // 8))
    preset = _preset(data.num_samples, size)
    reasons.append(preset.reason)
    parts = _parts(task, data, found, folder, options, reasons)
    transform = transform_config(found.base, preset, reasons)
    captions = entry("data.TextField", one_per_line=True)
    reasons.append(f"batches of {size}, {preset.epochs} epochs")
    return {
        "seed_everything": options.seed,
        "model": _model(parts, preset),
        "data": {
            "train": data.train,
            **({} if data.val is None else {"val": data.val}),
            "batch_size": size,
            "seed": options.seed,
            "samples": {"transform": transform, "caption": captions, **parts.samples},
            **({} if data.val is None else {"validation": {"caption": dict(captions)}}),
            "num_workers": 0 if data.num_samples < _FEW else 2,
        },
        "trainer": trainer_config(data, found.base, preset, str(folder), reasons),
    }


def _model(parts: _Parts, preset: Preset) -> dict[str, Any]:
    """Return encoder, loss and optimizer; towers start from trained weights, the head from zero."""
    factors = {"log_logit_scale": 0.0, **parts.factors}
    if preset.unlocked_groups != 0:
        factors |= {"image_tower": 0.1, "text_tower": 0.1}
    return {
        "encoder": parts.encoder,
        "loss": {"terms": {parts.term: {"loss": parts.loss, "weight": 1.0}}},
        "groups": {"factors": factors, "layer_decay": preset.layer_decay},
        "optimizer": {
            "class_path": "torch.optim.AdamW",
            "init_args": {"lr": preset.learning_rate, "weight_decay": preset.weight_decay},
        },
        "schedule": entry("optim.WarmupCosine", warmup=0.1),
    }


class _Parts(NamedTuple):
    """What is particular to a task.

    Attributes:
        encoder: The encoder with its fusion, and a head if the task has one.
        term: Name of the term of the objective.
        loss: The term.
        samples: Options of ``data.samples``.
        factors: Factors of learning rates, by the name of parameters.
    """

    encoder: dict[str, Any]
    term: str
    loss: dict[str, Any]
    samples: dict[str, Any]
    factors: dict[str, float]


def _parts(
    task: str,
    data: FinetuneData,
    found: TaskModel,
    folder: Path,
    options: TaskOptions,
    reasons: list[str],
) -> _Parts:
    encoder, width = _fused(data, found, reasons)
    if task == "dialogue":
        reasons.append(
            f"{_CANDIDATES} candidates per turn: the right one, and others that are drawn in each "
            f"epoch; the evaluation ranks all"
        )
        loss = entry("losses.CandidateLoss", micro_batch_size=_PAIRS)
        field = entry("data.AnswerCandidates", number=_CANDIDATES)
        return _Parts(encoder, "turns", loss, {"fields": [field]}, {})
    num_classes = len(data.class_counts)
    head = entry("models.LinearLabelHead", embedding_dim=width, num_classes=num_classes)
    encoder = entry("models.with_fused_head", encoder=encoder, head=head)
    factors = {"label_heads": 4.0}
    samples: dict[str, Any] = {} if options.per_class is None else {"per_class": options.per_class}
    if task == "vqa":
        answers = str(folder / _ANSWERS_FILE)
        reasons.append(f"one answer of those who answered is drawn in each epoch: {answers}")
        samples["fields"] = [entry("data.Answers", answers=answers)]
        return _Parts(encoder, "answers", entry("losses.FusedLabelLoss"), samples, factors)
    weights = class_weights(data.class_counts, reasons)
    loss = entry("losses.FusedLabelLoss", **weights)
    return _Parts(encoder, "answers", loss, samples, factors)


def _fused(data: FinetuneData, found: TaskModel, reasons: list[str]) -> tuple[dict[str, Any], int]:
    """Return the encoder with its fusion, or a new one, and the width of the fusion."""
    if found.fusion_width is not None:
        reasons.append("the fusion of the model is trained further")
        return dict(found.base.encoder), found.fusion_width
    width = found.new_width
    reasons.append(
        f"the model has no fusion: a new one of width {width} is trained by the labels alone; "
        f"one that was trained on captions before (docs/joint-encoder.md) needs fewer of them"
    )
    fusion = entry(
        "models.CrossAttentionFusion", width=width, depth=2 if data.num_samples < _FEW else 3,
        num_heads=width // 64, query="text", context=["image"],
    )  # fmt: skip
    return entry("models.with_fusion", encoder=dict(found.base.encoder), fusion=fusion), width


def _preset(num_samples: int, batch_size: int) -> Preset:
    """Choose trainable layers, learning rate and length by the number of labels."""
    epochs = -(-_STEPS // max(1, num_samples // batch_size))
    epochs = min(_MOST_EPOCHS, max(_LEAST_EPOCHS, epochs))
    if num_samples < _FEW:
        return Preset(
            None, 0, 5e-4, 1.0, epochs, 0.9, 0.05,
            "fewer than 1,000 labels: the towers stay as they are; the fusion and the head are "
            "trained",
        )  # fmt: skip
    return Preset(
        None, 2, 3e-4, 0.7, epochs, 0.8, 0.05,
        "1,000 labels or more: the last two layer groups of each tower are trained, too, with a "
        "tenth of the learning rate",
    )  # fmt: skip
