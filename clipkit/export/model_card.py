"""The ``README.md`` of an exported model, in the form of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import yaml

from clipkit import __version__
from clipkit.export.run_facts import RunFacts
from clipkit.models import DualEncoder, LabelHead

_WEIGHTS: Final = {"average": "moving average over the steps", "raw": "of the last step"}


def render_card(
    title: str,
    encoder: DualEncoder,
    run: RunFacts,
    usage: str,
    library: str,
    *,
    license: str | None = None,
    keeps_label_head: bool = False,
) -> str:
    """The card: what the files know, and nothing that they do not.

    Args:
        title: Name of the model.
        encoder: The encoder that was exported.
        run: The run that made it.
        usage: Python that loads the files.
        library: Name of the library that reads them.
        license: Licence of the weights; left out where None.
        keeps_label_head: Whether the label head is part of the files.

    Returns:
        Markdown with a head of YAML.
    """
    head: dict[str, Any] = {
        "library_name": library,
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clip", "clipkit"],
    }
    if license is not None:
        head = {"license": license, **head}
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {title}",
        f"A dual encoder of pictures and captions, trained and exported with clipkit {__version__}."
        " Embeddings of matching pictures and captions have a high cosine similarity.",
        f"## Use\n\nBeside the files:\n\n```python\n{usage}```",
        f"## Architecture\n\n{_table(list(architecture(encoder)))}",
    ]
    if encoder.label_head is not None:
        parts.append(f"## Classes\n\n{_classes(encoder.label_head, keeps_label_head)}")
    if run.steps is not None:
        parts.append(f"## Training\n\n{_table(list(training(run)))}")
    if run.metrics:
        rows = [(f"`{name}`", f"{100 * value:.1f} %") for name, value in run.metrics.items()]
        parts.append(f"## Evaluation\n\nMeasured by the run itself.\n\n{_table(rows)}")
    return "\n\n".join(parts) + "\n"


def architecture(encoder: DualEncoder) -> Iterator[tuple[str, str]]:
    """Names and values of what the encoder is."""
    image, text = encoder.image_tower, encoder.text_tower
    yield "Image tower", f"{type(image).__name__}, {_count(image)} parameters"
    yield "Text tower", f"{type(text).__name__}, {_count(text)} parameters"
    yield "Parameters", _count(encoder)
    yield "Embedding", f"{encoder.embedding_dim} components"
    yield (
        "Pictures",
        f"{image.image_size} x {image.image_size} pixels, {image.interpolation}, "
        f"resize mode {image.resize_mode}",
    )
    yield "Mean, standard deviation", f"{_numbers(image.image_mean)}; {_numbers(image.image_std)}"
    yield "Captions", f"up to {text.context_length} tokens, vocabulary of {text.vocab_size:,}"
    yield "Logit scale", f"{float(encoder.logit_scale.detach()):.4g}"
    if encoder.logit_bias is not None:
        yield "Logit bias", f"{float(encoder.logit_bias.detach()):.4g}"


def training(run: RunFacts) -> Iterator[tuple[str, str]]:
    """Names and values of how it was trained; what is not known is left out."""
    data, model = run.config.get("data") or {}, run.config.get("model") or {}
    trainer = run.config.get("trainer") or {}
    yield from _known("Weights", _WEIGHTS.get(run.weights or ""))
    yield from _known("Data", _data(data))
    yield from _known("Pairs", None if run.num_samples is None else f"{run.num_samples:,}")
    yield "Steps", f"{run.steps:,}"
    yield from _known("Samples seen", None if run.samples_seen is None else f"{run.samples_seen:,}")
    yield from _known("Batch size of a process", data.get("batch_size"))
    yield from _known("Started from", _start(model))
    yield from _known("Loss", _loss(model.get("loss") or {}))
    yield from _known("Optimizer", _part(model.get("optimizer"), ("lr", "weight_decay")))
    yield from _known("Schedule", _part(model.get("schedule"), ("warmup_steps", "warmup_fraction")))
    yield from _known("Precision", trainer.get("precision"))
    yield from _known("Tokenizer", run.tokenizer)
    yield from _known("Seed", data.get("seed"))


def _classes(head: LabelHead, is_kept: bool) -> str:
    """What the label head scores: names by number, where the data named them."""
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
    train, mixture = data.get("train"), data.get("mixture")
    if mixture:
        sources = mixture.values() if isinstance(mixture, Mapping) else mixture
        return ", ".join(f"`{source.get('urls', source)}`" for source in sources
                         if isinstance(source, Mapping)) or None  # fmt: skip
    urls = [train] if isinstance(train, str) else train or []
    return ", ".join(f"`{url}`" for url in urls) or None


def _start(model: Mapping[str, Any]) -> str | None:
    """The weights that the encoder started from, where a name in the configuration says so."""
    encoder = model.get("encoder") or {}
    options = encoder.get("init_args") or {}
    if not options.get("pretrained"):
        return None
    name = options.get("name")
    weights = f"`{options['pretrained']}`"
    return f"`{name}`, {weights}" if isinstance(name, str) else weights


def _loss(loss: Mapping[str, Any]) -> str | None:
    terms = []
    for name, part in loss.items():
        if isinstance(part, Mapping) and "class_path" in part:
            weight = loss.get(f"{name}_weight", 1.0)
            terms.append(f"{weight:g} x {_name(part)}")
    return " + ".join(terms) or None


def _part(part: Any, shown: Sequence[str]) -> str | None:
    if not isinstance(part, Mapping) or "class_path" not in part:
        return None
    options = part.get("init_args") or {}
    named = [f"{name} {options[name]:g}" for name in shown if options.get(name) is not None]
    return ", ".join([_name(part), *named])


def _name(part: Mapping[str, Any]) -> str:
    return str(part["class_path"]).rpartition(".")[2]


def _count(module: Any) -> str:
    return f"{sum(p.numel() for p in module.parameters()):,}"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _table(rows: Sequence[tuple[str, str]]) -> str:
    lines = [f"| {name} | {' '.join(value.replace('|', '/').split())} |" for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *lines])
