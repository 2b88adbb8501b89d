"""Seconds, peak memory and size of a report about many images; no model and no data are needed.

    python tools/bench_report.py --images 50000 --captions 5

Embeddings are random, and images are noise of photo size, which is what compresses worst.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from clipkit.evaluation import EmbeddedPairs, Evaluation, EvaluationSample
from clipkit.evaluation.outcomes.classification import classification_outcomes
from clipkit.evaluation.outcomes.retrieval import retrieval_outcomes
from clipkit.evaluation.report import ReportData, write_report
from clipkit.evaluation.report.collect.examples import examples_of
from clipkit.metrics.ranking import PairRanks


class Noise:
    """Images of photo size, made when they are read."""

    name = "noise"

    def __init__(self, class_names: tuple[str, ...]) -> None:
        self.class_names = class_names

    def sample(self, sample_id: int) -> EvaluationSample:
        """Make an image."""
        rng = np.random.default_rng(sample_id)
        small = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
        out = io.BytesIO()
        small.resize((640, 480), Image.Resampling.BICUBIC).save(out, "JPEG")
        return EvaluationSample(str(sample_id), out.getvalue(), (), 0)


def memory_mib(name: str) -> float:
    """Return "VmRSS" or "VmHWM", its peak, of this process (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def unit_rows(count: int, width: int, near: torch.Tensor | None = None) -> torch.Tensor:
    rows = torch.randn(count, width)
    return F.normalize(rows if near is None else near + 0.9 * rows / width**0.5, dim=1)


def retrieval(num_images: int, owners: torch.Tensor) -> Evaluation:
    parts = []
    for prefix, queries in (
        ("image_to_text/", torch.arange(num_images)),
        ("text_to_image/", owners),
    ):
        count = len(queries)
        incorrect = (torch.rand(count) ** 6 * num_images).long()
        ranks = PairRanks(torch.arange(count), incorrect, torch.zeros(count, dtype=torch.int64))
        keys = [str(row) for row in range(count)]
        parts.append(retrieval_outcomes(ranks, keys, keys, prefix))
    return Evaluation({}, tuple(parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--captions", type=int, default=5)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--width", type=int, default=512)
    options = parser.parse_args()
    torch.manual_seed(0)
    count, names = options.images, tuple(f"class {n}" for n in range(options.classes))
    images = unit_rows(count, options.width)
    owners = torch.arange(count).repeat_interleave(options.captions)
    texts = unit_rows(len(owners), options.width, images[owners])
    labels = torch.arange(count) % options.classes
    pairs = EmbeddedPairs(
        images, texts, owners, labels, tuple(map(str, range(count))),
        tuple(f"caption {row} of an image" for row in range(len(owners))),
    )  # fmt: skip
    scores = torch.randn(count, options.classes).scatter_add_(
        1, labels[:, None], torch.full((count, 1), 3.0)
    )
    outcomes = classification_outcomes(scores, labels, pairs.keys, names, logit_scale=2.0)
    del scores
    evaluations = {
        "retrieval": retrieval(count, owners), "zero-shot": Evaluation({}, (outcomes,)),
    }  # fmt: skip
    data = Noise(names)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    before, start = memory_mib("VmRSS"), time.perf_counter()
    cpu = time.process_time()
    examples = examples_of(
        evaluations,
        {"retrieval": data, "zero-shot": data},  # type: ignore[dict-item]
        ("retrieval", pairs),
    )
    collected = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        page = write_report(Path(folder) / "report.html", ReportData("x", examples=examples))
        size = page.stat().st_size
    figures = {
        "images": count, "captions": len(owners), "classes": options.classes,
        "seconds_collect": round(collected, 1),
        "seconds_write": round(time.perf_counter() - start - collected, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "embeddings_and_more_mib": round(before),
        "additional_mib": round(memory_mib("VmHWM") - before),
        "page_mib": round(size / 2**20, 2), "threads": torch.get_num_threads(),
    }  # fmt: skip
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
