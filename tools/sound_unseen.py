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

import torch
from sound_quality import (
    DRAWS,
    FOLDS,
    SHOTS,
    as_batch,
    batches,
    kept,
    make_encoder,
    parse,
    read_rows,
    run,
    train,
    write_set,
)
from sound_towers import UNTRAINED, towers

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


if __name__ == "__main__":
    given = parse(__doc__, with_open_clip=False)
    run(given, "unseen.jsonl", COLUMNS, partial(measure, given))
