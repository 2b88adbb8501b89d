"""Ranking of answers in dialogues about pictures of emoji, by few turns.

    python tools/joint_tasks.py pretrain EMOJI WORK
    python tools/joint_dialogues.py tune EMOJI WORK
    python tools/joint_dialogues.py report WORK

A turn is a picture of one or two emoji, an earlier question of another kind with its answer, a
question, and eight candidates: the answers that fit the question, and others. The encoders are
those of ``joint_tasks.py``, whose towers are frozen. ``tune`` trains by ``CandidateLoss`` the
fusion that was trained on captions ("joint") and a new one ("fresh"), and a network on the
embeddings of image and text and their product ("dual"), or of the text ("text"). Without turns the
candidates are ranked by the similarity ("zero-shot") and by the matching logit ("matching").
Measured as by ``joint_tasks.py``. Steps that are done are skipped; ``--seeds 0`` runs one seed.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from emoji_training import read_results, run_missing, spread
from joint_models import LateFusion, new_fusion, read, rows_of, steps_of
from joint_pictures import ANSWERS, PARTS, Question, Scene, World, draw, question
from torch import Tensor, nn
from torch.nn import functional as F

from clipkit.data.text.turns import turn_tokens
from clipkit.losses import CandidateLoss, CombinedLoss, WeightedTerm
from clipkit.metrics import candidate_measures
from clipkit.models import JointEncoder, load_joint_encoder, pair_scores, with_fusion
from clipkit.models.inputs import tokenizer_of
from clipkit.types import Batch, CandidateBatch, Embeddings

SEEDS = (0, 1, 2)
NUM_TEST, NUM_TURNS, NUM_CANDIDATES = 300, (8, 64, 512), 8
STEPS, STEP_FACTORS = 60, dict(zip(NUM_TURNS, (1, 1, 2), strict=True))
BATCH_SIZE, LATE_STEPS = 16, 8
METHODS, UNTRAINED = ("joint", "fresh", "dual", "text"), ("zero-shot", "matching")
MEASURES = ("mrr", "recall_at_1", "recall_at_5")


@dataclass(frozen=True)
class Turns:
    """Turns about pictures, and what the towers make of them.

    Args:
        given: Embeddings and tokens of pictures and questions.
        texts: Embeddings and tokens of all candidates, one turn after the other.
        tokens: Token ids of the candidates.
        correct: Position of the right one of each turn.
    """

    given: Embeddings
    texts: Embeddings
    tokens: Tensor
    correct: Tensor

    @property
    def pairs(self) -> Tensor:
        """Row of the picture, and row of the candidate."""
        rows = torch.arange(len(self.tokens))
        return torch.stack([rows // NUM_CANDIDATES, rows], 1)


def told(scene: Scene, asked: Question, rng: np.random.Generator) -> str:
    """An earlier question of another kind with its answer, or nothing, and the question."""
    for _ in range(8):
        earlier = question(scene, rng)
        if earlier.kind != asked.kind:
            return f"{earlier.text} {earlier.answer} {asked.text}"
    return asked.text


def made(world: World, encoder: JointEncoder, part: str, number: int, seed: int) -> Turns:
    """Turns of a part, the same for all methods."""
    rng = np.random.default_rng([seed, PARTS.index(part) if part in PARTS else 9, 1])
    tokenizer = tokenizer_of(encoder.text_tower)
    pixels, questions, ids, correct = [], [], list[list[int]](), []
    for _ in range(number):
        scene = world.scene(part, rng)
        asked = question(scene, rng)
        others = [one for one in ANSWERS if one not in asked.claims]
        names = [*asked.claims, *rng.permutation(others)[: NUM_CANDIDATES - len(asked.claims)]]
        names = rng.permutation(names).tolist()
        pixels.append(torch.from_numpy(draw(scene)))
        questions.append(asked.text)
        ids += turn_tokens(told(scene, asked, rng), names, tokenizer.encode)
        correct.append(names.index(asked.answer))
    tokens = tokenizer.pad(ids)
    parts = [encoder.read_text(part) for part in tokens.split(512)]
    found = torch.cat([part.embedding for part in parts])
    sequence = encoder.read_text(tokens).tokens
    texts = Embeddings(found, found, encoder.logit_scale, tokens={"text": sequence})
    return Turns(
        read(encoder, torch.stack(pixels), questions), texts, tokens, torch.tensor(correct)
    )


class Measurement:
    """Training on few turns, and measures of the rankings."""

    def __init__(self, emoji: Path, work: Path, steps: int) -> None:
        self.world, self.work, self.steps = World.of(emoji), work, steps
        self._parts: dict[int, dict[str, Turns]] = {}

    @torch.no_grad()
    def parts(self, seed: int) -> dict[str, Turns]:
        """Turns of each part of the test and of training."""
        if seed not in self._parts:
            encoder = self.encoder(seed)
            sizes = {**dict.fromkeys(PARTS, NUM_TEST), "train": NUM_TURNS[-1]}
            self._parts = {
                seed: {n: made(self.world, encoder, n, size, seed) for n, size in sizes.items()}
            }
        return self._parts[seed]

    def encoder(self, seed: int) -> JointEncoder:
        """The encoder that was trained on captions, with frozen towers."""
        encoder = load_joint_encoder(self.work / f"pretrained-{seed}")
        for tower in encoder.towers.values():
            tower.requires_grad_(False)
        return encoder

    def run(self, arm: str, seed: int) -> dict[str, float]:
        """Measures of an arm on each part."""
        method, number = arm.split("/")
        parts = self.parts(seed)
        if method in ("dual", "text"):
            late = self.late(method, parts["train"], int(number), seed)
        else:
            encoder = self.encoder(seed)
            if method in METHODS:
                encoder = self.fused(method, parts["train"], int(number), seed)
        found = dict[str, float]()
        for name in PARTS:
            turns = parts[name]
            with torch.no_grad():
                if method in ("dual", "text"):
                    scores = late(candidates_of(turns))[:, 0]
                elif method == "zero-shot":
                    first, second = turns.pairs.T
                    assert turns.texts.text is not None
                    scores = (turns.given.image[first] * turns.texts.text[second]).sum(1)
                else:
                    assert turns.given.tokens is not None
                    assert turns.texts.tokens is not None
                    images, texts = turns.given.tokens["image"], turns.texts.tokens["text"]
                    scores = pair_scores(encoder, images, texts, turns.pairs)
            measures = candidate_measures(
                list(scores.split(NUM_CANDIDATES)), turns.correct.tolist(), ks=(1, 5)
            )
            found |= {f"{name}/{key}": float(measures[key].mean()) for key in MEASURES}
        return found

    def fused(self, method: str, turns: Turns, number: int, seed: int) -> JointEncoder:
        """Train a fusion by the loss over candidates; towers are read in each step."""
        torch.manual_seed(seed)
        encoder = self.encoder(seed)
        if method == "fresh":
            encoder = with_fusion(encoder, new_fusion())
        encoder.train()
        loss = CombinedLoss(terms={"turns": WeightedTerm(CandidateLoss())})
        own = [encoder.fusion, encoder.token_inputs, encoder.matching]
        parameters = [p for part in own for p in part.parameters()]
        for rows in self._drawn([(parameters, 5e-4)], number, seed, 1):
            given = rows_of(turns.given, rows)
            given.joint = encoder
            tokens = turns.tokens.view(len(turns.correct), NUM_CANDIDATES, -1)[rows].flatten(0, 1)
            counts = torch.full((len(rows),), NUM_CANDIDATES)
            pixels, labels = turns.given.image[rows], torch.full((len(rows),), -100)  # unread
            batch = Batch(
                pixels, None, labels, ("",) * len(rows),
                candidates=CandidateBatch(tokens, counts, turns.correct[rows]),
            )  # fmt: skip
            loss(given, batch)["loss"].backward()
        return encoder.eval()

    def late(self, method: str, turns: Turns, number: int, seed: int) -> nn.Module:
        """Train a network on embeddings by the same loss."""
        torch.manual_seed(seed)
        model, given = LateFusion(1, text_only=method == "text"), candidates_of(turns)
        for rows in self._drawn([(list(model.parameters()), 2e-3)], number, seed, LATE_STEPS):
            places = (rows[:, None] * NUM_CANDIDATES + torch.arange(NUM_CANDIDATES)).flatten()
            own = Embeddings(given.image[places], _text(given)[places], given.logit_scale)
            scores = model(own).view(len(rows), NUM_CANDIDATES)
            F.cross_entropy(scores, turns.correct[rows]).backward()
        return model.eval()

    def _drawn(
        self, groups: list[tuple[list[nn.Parameter], float]], number: int, seed: int, factor: int
    ):
        """Yield the turns of each step."""
        rng = torch.Generator().manual_seed(seed)
        for _ in steps_of(groups, self.steps * STEP_FACTORS[number] * factor):
            yield torch.randperm(number, generator=rng)[:BATCH_SIZE]


def candidates_of(turns: Turns) -> Embeddings:
    """The embeddings of each candidate with its picture."""
    first, second = turns.pairs.T
    return Embeddings(turns.given.image[first], _text(turns.texts)[second], turns.given.logit_scale)


def _text(given: Embeddings) -> Tensor:
    assert given.text is not None
    return given.text


def arms() -> list[str]:
    """All arms: method and number of turns."""
    trained = [f"{method}/{number}" for method, number in product(METHODS, NUM_TURNS)]
    return [*(f"{method}/0" for method in UNTRAINED), *trained]


def tune(args: argparse.Namespace) -> None:
    """Run all arms that are missing, seed by seed."""
    measured = Measurement(args.emoji, args.work, args.steps)
    runs = [(arm, seed) for seed in args.seeds for arm in arms()]
    run_missing(args.work / "dialogues.jsonl", runs, measured.run)


def report(args: argparse.Namespace) -> None:
    """Print the tables of the documentation: mean and standard deviation over the seeds."""
    results = read_results(args.work / "dialogues.jsonl")
    most = NUM_TURNS[-1]
    print(f"| method | turns | {' | '.join(PARTS)} | recall@1 | recall@5 |\n|{'---|' * 7}")
    for name in (*(f"{method}/0" for method in UNTRAINED), *(f"{m}/{most}" for m in METHODS)):
        method, number = name.split("/")
        keys = [*(f"{part}/mrr" for part in PARTS),
                *(f"compositions/recall_at_{k}" for k in (1, 5))]  # fmt: skip
        print(f"| {method} | {number} | {' | '.join(spread(results, name, k) for k in keys)} |")
    print(f"\n| method | {' | '.join(map(str, NUM_TURNS))} |\n|---|" + "---|" * len(NUM_TURNS))
    for method in METHODS:
        cells = [spread(results, f"{method}/{n}", "compositions/mrr") for n in NUM_TURNS]
        print(f"| {method} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True)
    for run in (tune, report):
        command = commands.add_parser(run.__name__)
        if run is tune:
            command.add_argument("emoji", type=Path)
        command.add_argument("work", type=Path)
        command.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
        command.add_argument("--steps", type=int, default=STEPS)
        command.set_defaults(run=run)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
