"""Retrieval among images, names and sounds of stamps: all pairs trained, or through one anchor.

    python tools/stamps_quality.py STAMPS EMOJI WORK

STAMPS has ``captions.csv`` (file, group, subgroup, lang, caption), ``audio.csv`` (file, image,
lang, kind, seconds, samplerate) and their files; EMOJI is that of ``emoji_training.py``. For each
seed a quarter of the stamps that have a sound, without letters, is held out. Image and text tower
are trained on emoji and their names first, once; the tower for sounds is not. Then all three are
trained on the other stamps: with the three pairs, or with the two pairs of one anchor. Steps that
are done are skipped.
"""

from __future__ import annotations

import argparse
import csv
import io
import random
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import soundfile
import soxr
import torch
from emoji_training import (
    ARTISTS,
    SIZE,
    WIDTH,
    read_emoji,
    read_results,
    run_missing,
    spread,
    train,
    write_tokenizer,
)
from PIL import Image

from clipkit.data import (
    PairStream,
    RandomGain,
    SampleOptions,
    ShardIndex,
    ShardWriter,
    Sounds,
    SpecAugment,
    TextField,
    TrainSoundTransform,
    TrainTransform,
    TransformersTokenizer,
)
from clipkit.evaluation import Retrieval, RetrievalOptions
from clipkit.losses import CombinedLoss, ContrastiveLoss, ModalityPairLoss, WeightedTerm
from clipkit.mel import MelOptions
from clipkit.models import DualEncoder, MultimodalEncoder, TcnTower, with_towers
from clipkit.optim import ParameterGroups, Progress, WarmupCosine

RATE = 16_000
MEL = MelOptions(sample_rate=RATE, num_mels=64, f_max=8_000, hop=320, num_frames=100)
BATCH_SIZE = 45
LEARNING_RATE = 1e-3
EMOJI_STEPS = 250
FOLDS = 4
ARMS = {
    "all": (("image", "text"), ("image", "sound"), ("sound", "text")),
    "image": (("image", "text"), ("image", "sound")),
    "text": (("image", "text"), ("sound", "text")),
}
WAYS = (
    ("image", "text"), ("text", "image"), ("sound", "text"), ("text", "sound"),
    ("image", "sound"), ("sound", "image"),
)  # fmt: skip


@dataclass(frozen=True)
class Stamp:
    """An image with its name and its sound."""

    image: Path
    name: str
    sound: Path


def read_stamps(folder: Path) -> list[Stamp]:
    """Stamps that have an English name and a sound that is no speech; letters are left out."""
    with (folder / "captions.csv").open(encoding="utf-8", newline="") as file:
        names = {
            row["file"]: row["caption"]
            for row in csv.DictReader(file)
            if row["lang"] == "en" and "alphabets" not in row["file"]
        }
    with (folder / "audio.csv").open(encoding="utf-8", newline="") as file:
        sounds = {r["image"]: r["file"] for r in csv.DictReader(file) if r["kind"] == "sound"}
    both = sorted(names.keys() & sounds.keys())
    return [Stamp(folder / image, names[image], folder / sounds[image]) for image in both]


def halves(stamps: Iterable[Stamp], seed: int) -> dict[str, list[Stamp]]:
    """Stamps to train on and stamps that are held out; those of one name stay together."""
    names = sorted({stamp.name for stamp in stamps})
    random.Random(0).shuffle(names)
    held = set(names[seed % FOLDS :: FOLDS])
    return {
        "seen": [stamp for stamp in stamps if stamp.name not in held],
        "held": [stamp for stamp in stamps if stamp.name in held],
    }


def write_stamps(stamps: Iterable[Stamp], path: Path) -> None:
    """One shard, with small images and sounds of at most five seconds at one rate."""
    with ShardWriter(path) as shard:
        for number, stamp in enumerate(stamps):
            members = {"png": small_image(stamp.image), "txt": stamp.name.encode()}
            shard.write(f"{number:04d}", {**members, "wav": short_sound(stamp.sound)})


