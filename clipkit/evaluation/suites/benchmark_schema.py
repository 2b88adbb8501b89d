"""Results in CLIP_benchmark's schema: names of tasks, metrics and files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from clipkit.hub import is_hub_name

RECORD_KEYS: Final = frozenset({"dataset", "model", "pretrained", "task", "metrics", "language"})
"""Keys of a result file."""
_TASKS: Final = {
    "retrieval": "zeroshot_retrieval",
    "zero-shot": "zeroshot_classification",
    "zero-shot-multi-label": "zeroshot_classification",
    "linear-probe": "linear_probe",
    "pair-choice": "image_caption_selection",
}
_METRICS: Final = {
    "top1": "acc1",
    "top5": "acc5",
    "mean_per_class_recall": "mean_per_class_recall",
    "mean_average_precision": "mean_average_precision",
    "image_acc": "image_acc",
    "text_acc": "text_acc",
    "acc": "acc",
}
_RECALL: Final = re.compile(r"(text_to_image|image_to_text)/recall_at_(\d+)")
_DIRECTIONS: Final = {"text_to_image": "image_retrieval", "image_to_text": "text_retrieval"}
_PROBE: Final = "linear_probe"
_CHECKPOINT: Final = ".ckpt"
_DATA_PREFIX: Final = "wds/"
_LONGEST_STEM: Final = 180  # with the suffixes below the 255 bytes of a file name


@dataclass(frozen=True, slots=True)
class ModelName:
    """Name of a model in two parts.

    Args:
        model: Architecture, such as "ViT-B-32".
        pretrained: Weights, such as "laion2b_s34b_b79k"; may be empty.
    """

    model: str
    pretrained: str

    @property
    def full(self) -> str:
        """Both parts, as CLIP_benchmark joins them."""
        return f"{self.model} {self.pretrained}"


def model_name(name: str, weights: str | None = None) -> ModelName:
    """Split the name of a model as CLIP_benchmark does.

    Args:
        name: Name as for ``load_model``.
        weights: Weights of a checkpoint that were asked for: "average" or "raw".

    Examples:
        >>> model_name("ViT-B-32@laion2b_s34b_b79k")
        ModelName(model='ViT-B-32', pretrained='laion2b_s34b_b79k')
        >>> model_name("runs/demo/last.ckpt", "raw")
        ModelName(model='clipkit', pretrained='runs/demo/last.ckpt (raw)')
    """
    if is_hub_name(name):
        return ModelName(name, "")
    is_path = Path(name).exists() or ("@" not in name and name.endswith(_CHECKPOINT))
    if is_path and not name.endswith(".json"):
        return ModelName("clipkit", f"{name} ({weights})" if weights else name)
    architecture, _, pretrained = name.partition("@")
    return ModelName(architecture, pretrained)


def benchmark_task(task: str) -> str:
    """Return CLIP_benchmark's name of a task; tasks that it does not have keep their names.

    Examples:
        >>> benchmark_task("retrieval"), benchmark_task("label-head")
        ('zeroshot_retrieval', 'label-head')
    """
    return _TASKS.get(task, task)


def benchmark_metrics(task: str, metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics that CLIP_benchmark has, under its names.

    A task that it does not have keeps all of its metrics.

    Args:
        task: CLIP_benchmark's name of the task.
        metrics: Metrics of an evaluator.

    Examples:
        >>> benchmark_metrics("zeroshot_classification", {"top1": 0.5, "macro_f1": 0.4})
        {'acc1': 0.5}
        >>> benchmark_metrics("zeroshot_retrieval", {"text_to_image/recall_at_5": 0.5})
        {'image_retrieval_recall@5': 0.5}
        >>> benchmark_metrics("corruptions", {"corrupted/top1": 0.4})
        {'corrupted/top1': 0.4}
    """
    if task not in _TASKS.values():
        return dict(metrics)
    renamed = {}
    for key, value in metrics.items():
        if recall := _RECALL.fullmatch(key):
            renamed[f"{_DIRECTIONS[recall[1]]}_recall@{recall[2]}"] = value
        elif key in _METRICS:
            renamed[f"lp_{_METRICS[key]}" if task == _PROBE else _METRICS[key]] = value
    return renamed


def benchmark_record(
    name: ModelName, dataset: str, language: str, task: str, metrics: Mapping[str, float]
) -> dict[str, Any]:
    """Return the content of a result file, with exactly CLIP_benchmark's keys.

    Args:
        name: Name of the model.
        dataset: Name of the data set.
        language: Language of captions and class names.
        task: CLIP_benchmark's name of the task.
        metrics: Metrics of the evaluator.
    """
    return {
        "dataset": dataset,
        "model": name.model,
        "pretrained": name.pretrained,
        "task": task,
        "metrics": benchmark_metrics(task, metrics),
        "language": language,
    }


def result_stem(name: ModelName, dataset: str, language: str, task: str) -> str:
    """Return the name of a result file without its suffix, by CLIP_benchmark's template.

    Characters that a file name cannot have become "_", and a long name is cut and gets a hash.

    Examples:
        >>> name = ModelName("ViT-B-32", "openai")
        >>> result_stem(name, "wds/vtab/pets", "en", "zeroshot_classification")
        'vtab_pets_openai_ViT-B-32_en_zeroshot_classification'
    """
    parts = (dataset.removeprefix(_DATA_PREFIX), name.pretrained, name.model, language, task)
    return file_stem("_".join(parts))


def file_stem(text: str) -> str:
    """Return a text as the name of a file: special characters become "_"; a hash shortens it.

    Examples:
        >>> file_stem("hf-hub:me/tiny")
        'hf-hub_me_tiny'
    """
    stem = re.sub(r'[/\\:*?"<>|\x00-\x1f]', "_", text).lstrip(".")
    if len(stem.encode(errors="replace")) <= _LONGEST_STEM:
        return stem
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]
    half = _LONGEST_STEM // 8  # in characters of up to four bytes
    return f"{stem[:half]}_{digest}_{stem[-half:]}"
