"""Render the model card (``README.md``) of an export, with the metadata of the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from huggingface_hub import EvalResult, ModelCardData

from clipkit import __version__
from clipkit.export.architecture import architecture
from clipkit.export.formats import Exporter
from clipkit.export.run_facts import RunFacts
from clipkit.models import (
    DualEncoder,
    LabelHead,
    SignalTower,
    TowerEncoder,
)
from clipkit.models.joint.joint_encoder import FUSED

_LENGTHS = ("warmup", "warmup_steps", "warmup_fraction", "cooldown")
"""Options of schedules, those of earlier versions included."""
_WEIGHTS: Final = {"average": "moving average over the steps", "raw": "of the last step"}
_RETRIEVAL: Final = ("image-text-retrieval", "Image-text retrieval")
_CLASSIFICATION: Final = ("image-classification", "Image classification")


_DIRECTION: Final = re.compile(r"(?P<first>[^\W\d]\w*?)_to_(?P<second>[^\W\d]\w*)")
"""Part of a metric's name: the modalities of a recall, whose names are identifiers."""
_RERANKED: Final = "reranked"
"""First part of the names of metrics after re-ranking."""
_RECALL: Final = re.compile(r"recall_at_\d+")


def render_card(
    title: str,
    encoder: TowerEncoder,
    run: RunFacts,
    exporter: Exporter,
    license: str | None = None,
    left_out: Sequence[str] = (),
    heads: Mapping[str, LabelHead] | None = None,
) -> str:
    """Render the model card from the encoder and the files of its run.

    Args:
        title: Name of the model.
        encoder: The encoder that was written.
        run: Facts about the run that trained it.
        exporter: Format of the files.
        license: License id; None to name no license.
        left_out: Parts of the trained encoder that are not part of the files.
        heads: Label heads of the trained encoder by tower; None for those of ``encoder``.
    """
    header = ModelCardData(
        license=license,
        library_name=exporter.hub_name,
        pipeline_tag=pipeline_tag(encoder),
        tags=["clip", "clipkit", *(["audio"] if _reads_sounds(encoder) else [])],
        model_name=title,
        eval_results=[evaluation_result(*metric) for metric in run.metrics.items()] or None,
    )
    parts = [
        f"---\n{header.to_yaml()}\n---",
        f"# {title}",
        *_introduction(encoder, left_out),
        f"## Use\n\nIn the folder of the files:\n\n```python\n{exporter.usage(encoder)}```",
        f"## Architecture\n\n{_table(list(architecture(encoder)))}",
    ]
    trained = encoder.heads if heads is None else heads
    if classes := [_classes(*head, exporter.keeps_head(head[0])) for head in trained.items()]:
        parts.append("\n\n".join(["## Classes", *classes]))
    if run.steps is not None:
        parts.append(f"## Training\n\n{_table(list(training(run)))}")
    if run.metrics:
        rows = [(f"`{name}`", f"{100 * value:.1f} %") for name, value in run.metrics.items()]
        parts.append(f"## Evaluation\n\nMeasured during the run.\n\n{_table(rows)}")
    return "\n\n".join(parts) + "\n"


def pipeline_tag(encoder: TowerEncoder) -> str:
    """Return the task of the hub that an encoder is listed under."""
    names = encoder.towers.keys()
    if {"image", "text"} <= names:
        return "zero-shot-image-classification"
    return (
        "zero-shot-audio-classification"
        if "text" in names and _reads_sounds(encoder)
        else "feature-extraction"
    )


def _reads_sounds(encoder: TowerEncoder) -> bool:
    return any(isinstance(t, SignalTower) and t.mel is not None for t in encoder.towers.values())


def _introduction(encoder: TowerEncoder, left_out: Sequence[str]) -> list[str]:
    """Return paragraphs about what the files embed, and what they do not."""
    words = {"image": "images", "text": "captions", "sound": "sounds"}
    first, *others = [words.get(name, f"`{name}`") for name in encoder.towers]
    inputs = " and ".join([", ".join([first, *others[:-1]]), *others[-1:]])
    kind = "A dual encoder" if isinstance(encoder, DualEncoder) else "An encoder"
    matching = f"matching {inputs}" if others else f"similar {inputs}"
    text = (
        f"{kind} of {inputs}, trained and exported with clipkit {__version__}."
        f" Embeddings of {matching} have a high cosine similarity."
    )
    more = (
        f"The trained model has further parts, which are not part of these files: "
        f"{', '.join(left_out)}."
    )
    return [text, more] if left_out else [text]


def evaluation_result(name: str, value: float) -> EvalResult:
    """Convert a logged metric into a result that the Hugging Face hub lists.

    Examples:
        >>> result = evaluation_result("photos/text_to_image/recall_at_5", 0.75)
        >>> result.task_type, result.dataset_name, result.metric_type, result.metric_name
        ('image-text-retrieval', 'photos', 'recall_at_5', 'text_to_image/recall_at_5')
    """
    first, *others = name.split("/")
    is_metric = first == _RERANKED or (len(others) == 1 and _DIRECTION.fullmatch(first))
    has_dataset = bool(others) and not is_metric
    dataset, metric = (first, "/".join(others)) if has_dataset else ("validation", name)
    *directions, kind = metric.split("/")
    task_type, task_name = _task(directions, kind)
    return EvalResult(
        task_type=task_type,
        task_name=task_name,
        dataset_type="custom",
        dataset_name=dataset,
        metric_type=kind,
        metric_name=metric,
        metric_value=round(value, 6),
    )


