"""Classification of the sounds of one fold by encoders that were trained on another one.

    python tools/sound_quality.py AUDIO WORK [--open-clip CHECKOUT]

AUDIO has ``labels.csv`` (file, class_index, class_name, fold) with two folds of ESC-10. An encoder
is a sound tower and a small text tower, both from random weights, trained on the sounds of one fold
with the names of their classes in templates, by the contrastive loss, and measured on the other
fold; both ways, for each seed. All arms get the same batches, in the same order, and the same
seconds of CPU time in training steps. Spectrograms are computed before, and are not in that time.

CHECKOUT is a checkout of open_clip that has ``src/open_clip/audio``, for the arm "open_clip": its
tower over patches of a spectrogram, of the size of the arm "vit". Runs that are done are skipped,
and ``--arms`` and ``--seeds`` choose the runs of one call.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, cycle
from pathlib import Path
from typing import Any

import torch
from emoji_training import make_text_tower, read_results, run_missing, spread, write_tokenizer
from sound_towers import MEL, UNTRAINED, towers
from torch import Tensor, nn

from clipkit.atomic_files import write_json
from clipkit.data import (
    Group,
    LabelTemplates,
    OptionalImage,
    PairStream,
    RandomGain,
    RandomNoise,
    SampleOptions,
    ShardIndex,
    Sounds,
    SpecAugment,
    TrainSoundTransform,
    TransformersTokenizer,
)
from clipkit.evaluation import (
    SOUND_TEMPLATES,
    EvaluationDataset,
    FewShotProbe,
    LinearProbe,
    ProbeSplits,
    ZeroShotClassification,
    open_dataset,
)
from clipkit.evaluation.memory import remembering
from clipkit.losses import CombinedLoss, ContrastiveLoss, ModalityPairLoss, WeightedTerm
from clipkit.models import MultimodalEncoder, SignalTower
from clipkit.optim import ParameterGroups, Progress, WarmupCosine
from clipkit.types import Batch, ModalityBatch

BATCH_SIZE = 40
EPOCHS = 10
LEARNING_RATE = 1e-3
FOLDS = (1, 2)
SET_FOLDER = "ESC-10"
SHOTS = (1, 4)
DRAWS = 2
COLUMNS = {
    "zero_shot": "zero-shot",
    "shots_1": "1 shot",
    "shots_4": "4 shots",
    "probe": "probe, 8 per class",
}


def prepare(audio: Path, work: Path) -> None:
    """Write the sounds in the form of ESC-50, and a tokenizer of the prompts."""
    rows = read_rows(audio)
    names = {row["class_name"].lower() for row in rows}
    texts = [t.replace("{}", name) for name in sorted(names) for t in SOUND_TEMPLATES]
    write_tokenizer(work / "tokenizer", texts, vocab_size=120)
    write_set(audio, rows, work / SET_FOLDER)


def read_rows(audio: Path) -> list[dict[str, str]]:
    with (audio / "labels.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_set(audio: Path, rows: list[dict[str, str]], root: Path) -> Path:
    """Write some of the sounds in the form of ESC-50."""
    if (root / "meta" / "esc50.csv").exists():
        return root
    shutil.rmtree(root, ignore_errors=True)
    for folder in ("audio", "meta"):
        (root / folder).mkdir(parents=True)
    lines = [["filename", "fold", "target", "category", "esc10", "src_file", "take"]]
    for row in rows:
        name = Path(row["file"]).name
        shutil.copyfile(audio / row["file"], root / "audio" / name)
        category = row["class_name"].lower().replace(" ", "_")
        recording, take = name.split("-")[1], Path(name).stem[-1]
        lines.append([name, row["fold"], row["class_index"], category, "True", recording, take])
    with (root / "meta" / "esc50.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(lines)
    return root


def batches(
    data: EvaluationDataset, tokenizer: Path, path: Path, seed: int
) -> list[dict[str, Tensor]]:
    """Spectrograms, tokens and classes of some epochs of sounds, computed once."""
    if not path.exists():
        augmentations = [RandomGain(), RandomNoise()]
        sounds = Sounds(TrainSoundTransform(MEL, augmentations=augmentations, masks=SpecAugment()))
        stream = PairStream(
            ShardIndex.from_urls([str(shard.address) for shard in data.index.shards]),
            tokenizer=TransformersTokenizer(str(tokenizer), 16),
            batch_size=BATCH_SIZE,
            seed=seed,
            image_transform=OptionalImage(),
            samples=SampleOptions(
                LabelTemplates(list(data.class_names), list(SOUND_TEMPLATES)),
                fields=[sounds, Group("cls")],
            ),
        )
        made = []
        for epoch in range(EPOCHS):
            stream.set_epoch(epoch)
            for batch in stream:
                assert batch.modalities is not None
                tensors = batch.modalities["sound"].values, batch.tokens, batch.groups
                made.append(dict(zip(("values", "tokens", "groups"), tensors, strict=True)))
                stream.commit(batch)
        temporary = path.with_suffix(f".{os.getpid()}")
        torch.save(made, temporary)
        temporary.replace(path)
    loaded: list[dict[str, Tensor]] = torch.load(path, weights_only=True)
    return loaded


def as_batch(part: dict[str, Tensor]) -> Batch:
    size = len(part["values"])
    there = torch.ones(size, dtype=torch.bool)
    return Batch(
        images=torch.zeros(size, 3, 1, 1, dtype=torch.uint8),
        tokens=part["tokens"],
        labels=part["groups"],
        keys=("",) * size,
        groups=part["groups"],
        modalities={"sound": ModalityBatch(part["values"], there, size)},
    )


def train(encoder: MultimodalEncoder, parts: Iterator[Batch], seconds: float) -> int:
    """Train for some seconds of CPU time, and return the number of steps."""
    encoder.train()
    pair = ModalityPairLoss(ContrastiveLoss(), "sound", "text")
    loss = CombinedLoss(terms={"sound_text": WeightedTerm(pair, 1.0)})
    optimizer = ParameterGroups().optimizer(
        encoder, lambda groups: torch.optim.AdamW(groups, lr=LEARNING_RATE, weight_decay=0.05)
    )
    schedule, start = WarmupCosine(warmup=0.1), time.process_time()
    for step in count():
        share = (time.process_time() - start) / seconds
        if share >= 1:
            return step
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * schedule.at(Progress(int(1000 * share), 1000))
        batch = next(parts)
        loss(encoder(batch), batch)["loss"].backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    raise AssertionError("an endless loop ended")


def make_encoder(work: Path, tower: SignalTower) -> MultimodalEncoder:
    """The tower, and a small text tower with weights by the seed that was set."""
    return MultimodalEncoder(
        {"text": make_text_tower(work / "tokenizer", 16), "sound": tower}, max_logit_scale=100.0
    )


def measure_fold(
    root: Path,
    work: Path,
    tower: SignalTower,
    is_trained: bool,
    fold: int,
    seed: int,
    seconds: float,
) -> dict[str, float]:
    """Train on the other fold, and measure one."""
    other = next(number for number in FOLDS if number != fold)
    encoder = make_encoder(work, tower)
    found = {"parameters": float(sum(p.numel() for p in tower.parameters()))}
    if is_trained:
        data = open_dataset(root, f"fold{other}", modality="sound")
        made = batches(data, work / "tokenizer", work / f"batches-{other}-{seed}.pt", seed)
        found["steps"] = float(train(encoder, cycle(map(as_batch, made)), seconds))
    encoder.eval()
    splits = ProbeSplits(root, f"fold{fold}", f"fold{other}", modality="sound")
    with remembering():
        if is_trained:
            data = open_dataset(root, f"fold{fold}", modality="sound")
            found["zero_shot"] = ZeroShotClassification(data).run(encoder)["top1"]
        few = FewShotProbe(splits, SHOTS, seeds=DRAWS).run(encoder)
        found |= {f"shots_{shots}": few[f"shots_{shots}/top1"] for shots in SHOTS}
        found["probe"] = LinearProbe(splits).run(encoder)["top1"]
    return found


def kept(path: Path, measure_part: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Return what a file has, or measure it and write the file: half of a run is not lost."""
    if not path.exists():
        write_json(path, measure_part())
    found: dict[str, float] = json.loads(path.read_text())
    return found


