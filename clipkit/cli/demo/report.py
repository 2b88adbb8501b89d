"""Evaluate the demo's model, print a table and write the page."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
import yaml
from rich.console import Console
from rich.table import Table

from clipkit.cli.arguments import versions
from clipkit.cli.demo.files import DemoFiles
from clipkit.data.demo.emoji import DemoData
from clipkit.evaluation import LabelHeadClassification, Retrieval, open_dataset
from clipkit.evaluation.evaluators.suite import flat_metrics
from clipkit.evaluation.report import (
    Examples,
    Fact,
    ReportData,
    Result,
    RunDetails,
    TowerParameters,
    read_metrics_csv,
    write_report,
)
from clipkit.evaluation.report.evaluated import Measured, measure, merged_result
from clipkit.models import DualEncoder, load_model
from clipkit.models.parameters import count_parameters

_CREDITS: Final = (
    "Twemoji, copyright Twitter, Inc. and other contributors, CC-BY 4.0",
    "OpenMoji, the open-source emoji and icon project, CC BY-SA 4.0",
    "Names: Unicode CLDR, Unicode-3.0 licence",
)
_SETS: Final = {
    "unseen_drawings": "by OpenMoji; the names were trained with Twemoji's drawings",
    "unseen_concepts": "by OpenMoji; neither names nor drawings were trained",
}
_KS: Final = (1, 5, 10)
_WAYS: Final = {"image_to_text": "Image to text", "text_to_image": "Text to image"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """Results of the evaluation."""

    encoder: DualEncoder  # trained model
    results: Mapping[str, Result]  # metrics and intervals of each evaluation set
    num_images: Mapping[str, int]  # number of images of each evaluation set
    examples: Examples  # what the page shows of the unseen drawings

    @property
    def metrics(self) -> dict[str, Mapping[str, float]]:
        """Return metric keys and values of each evaluation set."""
        return {name: result.metrics for name, result in self.results.items()}

    def figures(self) -> dict[str, float]:
        """Return all metrics in one flat dict with keys ``SET/METRIC``."""
        return flat_metrics(self.metrics)


def evaluate(checkpoint: Path, data: DemoData) -> Outcome:
    """Evaluate on drawings, and on concepts, that were not in the training data."""
    encoder = load_model(str(checkpoint), "auto").encoder
    results: dict[str, Result] = {}
    num_images: dict[str, int] = {}
    measured: dict[str, Measured] = {}
    for name in _SETS:
        dataset = open_dataset(str(getattr(data, name)))
        num_images[name] = len(dataset)
        measured[name] = measure(
            encoder,
            {
                "retrieval": Retrieval(dataset, ks=_KS),
                "label-head": LabelHeadClassification(dataset),
            },
        )
        note = f"{len(dataset)} images {_SETS[name]}"
        results[name] = merged_result(_title(name), measured[name], note)
    return Outcome(encoder, results, num_images, measured["unseen_drawings"].examples())


def run_figures(checkpoint: Path, seconds: float) -> dict[str, float]:
    """Measure the number of samples, the speed and the memory of the training."""
    stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
    num_samples = stored["global_step"] * stored["clipkit"]["config"]["data"]["batch_size"]
    # ru_maxrss is in KiB on Linux and in bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    peak_bytes = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "train/minutes": seconds / 60,
        "train/num_samples": float(num_samples),
        "train/samples_per_second": num_samples / seconds,
        "train/peak_memory_mib": peak_bytes / 2**20,
    }


def print_table(outcome: Outcome, figures: Mapping[str, float], report: Path) -> None:
    """Print the metrics, the duration and the path of the page."""
    table = Table(title="Drawings not in the training data", title_justify="left")
    table.add_column("")
    for name in outcome.metrics:
        table.add_column(_title(name), justify="right")
    rows = {
        f"{title}, recall@{k}": f"{way}/recall_at_{k}" for way, title in _WAYS.items() for k in _KS
    }
    for title, key in {**rows, "Category, top-1": "top1"}.items():
        table.add_row(title, *(f"{100 * m[key]:.1f} %" for m in outcome.metrics.values()))
    table.add_row("Images", *(f"{count:,}" for count in outcome.num_images.values()))
    console = Console()
    console.print(table)
    console.print(
        f"{figures['train/minutes']:.1f} minutes of training, "
        f"{figures['train/num_samples']:,.0f} samples, "
        f"{figures['train/samples_per_second']:.0f} per second\nReport: {report}",
        soft_wrap=True,
        highlight=False,
    )


def write_demo_report(files: DemoFiles, outcome: Outcome, figures: Mapping[str, float]) -> None:
    """Write the page."""
    stored = torch.load(files.checkpoint, map_location="cpu", weights_only=True)
    config = yaml.safe_dump(stored["clipkit"]["config"], sort_keys=False, allow_unicode=True)
    data = ReportData(
        title="clipkit demo",
        subtitle="A dual encoder, randomly initialised, trained on emoji by two artists and "
        "evaluated on drawings that were not in the training data.",
        results=_results(outcome),
        charts=read_metrics_csv(files.history),
        examples=outcome.examples,
        run=RunDetails(_facts(figures), _parameters(outcome.encoder), versions(), config),
        credits=_CREDITS,
    )
    write_report(files.report, data)


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _results(outcome: Outcome) -> list[Result]:
    results = []
    for name, result in outcome.results.items():
        count = outcome.num_images[name]
        chance = {f"{way}/recall_at_{k}": min(1.0, k / count) for way in _WAYS for k in _KS}
        baseline = Result("Chance", chance, f"among {count}", is_baseline=True)
        results += [result, baseline]
    return results


def _facts(figures: Mapping[str, float]) -> list[Fact]:
    return [
        Fact("Training", f"{figures['train/minutes']:.1f} min", "wall-clock time without packing"),
        Fact("Samples seen", f"{figures['train/num_samples']:,.0f}"),
        Fact("Samples per second", f"{figures['train/samples_per_second']:.0f}", "entire process"),
        Fact("Peak memory", f"{figures['train/peak_memory_mib']:,.0f} MiB", "resident"),
        Fact("CPU threads", f"{torch.get_num_threads()}"),
    ]


def _parameters(encoder: DualEncoder) -> list[TowerParameters]:
    counts = count_parameters(encoder)
    return [
        TowerParameters(_title(name), trained, total - trained)
        for name in ("image_tower", "text_tower", "label_head")
        for total, trained in ([counts[name]] if name in counts else [])
    ]
