"""Coverage of bootstrap intervals, and the time that intervals and comparisons take.

Coverage: the share of simulated experiments whose 95 % interval contains the true value, of the
expanded percentiles that clipkit takes, of plain percentiles, and of BCa intervals.

    OMP_NUM_THREADS=1 python tools/bench_intervals.py --output intervals.json
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import NormalDist

import numpy as np
import torch

from clipkit.evaluation import Outcomes
from clipkit.evaluation.comparison import Resampling, compare_outcomes, metric_intervals
from clipkit.evaluation.comparison.intervals import percentile_interval
from clipkit.evaluation.outcomes.classification import classification_outcomes

Numbers = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
CASES: dict[str, tuple[float, Callable[[np.random.Generator, int], Numbers]]] = {
    "accuracy 0.8": (0.8, lambda rng, n: (rng.random(n) < 0.8).astype(float)),
    "accuracy 0.95": (0.95, lambda rng, n: (rng.random(n) < 0.95).astype(float)),
    "skewed (gamma 2)": (2.0, lambda rng, n: rng.gamma(2.0, 1.0, n)),
}


def bca_interval(values: Numbers, samples: Numbers, confidence: float) -> tuple[float, float]:
    """Return the BCa interval of a mean (Efron 1987)."""
    normal = NormalDist()
    below = (np.mean(samples < values.mean()) + np.mean(samples <= values.mean())) / 2
    if not 0 < below < 1:
        return float(samples.min()), float(samples.max())
    bias = normal.inv_cdf(float(below))
    left_out = (values.sum() - values) / (len(values) - 1)
    spread = left_out.mean() - left_out
    skew = float((spread**3).sum() / (6 * (spread**2).sum() ** 1.5))
    ends = []
    for tail in ((1 - confidence) / 2, (1 + confidence) / 2):
        shifted = bias + normal.inv_cdf(tail)
        ends.append(normal.cdf(bias + shifted / (1 - skew * shifted)))
    low, high = np.quantile(samples, ends)
    return float(low), float(high)


def coverage(name: str, size: int, experiments: int, replicates: int) -> dict[str, float]:
    """Return the share of experiments whose interval contains the true value, by method."""
    truth, draw = CASES[name]
    rng = np.random.default_rng(size)
    covered = dict.fromkeys(("expanded", "percentile", "bca"), 0)
    for _ in range(experiments):
        values = draw(rng, size)
        samples = values[rng.integers(0, size, (replicates, size))].mean(1)
        low, high = np.quantile(samples, (0.025, 0.975))
        intervals = {
            "expanded": percentile_interval(float(values.mean()), samples, size, 0.95),
            "percentile": (float(low), float(high)),
            "bca": bca_interval(values, samples, 0.95) if np.ptp(values) else None,
        }
        for method, interval in intervals.items():
            covered[method] += interval is not None and interval[0] <= truth <= interval[1]
    return {method: count / experiments for method, count in covered.items()}


def classified(num_images: int, num_classes: int, seed: int) -> Outcomes:
    """Return outcomes of a classifier whose errors are partly those of every seed."""
    shared, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1 + seed)
    labels = torch.arange(num_images) % num_classes
    scores = torch.randn(num_images, num_classes, generator=shared)
    scores += 0.3 * torch.randn(num_images, num_classes, generator=own)
    scores[torch.arange(num_images), labels] += 3
    names = [f"class {number}" for number in range(num_classes)]
    keys = [f"image {number}" for number in range(num_images)]
    return classification_outcomes(scores, labels, keys, names, logit_scale=1.0)


def seconds(num_images: int, num_classes: int, resampling: Resampling) -> dict[str, float]:
    """Return the CPU seconds of intervals and of a comparison, whatever else the machine does."""
    first, second = (classified(num_images, num_classes, seed) for seed in (0, 1))
    start = time.process_time()
    metric_intervals([first], resampling)
    middle = time.process_time()
    compare_outcomes([first], [second], ("a", "b"), resampling=resampling)
    return {"intervals": middle - start, "comparison": time.process_time() - middle}


def main(words: Sequence[str] | None = None) -> None:
    """Print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[12, 30, 100, 400])
    parser.add_argument("--experiments", type=int, default=2000)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--output", type=Path, help="JSON file")
    args = parser.parse_args(words)
    record = {
        "coverage": {
            f"{name}, {size} images": coverage(name, size, args.experiments, args.replicates)
            for name in CASES
            for size in args.sizes
        },
        "seconds": seconds(args.images, args.classes, Resampling(replicates=args.replicates)),
        "arguments": {name: value for name, value in vars(args).items() if name != "output"},
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(record, indent=1))
    if args.output is not None:
        args.output.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
