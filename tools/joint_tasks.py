"""Questions and entailment on pictures of emoji, by few labels, with and without a fusion.

    python tools/joint_tasks.py pretrain EMOJI WORK
    python tools/joint_tasks.py tune EMOJI WORK
    python tools/joint_tasks.py report WORK

EMOJI has ``captions.csv`` (vendor, file, name, group) and the drawings of two artists.

``pretrain`` trains a small dual encoder and a fusion on pictures of one or two emoji with captions
(contrast, matching and masked words, no labels), one per seed. ``tune`` freezes the towers and
trains, on 8 to 2,048 labelled pictures: a head on this fusion ("joint"), on a new fusion
("fresh"), a network on the embeddings of image and text and their product ("dual"), and on that of
the text ("text"). It also chooses answers by captions of question and answer, without labels: by
the dual encoder's similarity ("zero-shot") and by the fusion's matching ("matching"). All are
measured on pictures of pairs that occur in training ("known"), of pairs that do not
("compositions"), and of emoji that do not ("concepts"). Steps that are done are skipped;
``--seeds 0`` runs one seed.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import torch
from emoji_training import read_results, run_missing, spread
from joint_models import (
    FUSION,
    MASK,
    SPECIAL,
    Fusing,
    Labelled,
    LateFusion,
    captioned,
    labelled,
    new_encoder,
    new_fusion,
    read,
    rows_of,
    steps_of,
    tokenizer_in,
)
from joint_pictures import (
    ANSWERS,
    KINDS,
    PARTS,
    VERDICTS,
    World,
)
from torch import Tensor, nn
from torch.nn import functional as F

from clipkit.losses import (
    CombinedLoss,
    ContrastiveLoss,
    FusedLabelLoss,
    MaskedWordLoss,
    MatchingLoss,
    WeightedTerm,
)
from clipkit.models import (
    LinearLabelHead,
    load_joint_encoder,
    pair_scores,
    save_encoder,
    with_fused_head,
    with_fusion,
)
from clipkit.types import Batch, Embeddings

SEEDS = (0, 1, 2)
PRETRAINING_STEPS, TUNING_STEPS = 3000, 120  # the second times STEP_FACTORS
BATCH_SIZE, TUNING_BATCH = 64, 32
NUM_TEST, NUM_LABELS = 600, (8, 32, 128, 512, 2048)
STEP_FACTORS = dict(zip(NUM_LABELS, (1, 1, 2, 4, 4), strict=True))
TASKS = ("questions", "entailment")
METHODS = ("joint", "fresh", "dual", "text")
UNLABELLED = ("zero-shot", "matching")


def pretrain(args: argparse.Namespace) -> None:
    """Train on captions."""
    world = World.of(args.emoji)
    tokenizer = tokenizer_in(args.work, world)
    for seed in args.seeds:
        folder = args.work / f"pretrained-{seed}"
        if (folder / "model.safetensors").exists():
            continue
        torch.manual_seed(seed)
        encoder, begin = new_encoder(tokenizer, args.work / "tokenizer").train(), time.monotonic()
        terms = {
            "matching": WeightedTerm(MatchingLoss(seed=seed)),
            "words": WeightedTerm(MaskedWordLoss(MASK, SPECIAL, 0.25, seed=seed)),
        }
        loss, rng = CombinedLoss(ContrastiveLoss(), terms=terms), np.random.default_rng(seed)
        for step in steps_of([(list(encoder.parameters()), 1e-3)], args.steps):
            images, texts = captioned(world, BATCH_SIZE, rng)
            ids = torch.arange(BATCH_SIZE) + step * BATCH_SIZE
            place = {"epoch": 0, "position": step * BATCH_SIZE}
            labels = torch.full((BATCH_SIZE,), -100)
            tokens = tokenizer(texts)
            tokens = tokens[:, : int((tokens != tokenizer.pad_id).sum(1).max())]
            batch = Batch(images, tokens, labels, tuple(texts), place, ids)
            terms_of_step = loss(encoder(batch), batch)
            terms_of_step["loss"].backward()
            if step % 50 == 0 or step == args.steps - 1:
                values = {n: round(terms_of_step[n].item(), 3) for n in ("contrastive", *terms)}
                print(seed, step, f"{time.monotonic() - begin:.0f} s", values, flush=True)
        save_encoder(encoder.eval(), folder)


class Measurement:
    """Training on few labels, and accuracies."""

    def __init__(self, emoji: Path, work: Path, steps: int, num_test: int) -> None:
        self.world, self.work = World.of(emoji), work
        self.steps, self.num_test = steps, num_test
        self._parts: dict[tuple[str, int], dict[str, tuple[Labelled, Embeddings]]] = {}

    def parts(self, task: str, seed: int) -> dict[str, tuple[Labelled, Embeddings]]:
        """Pictures of each part of the test and of training, and what the towers make of them."""
        if (task, seed) not in self._parts:
            self._parts = {(task, seed): self._read(task, seed)}  # of one task at a time
        return self._parts[task, seed]

    def _read(self, task: str, seed: int) -> dict[str, tuple[Labelled, Embeddings]]:
        encoder = load_joint_encoder(self.work / f"pretrained-{seed}")
        sizes = {**dict.fromkeys(PARTS, self.num_test), "train": NUM_LABELS[-1]}
        found = {}
        for part, size in sizes.items():
            data = labelled(self.world, task, part, size, seed)
            found[part] = data, read(encoder, data.images, data.texts)
        return found

    def run(self, arm: str, seed: int) -> dict[str, float]:
        """Accuracy of an arm on each part, and by kind."""
        task, method, number = arm.split("/")
        parts, found = self.parts(task, seed), dict[str, float]()
        labels = parts["train"][0].labels[: int(number)]
        model = None if method in (*UNLABELLED, "majority") else self.tuned(arm, seed)
        for part in PARTS:
            data, given = parts[part]
            if model is not None:
                with torch.no_grad():
                    chosen = model(given).argmax(1)
            elif method == "majority":
                chosen = torch.full_like(data.labels, Counter(labels.tolist()).most_common(1)[0][0])
            else:
                chosen = self.chosen_by_claims(method, seed, parts[part])
            right = chosen == data.labels
            found[part] = float(right.float().mean())
            for kind in sorted(set(data.kinds)):
                rows = torch.tensor([own == kind for own in data.kinds])
                found[f"{part}/{kind}"] = float(right[rows].float().mean())
        return found

    def tuned(self, arm: str, seed: int) -> nn.Module:
        """Train on labelled pictures, whose tokens and embeddings stay the same."""
        task, method, number = arm.split("/")
        data, given = self.parts(task, seed)["train"]
        num_classes = len(ANSWERS if task == "questions" else VERDICTS)
        torch.manual_seed(seed)
        loss = CombinedLoss(terms={"answers": WeightedTerm(FusedLabelLoss())})
        if method in ("joint", "fresh"):
            encoder = load_joint_encoder(self.work / f"pretrained-{seed}")
            if method == "fresh":
                encoder = with_fusion(encoder, new_fusion())
            encoder = with_fused_head(encoder, LinearLabelHead(FUSION, num_classes)).train()
            head = list(encoder.label_heads.parameters())
            fusion = [*encoder.fusion.parameters(), *encoder.token_inputs.parameters()]
            model: nn.Module = Fusing(encoder)
            groups = [(fusion, 5e-4), (head, 2e-3)]
        else:
            model = LateFusion(num_classes, text_only=method == "text")
            groups = [(list(model.parameters()), 2e-3)]
        rng = torch.Generator().manual_seed(seed)
        steps = self.steps * STEP_FACTORS[int(number)] * (4 if isinstance(model, LateFusion) else 1)
        for _ in steps_of(groups, steps):
            rows = torch.randperm(int(number), generator=rng)[:TUNING_BATCH]
            own = rows_of(given, rows)
            if isinstance(model, Fusing):
                own.joint = model.encoder
                batch = Batch(data.images[rows], None, data.labels[rows], ("",) * len(rows))
                loss(own, batch)["loss"].backward()
            else:
                F.cross_entropy(model(own), data.labels[rows]).backward()
        return model.eval()

    @torch.no_grad()
    def chosen_by_claims(self, method: str, seed: int, part: tuple[Labelled, Embeddings]) -> Tensor:
        """The answers whose captions, with the picture, score best."""
        encoder = load_joint_encoder(self.work / f"pretrained-{seed}")
        data, given = part
        texts = sorted({text for claims in data.claims for text in claims.values()})
        rows = {text: row for row, text in enumerate(texts)}
        claimed = read(encoder, None, texts)
        assert claimed.text is not None
        assert claimed.tokens is not None
        assert given.tokens is not None
        pairs = torch.tensor(
            [[n, rows[t]] for n, claims in enumerate(data.claims) for t in claims.values()]
        )
        if method == "matching":
            scores = pair_scores(encoder, given.tokens["image"], claimed.tokens["text"], pairs)
        else:
            scores = (given.image[pairs[:, 0]] * claimed.text[pairs[:, 1]]).sum(1)
        own = scores.split([len(claims) for claims in data.claims])
        names = [[*claims][int(one.argmax())] for one, claims in zip(own, data.claims, strict=True)]
        return torch.tensor([ANSWERS.index(name) for name in names])


def arms() -> list[str]:
    """All arms: task, method and number of labels."""
    found = [f"questions/{method}/0" for method in UNLABELLED]
    for task in TASKS:
        found.append(f"{task}/majority/{NUM_LABELS[-1]}")
        found += [f"{task}/{m}/{n}" for m, n in product(METHODS, NUM_LABELS)]
    return found


def tune(args: argparse.Namespace) -> None:
    """Run all arms that are missing, seed by seed."""
    measured = Measurement(args.emoji, args.work, args.steps, args.num_test)
    runs = [(arm, seed) for seed in args.seeds for arm in arms()]
    run_missing(args.work / "results.jsonl", runs, measured.run)


def report(args: argparse.Namespace) -> None:
    """Print the tables of the documentation: mean and standard deviation over the seeds."""
    results = read_results(args.work / "results.jsonl")
    most = NUM_LABELS[-1]
    for task in TASKS:
        print(f"\n{task}, accuracy in percent\n\n| method | labels | {' | '.join(PARTS)} |")
        print("|---|---|" + "---|" * len(PARTS))
        own = [f"{method}/0" for method in UNLABELLED] if task == "questions" else []
        for name in (f"majority/{most}", *own, *(f"{method}/{most}" for method in METHODS)):
            method, number = name.split("/")
            cells = [spread(results, f"{task}/{name}", part) for part in PARTS]
            print(f"| {method} | {number} | {' | '.join(cells)} |")
        print(f"\n{task}, held-out compositions, by the number of labels\n")
        print(f"| method | {' | '.join(map(str, NUM_LABELS))} |\n|---|" + "---|" * len(NUM_LABELS))
        for method in METHODS:
            cells = [spread(results, f"{task}/{method}/{n}", "compositions") for n in NUM_LABELS]
            print(f"| {method} | {' | '.join(cells)} |")
        kinds = KINDS if task == "questions" else VERDICTS
        print(f"\n{task}, held-out compositions, by kind\n\n| method | {' | '.join(kinds)} |")
        print("|---|" + "---|" * len(kinds))
        for name in (*own, *(f"{method}/{most}" for method in METHODS)):
            cells = [spread(results, f"{task}/{name}", f"compositions/{kind}") for kind in kinds]
            print(f"| {name.partition('/')[0]} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True)
    for run in (pretrain, tune, report):
        command = commands.add_parser(run.__name__)
        if run is not report:
            command.add_argument("emoji", type=Path)
        command.add_argument("work", type=Path)
        command.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
        steps = PRETRAINING_STEPS if run is pretrain else TUNING_STEPS
        command.add_argument("--steps", type=int, default=steps)
        command.add_argument("--num-test", type=int, default=NUM_TEST)
        command.set_defaults(run=run)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    args.run(args)


if __name__ == "__main__":
    main()