def _task(parts: Sequence[str], kind: str) -> tuple[str, str]:
    """Return the task of a metric, and its name.

    Args:
        parts: Parts of the metric's name before the last one; the modalities are the last of them.
        kind: Last part of the metric's name.
    """
    if not _RECALL.fullmatch(kind):
        return _CLASSIFICATION
    found = _DIRECTION.fullmatch(parts[-1]) if parts else None
    if found is None or {*found.groups()} == {"image", "text"}:
        return _RETRIEVAL
    first, second = sorted(found.groups())
    return f"{first}-{second}-retrieval", f"{first.capitalize()}-{second} retrieval"


def training(run: RunFacts) -> Iterator[tuple[str, str]]:
    """Yield names and values that describe the training; unknown values are omitted."""
    data, model = run.config.get("data") or {}, run.config.get("model") or {}
    trainer = run.config.get("trainer") or {}
    yield from _known("Weights", _WEIGHTS.get(run.weights or ""))
    yield from _known("Data", _data(data))
    yield from _known("Pairs", None if run.num_samples is None else f"{run.num_samples:,}")
    yield "Steps", f"{run.steps:,}"
    yield from _known("Samples seen", None if run.samples_seen is None else f"{run.samples_seen:,}")
    yield from _known("Batch size per process", data.get("batch_size"))
    yield from _known("Started from", _start(model))
    yield from _known("Loss", _loss(model.get("loss") or {}))
    yield from _known("Optimizer", _part(model.get("optimizer"), ("lr", "weight_decay")))
    yield from _known("Schedule", _part(model.get("schedule"), _LENGTHS))
    yield from _known("Precision", trainer.get("precision"))
    yield from _known("Tokenizer", run.tokenizer)
    yield from _known("Seed", data.get("seed"))


def _classes(tower: str, head: LabelHead, is_kept: bool) -> str:
    """Describe the classes of a label head by number, if they have names."""
    text = f"The model was trained with a label head of {head.num_classes} classes"
    place = "fusion" if tower == FUSED else f"{tower} tower"
    text += "" if tower == "image" else f" on the {place}"
    text += "." if is_kept else ", which is not part of these files."
    if not any(head.class_names):
        return text
    rows = [(str(number), name) for number, name in enumerate(head.class_names) if name]
    return f"{text} By number:\n\n{_table(rows)}"


def _known(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if value is not None:
        yield name, str(value)


def _data(data: Mapping[str, Any]) -> str | None:
    train, mixture = data.get("train"), data.get("mixture") or []
    # Version 0.1 has a list of sources here.
    sources = mixture.get("sources") if isinstance(mixture, Mapping) else mixture
    if sources:
        return ", ".join(f"`{source.get('urls', source)}`" for source in sources
                         if isinstance(source, Mapping)) or None  # fmt: skip
    urls = [train] if isinstance(train, str) else train or []
    return ", ".join(f"`{url}`" for url in urls) or None


def _start(model: Mapping[str, Any]) -> str | None:
    """Return the pretrained weights that the configuration names, if any."""
    encoder = model.get("encoder") or {}
    options = encoder.get("init_args") or {}
    if not options.get("pretrained"):
        return None
    name = options.get("name")
    weights = f"`{options['pretrained']}`"
    return f"`{name}`, {weights}" if isinstance(name, str) else weights


def _loss(loss: Mapping[str, Any]) -> str | None:
    terms = [
        {"loss": loss.get(name), "weight": loss.get(f"{name}_weight", 1.0)}
        for name in ("contrastive", "label", "distillation")  # the last in earlier versions
    ]
    terms += (loss.get("terms") or {}).values()
    return (
        " + ".join(
            f"{_value(term.get('weight', 1.0))} x {_name(term['loss'])}"
            for term in terms
            if term["loss"]
        )
        or None
    )


def _part(part: Any, shown: Sequence[str]) -> str | None:
    if not isinstance(part, Mapping) or "class_path" not in part:
        return None
    options = part.get("init_args") or {}
    named = [f"{name} {_value(options[name])}" for name in shown if options.get(name) is not None]
    return ", ".join([_name(part), *named])


def _value(value: Any) -> str:
    if isinstance(value, Mapping) and "class_path" in value:  # a schedule
        return _name(value)
    if isinstance(value, Mapping):  # a moment: {samples: 1000}
        return " ".join(f"{_value(number)} {unit}" for unit, number in value.items() if number)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _name(part: Mapping[str, Any]) -> str:
    return str(part["class_path"]).rpartition(".")[2]


def _table(rows: Sequence[tuple[str, str]]) -> str:
    lines = [f"| {name} | {' '.join(value.replace('|', '/').split())} |" for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *lines])
