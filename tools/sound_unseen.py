"""Few shots of classes of sounds that were not trained on, with the towers of ``sound_quality.py``.

    python tools/sound_unseen.py AUDIO WORK [--arms ARM ...] [--seeds SEED ...]

AUDIO, WORK and the arms are those of ``sound_quality.py``. For each seed, the ten classes are
divided at random into two halves. An encoder is trained on the sounds of one half, of both folds,
with the names of their classes, for the same seconds of CPU time as there. Then a classifier of
the five other classes is fitted to some of their sounds of one fold, and measured on the other
fold; both ways, and for both halves. Runs that are done are skipped.
"""

from __future__ import annotations

import argparse
import random
import statistics
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from emoji_training import read_results, run_missing, spread
from sound_quality import (
    DRAWS,
    FOLDS,
    SHOTS,
    UNTRAINED,
    as_batch,
    batches,
    kept,
    make_encoder,
    prepare,
    read_rows,
    towers,
    train,
    write_set,
)

from clipkit.evaluation import FewShotProbe, ProbeSplits, ZeroShotClassification, open_dataset
from clipkit.evaluation.memory import remembering
from clipkit.models import MultimodalEncoder

COLUMNS = {"zero_shot": "zero-shot", "shots_1": "1 shot", "shots_4": "4 shots"}


def halves(audio: Path, work: Path, seed: int) -> list[Path]:
    """Write two sets, of five classes each."""
    rows = read_rows(audio)
    numbers = sorted({row["class_index"] for row in rows})
    chosen = set(random.Random(seed).sample(numbers, len(numbers) // 2))
    parts = (
        [row for row in rows if (row["class_index"] in chosen) == is_first]
        for is_first in (True, False)
    )
    return [
        write_set(audio, part, work / f"half-{seed}-{place}") for place, part in enumerate(parts)
    ]


def measure_unseen(encoder: MultimodalEncoder, root: Path, *, by_name: bool) -> dict[str, float]:
    """Measure classes that were not trained on: by their names, and from some sounds each."""
    found: dict[str, float] = {}
    with remembering():
        ways = []
        for fold in FOLDS:
            other = next(number for number in FOLDS if number != fold)
            splits = ProbeSplits(root, f"fold{fold}", f"fold{other}", modality="sound")
            few = FewShotProbe(splits, SHOTS, seeds=DRAWS).run(encoder)
            ways.append({f"shots_{shots}": few[f"shots_{shots}/top1"] for shots in SHOTS})
        found |= {name: statistics.mean(way[name] for way in ways) for name in ways[0]}
        if by_name:
            data = open_dataset(root, "all", modality="sound")
            found["zero_shot"] = ZeroShotClassification(data).run(encoder)["top1"]
    return found


def measure(options: argparse.Namespace, arm: str, seed: int) -> dict[str, float]:
    """Means over both halves."""
    parts = halves(options.audio, options.work, seed)

    def half(place: int) -> dict[str, float]:
        torch.manual_seed(seed)
        tower = towers(None)[arm]()
        encoder, is_trained = make_encoder(options.work, tower), arm not in UNTRAINED
        own = {"parameters": float(sum(p.numel() for p in tower.parameters()))}
        if is_trained:
            path = options.work / f"batches-half-{seed}-{place}.pt"
            data = open_dataset(parts[place], "all", modality="sound")
            made = batches(data, options.work / "tokenizer", path, seed)
            own["steps"] = float(train(encoder, cycle(map(as_batch, made)), options.seconds))
        return own | measure_unseen(encoder.eval(), parts[1 - place], by_name=is_trained)

    found = [
        kept(options.work / f"half-{arm}-{seed}-{place}.json", partial(half, place))
        for place in range(len(parts))
    ]
    return {name: statistics.mean(each[name] for each in found) for name in found[0]}


def table(results: list[dict[str, Any]], arms: list[str]) -> str:
    """Means and standard deviations over the seeds, as Markdown."""
    lines = [f"| sound tower | parameters | steps | seeds | {' | '.join(COLUMNS.values())} |"]
    lines.append("|---" * (len(COLUMNS) + 4) + "|")
    for arm in arms:
        own = [result for result in results if result["arm"] == arm]
        if own:
            steps = statistics.mean(result.get("steps", 0) for result in own)
            cells = [spread(results, arm, column) for column in COLUMNS]
            lines.append(
                f"| {arm} | {own[0]['parameters']:,.0f} | {steps:.0f} | {len(own)} | "
                f"{' | '.join(cells)} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("audio", type=Path)
    parser.add_argument("work", type=Path)
    known = list(towers(None))
    parser.add_argument("--arms", nargs="+", choices=known, default=known)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=15.0, help="CPU seconds of a training")
    parser.add_argument("--table", action="store_true", help="print what is measured, and stop")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    output = options.work / "unseen.jsonl"
    results = read_results(output)
    if not options.table:
        prepare(options.audio, options.work)
        runs = [(arm, seed) for seed in options.seeds for arm in options.arms]
        results = run_missing(output, runs, lambda arm, seed: measure(options, arm, seed))
    print(table(results, known))


if __name__ == "__main__":
    main()
