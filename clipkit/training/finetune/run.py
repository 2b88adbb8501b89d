"""Plan a fine-tuning run and run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from clipkit.atomic_files import write_text
from clipkit.errors import ClipkitError, ConfigError
from clipkit.shown_text import shown_text
from clipkit.training.callbacks.run_folder import refusal, traces_of_a_run
from clipkit.training.finetune.facts import FinetuneData, inspect_data, inspect_model
from clipkit.training.finetune.presets import finetune_config
from clipkit.training.launch import launch_fit

DEFAULT_MODEL: Final = "ViT-B-32@laion2b_s34b_b79k"
"""The model that is fine-tuned if none is named."""
DEFAULT_TEMPLATES: Final = ("a photo of a {}", "a picture of a {}", "{}")
"""Sentences for class names if none are given."""
_SHOWN_CLASSES: Final = 20
_SHOWN_LENGTH: Final = 60


@dataclass(frozen=True, slots=True)
class FinetunePlan:
    """A fine-tuning run that has not started.

    Args:
        config: Complete configuration for ``clipkit fit``.
        reasons: Sentences that explain the choices.
        data: Facts about the data.
        folder: Folder of the run.
        task: Task of ``clipkit evaluate`` that measures the result; empty for that of the data.
        files: Texts that are written next to the configuration, by the name of their file.
    """

    config: Mapping[str, Any]
    reasons: Sequence[str]
    data: FinetuneData
    folder: Path
    task: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Path of the configuration file."""
        return self.folder / "finetune.yaml"

    @property
    def weights(self) -> Path:
        """Path of the checkpoint that the run writes: the best one if there is validation data."""
        return self.folder / ("last.ckpt" if self.data.val is None else "best.ckpt")

    @property
    def head(self) -> str:
        """The reasons, as comments of the configuration file."""
        lines = [f"clipkit fit -c {self.path}", *self.reasons]
        return "".join(f"# {shown_text(line)}\n" for line in lines)  # names may have line breaks

    def text(self) -> str:
        """Return the content of the configuration file."""
        return self.head + yaml.safe_dump(dict(self.config), sort_keys=False, allow_unicode=True)

    def write(self) -> None:
        """Write the configuration file, and the files that it names."""
        for name, text in self.files.items():
            write_text(self.folder / name, text)
        write_text(self.path, self.text())


def plan_finetune(
    train: Path | str,
    output: Path | str,
    *,
    val: Path | str | None = None,
    model: str = DEFAULT_MODEL,
    weights: str | None = None,
    templates: Sequence[str] = DEFAULT_TEMPLATES,
    allow_outside: bool = False,
    overwrite: bool = False,
) -> FinetunePlan:
    """Inspect data and model, and choose the configuration of a fine-tuning run.

    Args:
        train: CSV, TSV or Parquet table, folder with one folder per class, or shards.
        output: Folder of the run.
        val: Validation data of the same kinds; None to train without validation.
        model: The model to fine-tune; see ``clipkit.models.load_model``.
        weights: "average" or "raw" weights of a checkpoint; None for the average if there is one.
        templates: Sentences with ``{}`` for the class name.
        allow_outside: Whether the images of a table may be outside of its folder.
        overwrite: Whether to replace the run that the folder contains.

    Returns:
        The plan; nothing is written.

    Raises:
        ClipkitError: If the data or the model cannot be used, or the folder contains a run.

    Examples:
        >>> save_encoder(encoder, "base")
        >>> plan = plan_finetune("photos/captions.csv", "planned", model="base")
        >>> print(plan.reasons[0])
        4 samples, no classes
    """
    folder = Path(output)
    refuse_run(folder, overwrite=overwrite)
    data = inspect_data(train, val, allow_outside=allow_outside)
    base = inspect_model(model, weights)
    config, reasons = finetune_config(data, base, str(folder), templates)
    if allow_outside:
        config["data"]["storage"] = {"allow_outside": True}
    facts = [f"{data.num_samples:,} samples, {len(data.class_counts) or 'no'} classes"]
    facts += [f"classes: {numbered_names(data.class_names)}"] if any(data.class_names) else []
    facts += [f"starts from {model} ({base.weights} weights)"] if base.weights else []
    return FinetunePlan(config, [*facts, *reasons], data, folder)


def finetune(plan: FinetunePlan, *, overwrite: bool = False) -> Path:
    """Run a plan in a separate process.

    Args:
        plan: Plan of ``plan_finetune``.
        overwrite: Whether to replace the run that the folder contains.

    Returns:
        Path of the checkpoint with the fine-tuned weights.

    Raises:
        ClipkitError: If the run failed; its output shows why.
    """
    plan.write()
    status = launch_fit(plan.path, ["--overwrite"] if overwrite else [])
    if status != 0:
        raise ClipkitError(f"clipkit fit -c {plan.path}: exit status {status}")
    return plan.weights


def refuse_run(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that contains a run, unless it may be replaced."""
    if not overwrite and (traces := traces_of_a_run(str(folder))):
        resume = f"clipkit fit -c {folder / 'finetune.yaml'} --ckpt_path last"
        raise ConfigError(refusal("--output", str(folder), traces, resume, "--output"))


def numbered_names(names: Sequence[str]) -> str:
    """Return the first class names, each with its number."""
    numbered = [f"{number} {name[:_SHOWN_LENGTH]}" for number, name in enumerate(names) if name]
    more = [f"... ({len(numbered)} names)"] if len(numbered) > _SHOWN_CLASSES else []
    return ", ".join([*numbered[:_SHOWN_CLASSES], *more])