def measure(options: argparse.Namespace, arm: str, seed: int) -> dict[str, float]:
    """Means over the two ways."""
    root = options.work / SET_FOLDER

    def way(fold: int) -> dict[str, float]:
        torch.manual_seed(seed)
        tower = towers(options.open_clip)[arm]()
        return measure_fold(
            root, options.work, tower, arm not in UNTRAINED, fold, seed, options.seconds
        )

    ways = [
        kept(options.work / f"way-{arm}-{seed}-{fold}.json", partial(way, fold)) for fold in FOLDS
    ]
    means = {name: statistics.mean(way[name] for way in ways) for name in ways[0]}
    return means | {
        f"fold{f}/{k}": v for f, w in zip(FOLDS, ways, strict=True) for k, v in w.items()
    }


def table(results: list[dict[str, Any]], arms: list[str], columns: dict[str, str]) -> str:
    """Means and standard deviations over the seeds, as Markdown."""
    lines = [f"| sound tower | parameters | steps | seeds | {' | '.join(columns.values())} |"]
    lines.append("|---" * (len(columns) + 4) + "|")
    for arm in arms:
        own = [result for result in results if result["arm"] == arm]
        if own:
            steps = statistics.mean(result.get("steps", 0) for result in own)
            cells = [spread(results, arm, column) for column in columns]
            lines.append(
                f"| {arm} | {own[0]['parameters']:,.0f} | {steps:.0f} | {len(own)} | "
                f"{' | '.join(cells)} |"
            )
    return "\n".join(lines)


def parse(description: str | None, *, with_open_clip: bool) -> argparse.Namespace:
    """Read the options that the experiments with sounds share."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("audio", type=Path)
    parser.add_argument("work", type=Path)
    if with_open_clip:
        parser.add_argument("--open-clip", type=Path, metavar="CHECKOUT")
    parser.add_argument("--arms", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=15.0, help="CPU seconds of a training")
    parser.add_argument("--table", action="store_true", help="print what is measured, and stop")
    options = parser.parse_args()
    options.known = list(towers(options.open_clip if with_open_clip else None))
    options.arms = options.arms or options.known
    if unknown := sorted(set(options.arms) - set(options.known)):
        known = ", ".join(options.known)
        parser.error(f"--arms: expected some of {known}, got {', '.join(unknown)}")
    return options


def run(
    options: argparse.Namespace,
    output: str,
    columns: dict[str, str],
    measure_arm: Callable[[str, int], dict[str, float]],
) -> None:
    """Measure the chosen arms as far as they are not in the file of results, and print a table."""
    options.work.mkdir(parents=True, exist_ok=True)
    path = options.work / output
    results = read_results(path)
    if not options.table:
        prepare(options.audio, options.work)
        runs = [(arm, seed) for seed in options.seeds for arm in options.arms]
        results = run_missing(path, runs, measure_arm)
    print(table(results, options.known, columns))


def main() -> None:
    options = parse(__doc__, with_open_clip=True)
    run(options, "sounds.jsonl", COLUMNS, partial(measure, options))


if __name__ == "__main__":
    main()