def small_image(path: Path) -> bytes:
    image = Image.open(path).convert("RGBA")
    image.thumbnail((2 * SIZE, 2 * SIZE))
    canvas = Image.new("RGBA", (2 * SIZE, 2 * SIZE), "white")
    place = ((canvas.width - image.width) // 2, (canvas.height - image.height) // 2)
    canvas.alpha_composite(image, place)
    out = io.BytesIO()
    canvas.convert("RGB").save(out, "PNG")
    return out.getvalue()


def short_sound(path: Path) -> bytes:
    wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    wave = soxr.resample(wave.mean(1)[: 5 * rate], rate, RATE)
    out = io.BytesIO()
    soundfile.write(out, wave, RATE, format="WAV")
    return out.getvalue()


def prepare(stamps: Path, emoji: Path, work: Path, seeds: Iterable[int]) -> None:
    """Pack the stamps of each seed, and the emoji with their names."""
    every = read_stamps(stamps)
    for seed in seeds:
        for name, part in halves(every, seed).items():
            path = work / f"{name}-{seed}" / "0.tar"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_stamps(part, path)
    drawings = [drawing for drawing in read_emoji(emoji) if drawing.artist in ARTISTS]
    path = work / "emoji" / "0.tar"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with ShardWriter(path) as shard:
            for number, drawing in enumerate(drawings):
                image = small_image(emoji / drawing.file)
                shard.write(f"{number:06d}", {"png": image, "txt": drawing.name.encode()})
    texts = [text for e in drawings for text in (e.name, *e.keywords)]
    write_tokenizer(work / "tokenizer", texts, vocab_size=4000)


def emoji_encoder(work: Path) -> DualEncoder:
    """Image and text tower that were trained on emoji, the same for every seed."""
    weights, tokenizer = work / "emoji-0.pt", work / "tokenizer"
    steps = 0 if weights.exists() else EMOJI_STEPS
    encoder = train(work / "emoji", TextField("txt"), tokenizer, steps=steps, seed=0)
    if steps:
        torch.save(encoder.state_dict(), weights)
    encoder.load_state_dict(torch.load(weights, weights_only=True))
    return encoder


def train_stamps(work: Path, arm: str, seed: int, steps: int) -> MultimodalEncoder:
    """A plain loop over the stamps, with a term of the objective for each pair of the arm."""
    dual = emoji_encoder(work)
    torch.manual_seed(seed)
    tower = TcnTower(WIDTH, MEL, width=96, num_blocks=5, mean=-40.0, std=20.0)
    encoder = with_towers(dual, {"sound": tower}).train()
    terms = {
        f"{first}_{second}": WeightedTerm(ModalityPairLoss(ContrastiveLoss(), first, second), 1.0)
        for first, second in ARMS[arm]
    }
    loss = CombinedLoss(terms=terms)
    transform = TrainSoundTransform(MEL, augmentations=[RandomGain()], masks=SpecAugment())
    stream = PairStream(
        ShardIndex.from_urls(str(work / f"seen-{seed}")),
        tokenizer=TransformersTokenizer(str(work / "tokenizer"), 24),
        batch_size=BATCH_SIZE,
        seed=seed,
        image_transform=TrainTransform(SIZE, (0.7, 1.0), (0.9, 1.1)),
        samples=SampleOptions(fields=[Sounds(transform)]),
    )
    optimizer = ParameterGroups().optimizer(
        encoder, lambda groups: torch.optim.AdamW(groups, lr=LEARNING_RATE, weight_decay=0.1)
    )
    schedule, numbers = WarmupCosine(warmup=0.1), count()
    for epoch in count():
        stream.set_epoch(epoch)
        for batch in stream:
            step = next(numbers)
            if step == steps:
                return encoder.eval()
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * schedule.at(Progress(step, steps))
            loss(encoder(batch), batch)["loss"].backward()
            torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            stream.commit(batch)
    raise AssertionError("an endless loop ended")


def measure(work: Path, arm: str, seed: int, steps: int) -> dict[str, float]:
    """Train, and measure the stamps that are held out, and those that were trained on."""
    encoder = train_stamps(work, arm, seed, steps)
    correct = RetrievalOptions(merge_captions=True)
    metrics = {}
    for part in ("held", "seen"):
        shards = str(work / f"{part}-{seed}")
        result = Retrieval(shards, ks=(1, 5, 10), correct=correct).evaluate(encoder)
        metrics |= {f"{part}/{name}": value for name, value in result.metrics.items()}
        metrics[f"{part}/num_samples"] = result.details["image_and_sound/num_samples"]
    return metrics


def table(results: list[dict[str, Any]], part: str) -> str:
    """Recalls of each ordered pair by arm, as Markdown; a star where the pair was not trained."""
    numbers = [result[f"{part}/num_samples"] for result in results]
    size = sum(numbers) / len(numbers)
    lines = []
    for k in (1, 5, 10):
        head = " | ".join({"all": "all pairs"}.get(arm, f"through {arm}s") for arm in ARMS)
        lines += [f"{part}, {size:.1f} stamps, recall at {k}, percent", ""]
        lines += [f"| from, to | chance | {head} |", "|---" * (len(ARMS) + 2) + "|"]
        for query, target in WAYS:
            cells = [
                spread(results, arm, f"{part}/{query}_to_{target}/recall_at_{k}")
                + ("" if {query, target} in map(set, pairs) else " \\*")
                for arm, pairs in ARMS.items()
            ]
            lines.append(f"| {query}, {target} | {100 * k / size:.1f} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("stamps", type=Path)
    parser.add_argument("emoji", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--table", action="store_true", help="print what is measured, and stop")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    output = options.work / "stamps.jsonl"
    results = read_results(output)
    if not options.table:
        prepare(options.stamps, options.emoji, options.work, options.seeds)
        runs = [(arm, seed) for seed in options.seeds for arm in options.arms]
        results = run_missing(
            output, runs, lambda arm, seed: measure(options.work, arm, seed, options.steps)
        )
    for part in ("held", "seen"):
        print(table(results, part))


if __name__ == "__main__":
    main()
