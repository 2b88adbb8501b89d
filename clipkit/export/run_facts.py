"""Read from a checkpoint and the files next to it which run wrote it."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from clipkit.models.checkpoints.encoder import KEY
from clipkit.models.files.sharded import is_sharded, read_checkpoint

_QUALITY: Final = re.compile(r"(recall_at_\d+|top\d+|mean_per_class_recall|accuracy|f1)$")


@dataclass(frozen=True, slots=True)
class RunFacts:
    """Facts about a training run.

    Args:
        steps: Completed optimizer steps; None if the encoder is not from a training checkpoint.
        samples_seen: Samples trained on, including repetitions.
        num_samples: Samples of the training data.
        config: Resolved configuration of the run.
        tokenizer: Name of the tokenizer; None for the default one of the text tower.
        metrics: Recalls and accuracies by logged name, from 0 to 1.
        weights: "average" or "raw", the weights that are described; None if there is only one set.
    """

    steps: int | None = None
    samples_seen: int | None = None
    num_samples: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    weights: str | None = None


def read_run(model: Path) -> RunFacts:
    """Read a checkpoint, and ``metrics.csv`` and ``metrics.json`` in its folder.

    For each column of the table, the last value up to the step of the checkpoint is used. The JSON
    file describes the end of the run, and is used for ``last.ckpt`` only.

    Args:
        model: A training checkpoint; an exported folder, and the name of a model, have no facts.

    Raises:
        CheckpointError: If the checkpoint cannot be read.

    Examples:
        >>> save_encoder(encoder, "export")
        >>> read_run(Path("export")).steps is None
        True
    """
    if not model.exists() or (model.is_dir() and not is_sharded(model)) or model.suffix == ".json":
        return RunFacts()
    checkpoint = read_checkpoint(model)
    entry = checkpoint.get(KEY, {})
    stream = (checkpoint.get("PairDataModule") or {}).get("train") or {}
    steps = checkpoint.get("global_step")
    metrics = dict(_table_metrics(model.parent / "metrics.csv", steps))
    if model.name == "last.ckpt":
        metrics |= dict(_json_metrics(model.parent / "metrics.json"))
    return RunFacts(
        steps=steps,
        samples_seen=_samples_seen(stream),
        num_samples=stream.get("num_samples"),
        config=entry.get("config") or {},
        tokenizer=((entry.get("tokenizer") or {}).get("init_args") or {}).get("name"),
        metrics=metrics,
    )


def _samples_seen(stream: Mapping[str, Any]) -> int | None:
    if "samples_seen" in stream:
        return int(stream["samples_seen"])
    if not {"epoch", "num_samples", "position", "dropped"} <= set(stream):
        return None
    return int(stream["epoch"] * stream["num_samples"] + stream["position"] - stream["dropped"])


def _table_metrics(path: Path, steps: int | None) -> Iterator[tuple[str, float]]:
    """Yield the values of quality metrics up to the step; later ones replace earlier ones."""
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if None not in row.values()]
    for row in rows:
        if steps is not None and _number(row.get("step")) > steps:
            continue
        for name, text in row.items():
            if _QUALITY.search(name) and math.isfinite(value := _number(text)):
                yield name, value


def _json_metrics(path: Path) -> Iterator[tuple[str, float]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    yield from _leaves(content, "")


def _leaves(content: Any, name: str) -> Iterator[tuple[str, float]]:
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _leaves(value, f"{name}/{key}" if name else str(key))
    elif isinstance(content, (int, float)) and _QUALITY.search(name) and math.isfinite(content):
        yield name, float(content)


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
