"""Render the model card (``README.md``) of an export, with the metadata of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from huggingface_hub import EvalResult, ModelCardData

from clipkit import __version__
from clipkit.export.formats import Exporter
from clipkit.export.run_facts import RunFacts
from clipkit.models import DualEncoder, ImageTower, LabelHead

_LENGTHS = ("warmup", "warmup_steps", "warmup_fraction", "cooldown")
"""Options of schedules, those of earlier versions included."""
_WEIGHTS: Final = {"average": "moving average over the steps", "raw": "of the last step"}
_RETRIEVAL: Final = ("image-text-retrieval", "Image-text retrieval")
_CLASSIFICATION: Final = ("image-classification", "Image classification")


def render_card(
    title: str, encoder: DualEncoder, run: RunFacts, exporter: Exporter, license: str | None = None
) -> str:
    """Render the model card from the encoder and the files of its run."""
    header = ModelCardData(
        license=license,
        library_name=exporter.hub_name,
        pipeline_tag="zero-shot-image-classification",
        tags=["clip", "clipkit"],
        model_name=title,
        eval_results=[evaluation_result(*metric) for metric in run.metrics.items()] or None,
    )
    parts = [
        f"---\n{header.to_yaml()}\n---",
        f"# {title}",
        f"A dual encoder of images and captions, trained and exported with clipkit {__version__}."
        " Embeddings of matching images and captions have a high cosine similarity.",
        f"## Use\n\nIn the folder of the files:\n\n```python\n{exporter.usage}```",
        f"## Architecture\n\n{_table(list(architecture(encoder)))}",
    ]
    if encoder.label_head is not None:
        parts.append(f"## Classes\n\n{_classes(encoder.label_head, exporter.keeps_label_head)}")
    if run.steps is not None:
        parts.append(f"## Training\n\n{_table(list(training(run)))}")
    if run.metrics:
        rows = [(f"`{name}`", f"{100 * value:.1f} %") for name, value in run.metrics.items()]
        parts.append(f"## Evaluation\n\nMeasured during the run.\n\n{_table(rows)}")
    return "\n\n".join(parts) + "\n"


def evaluation_result(name: str, value: float) -> EvalResult:
    """Convert a logged metric into a result that the Hugging Face hub lists.

    Examples:
        >>> result = evaluation_result("photos/text_to_image/recall_at_5", 0.75)
        >>> result.task_type, result.dataset_name, result.metric_type, result.metric_name
        ('image-text-retrieval', 'photos', 'recall_at_5', 'text_to_image/recall_at_5')
    """
    dataset, _, metric = name.partition("/") if "/" in name else ("validation", "", name)
    kind = metric.rpartition("/")[2]
    task_type, task_name = _RETRIEVAL if kind.startswith("recall_at_") else _CLASSIFICATION
    return EvalResult(
        task_type=task_type,
        task_name=task_name,
        dataset_type="custom",
        dataset_name=dataset,
        metric_type=kind,
        metric_name=metric,
        metric_value=round(value, 6),
    )


def architecture(encoder: DualEncoder) -> Iterator[tuple[str, str]]:
    """Yield names and values that describe the encoder."""
    image, text = encoder.image_tower, encoder.text_tower
    yield "Image tower", f"{type(image).__name__}, {_count(image)} parameters"
    yield "Text tower", f"{type(text).__name__}, {_count(text)} parameters"
    yield "Parameters", _count(encoder)
    yield "Embedding", f"{encoder.embedding_dim} components"
    yield "Images", _images(image)
    yield "Mean, standard deviation", f"{_numbers(image.image_mean)}; {_numbers(image.image_std)}"
    yield "Captions", f"up to {text.context_length} tokens, vocabulary of {text.vocab_size:,}"
    yield "Logit scale", f"{float(encoder.logit_scale.detach()):.4g}"
    if encoder.logit_bias is not None:
        yield "Logit bias", f"{float(encoder.logit_bias.detach()):.4g}"


def _images(tower: ImageTower) -> str:
    if (budget := tower.budget) is not None:
        side = budget.patch_size
        return (
            f"any shape, up to {budget.max_tokens} patches of {side} x {side} pixels, "
            f"{tower.interpolation}"
        )
    return (
        f"{tower.image_size} x {tower.image_size} pixels, {tower.interpolation}, "
        f"resize mode {tower.resize_mode}"
    )


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


def _classes(head: LabelHead, is_kept: bool) -> str:
    """Describe the classes of the label head by number, if they have names."""
    text = f"The model was trained with a label head of {head.num_classes} classes"
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


def _count(module: Any) -> str:
    return f"{sum(p.numel() for p in module.parameters()):,}"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _table(rows: Sequence[tuple[str, str]]) -> str:
    lines = [f"| {name} | {' '.join(value.replace('|', '/').split())} |" for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *lines])
