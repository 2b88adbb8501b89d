"""Quality of re-ranking: recall before and after a joint encoder orders the best 20.

    python tools/joint_quality.py prepare FLICKR8K WORK --image-weights LITE0 --text-model MINILM
    python tools/joint_quality.py train WORK --image-weights LITE0 --text-model MINILM
    python tools/joint_quality.py report WORK

FLICKR8K has ``captions.csv`` (file, split, lang, caption) and ``images/``; the English captions are
used. LITE0 is the file that ``tools/lite0_weights.py`` writes; MINILM is a folder with
all-MiniLM-L6-v2. Both towers are frozen, so ``prepare`` reads their tokens once: those of each
training photo as a whole and of two crops. For each seed, ``train`` trains two linear heads on the
mean tokens (the dual encoder), then a fusion on the tokens by ``MatchingLoss`` with the
similarities of the heads, and measures both on the validation part. Each step leaves out 30 % of
the words and half of the patches, against overfitting to 1,400 photos.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from cross_fitted_scores import heads_output, train_heads
from curation_quality import read_photos, shown
from torch import Tensor
from tqdm import tqdm

from clipkit.data import TrainTransform
from clipkit.losses import MatchingLoss
from clipkit.metrics.ranking import PairRanks
from clipkit.metrics.reranking import reranked_pair_ranks
from clipkit.models import (
    CrossAttentionFusion,
    DualEncoder,
    JointEncoder,
    TimmImageTower,
    TransformersTextTower,
    pair_scores,
    with_fusion,
)
from clipkit.models.inputs import tokenizer_of, transform_of
from clipkit.token_sequences import TokenSequence
from clipkit.types import Embeddings

SIZE, CONTEXT, WIDTH, BEST = 128, 32, 128, 20
BATCH, HEAD_STEPS, STEPS, RATE = 64, 300, 300, 1e-3
WORDS_LEFT_OUT, PATCHES_LEFT_OUT = 0.3, 0.5
SCALE = torch.tensor(20.0)
WAYS = ("text_to_image", "image_to_text")


class Tokens(NamedTuple):
    """Tokens of photos, in one or several crops, and of their captions."""

    images: list[Tensor]
    texts: Tensor
    mask: Tensor
    owners: Tensor

    def pooled(self) -> tuple[list[Tensor], Tensor]:
        """Mean tokens, which are the features of both towers before their last layer."""
        mask = self.mask[..., None]
        texts = (self.texts.float() * mask).sum(1) / mask.sum(1)
        return [crop.float().mean(1) for crop in self.images], texts


def encoder_of(args: argparse.Namespace) -> JointEncoder:
    """The towers with a new fusion."""
    image = TimmImageTower(
        "tf_efficientnet_lite0", 256, image_size=SIZE, pretrained=str(args.image_weights)
    )
    text = TransformersTextTower(str(args.text_model), 256, context_length=CONTEXT)
    return with_fusion(DualEncoder(image, text), fusion())


def fusion() -> CrossAttentionFusion:
    """A small fusion: there are 7,000 captions."""
    return CrossAttentionFusion(WIDTH, 1, 2, query="text", context=["image"])


def prepare(args: argparse.Namespace) -> None:
    """Read the tokens of all photos and captions."""
    args.work.mkdir(parents=True, exist_ok=True)
    joint = encoder_of(args).eval()
    for split, crops in (("train", 3), ("val", 1)):
        photos = read_photos(args.flickr8k, split)
        contents = [photo.file.read_bytes() for photo in photos]
        images = [image_tokens(joint, contents, number) for number in range(crops)]
        captions = [caption for photo in photos for caption in photo.captions]
        owners = torch.tensor([row for row, photo in enumerate(photos) for _ in photo.captions])
        found = Tokens(images, *text_tokens(joint, captions), owners)
        torch.save(found._asdict(), args.work / f"{split}.pt")


@torch.no_grad()
def image_tokens(joint: JointEncoder, contents: list[bytes], crop: int) -> Tensor:
    """Patches of photos: the complete ones for crop 0."""
    transform = TrainTransform(SIZE, scale=(0.6, 1.0)) if crop else transform_of(joint.image_tower)
    found = []
    for start in tqdm(range(0, len(contents), 50), desc=f"crop {crop}"):
        pixels = [
            transform(content, np.random.default_rng((crop, start, place)))
            for place, content in enumerate(contents[start : start + 50])
        ]
        found.append(joint.read_image(torch.stack(pixels)).tokens.values.half())
    return torch.cat(found)


@torch.no_grad()
def text_tokens(joint: JointEncoder, captions: list[str]) -> tuple[Tensor, Tensor]:
    """Words of captions, and which are no padding."""
    tokenizer = tokenizer_of(joint.text_tower)
    texts = torch.zeros(len(captions), CONTEXT, 384, dtype=torch.float16)
    mask = torch.zeros(len(captions), CONTEXT, dtype=torch.bool)
    for start in tqdm(range(0, len(captions), 100), desc="captions"):
        tokens = joint.read_text(tokenizer(captions[start : start + 100])).tokens
        assert tokens.mask is not None
        size, length = tokens.mask.shape
        texts[start : start + size, :length] = tokens.values.half()
        mask[start : start + size, :length] = tokens.mask
    return texts, mask


def train(args: argparse.Namespace) -> None:
    """Train and measure every seed."""
    tokens, val = (
        Tokens(**torch.load(args.work / f"{split}.pt", weights_only=True))
        for split in ("train", "val")
    )
    for seed in args.seeds:
        if (args.work / f"measured-{seed}.json").exists():
            continue
        images, texts = tokens.pooled()
        rows = torch.arange(len(images[0]))
        heads = train_heads(images[0], texts, tokens.owners, rows, seed, HEAD_STEPS)
        torch.manual_seed(seed)
        joint = encoder_of(args)
        begin = time.perf_counter()
        fit(joint, tokens, [heads_output(heads, crop, texts) for crop in images])
        seconds = time.perf_counter() - begin
        (crop,), words = val.pooled()
        found = measured(joint.eval(), val, *heads_output(heads, crop, words))
        found["seconds_of_training"] = seconds
        (args.work / f"measured-{seed}.json").write_text(json.dumps(found))
        print(seed, found, flush=True)


def fit(joint: JointEncoder, tokens: Tokens, embedded: list[tuple[Tensor, Tensor]]) -> None:
    """Train the fusion with one caption of each photo per step."""
    parts = (joint.token_inputs, joint.fusion, joint.matching)
    parameters = [each for part in parts for each in part.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.1, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS, pct_start=0.1)
    loss = MatchingLoss()
    for _ in tqdm(range(STEPS), desc="fusion"):
        rows = torch.randperm(len(tokens.images[0]))[:BATCH]
        own = torch.nonzero(tokens.owners == rows[:, None])[:, 1].view(BATCH, -1)
        captions = own.gather(1, torch.randint(own.shape[1], (BATCH, 1)))[:, 0]
        crop = int(torch.randint(len(embedded), ()))
        image, text = embedded[crop]
        given = Embeddings(
            image=image[rows], text=text[captions], logit_scale=SCALE, joint=joint,
            tokens={
                "image": some_patches(tokens.images[crop][rows].float()),
                "text": some_words(tokens.texts[captions].float(), tokens.mask[captions]),
            },
        )  # fmt: skip
        optimizer.zero_grad()
        torch.autograd.backward(loss.term(given, None).value)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()


def some_patches(values: Tensor) -> TokenSequence:
    """Leave out patches."""
    size, count, _ = values.shape
    kept = torch.rand(size, count).argsort(1)[:, : round(count * (1 - PATCHES_LEFT_OUT))]
    return TokenSequence(values[torch.arange(size)[:, None], kept])


def some_words(values: Tensor, mask: Tensor) -> TokenSequence:
    """Leave out words, but never the first one."""
    length = int(mask.sum(1).max())
    kept = torch.rand(mask.shape) >= WORDS_LEFT_OUT
    kept[:, 0] = True
    return TokenSequence(values[:, :length], (mask & kept)[:, :length])


def measured(joint: JointEncoder, val: Tokens, image: Tensor, text: Tensor) -> dict[str, float]:
    """Recalls before and after, by the matching logit alone and with the similarity."""
    words = torch.arange(len(val.owners))
    images, texts = TokenSequence(val.images[0].float()), TokenSequence(val.texts.float(), val.mask)
    found: dict[str, float] = {}
    ways = {
        WAYS[0]: (text, image, torch.stack([words, val.owners], 1), 1),
        WAYS[1]: (image, text, torch.stack([val.owners, words], 1), 0),
    }
    for way, (queries, others, pairs, place) in ways.items():

        def logits(asked: Tensor, flip: int = place) -> Tensor:
            return pair_scores(joint, images, texts, asked.flip(1) if flip else asked)

        def cosines(asked: Tensor, one: Tensor = queries, other: Tensor = others) -> Tensor:
            return SCALE * (one[asked[:, 0]] * other[asked[:, 1]]).sum(1)

        begin = time.perf_counter()
        scores = {
            "before": cosines,
            "matching": logits,
            "sum": lambda asked, z=logits, s=cosines: z(asked) + s(asked),
        }
        for name, score in scores.items():
            ranks = reranked_pair_ranks(queries, others, pairs, BEST, score)
            for k in (1, 5):
                found[f"{name}/{way}/recall_at_{k}"] = recall_of(ranks, k, len(queries))
        found[f"{way}/seconds_per_query"] = (time.perf_counter() - begin) / (2 * len(queries))
    return found


def recall_of(ranks: PairRanks, k: int, num_queries: int) -> float:
    """Share of queries with a correct candidate among the best k."""
    hit = torch.zeros(num_queries, dtype=torch.bool)
    hit[ranks.query[ranks.incorrect + ranks.correct < k]] = True
    return float(hit.double().mean())


def report(args: argparse.Namespace) -> None:
    """Print the mean of the seeds, and the least and greatest value."""
    files = sorted(args.work.glob("measured-*.json"))
    metrics = [json.loads(file.read_text()) for file in files]
    print(f"{len(files)} seeds, the best {BEST} of each query re-ranked")
    for way in WAYS:
        for name in ("recall_at_1", "recall_at_5"):
            before, *after = (
                [each[f"{kind}/{way}/{name}"] for each in metrics]
                for kind in ("before", "matching", "sum")
            )
            changes = [new - old for old, new in zip(before, after[1], strict=True)]
            cells = " | ".join(shown(values) for values in (before, *after, changes))
            print(f"| {way} {name} | {cells} |")
    for name in ("seconds_of_training", *(f"{way}/seconds_per_query" for way in WAYS)):
        print(name, [round(each[name], 4) for each in metrics])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True)
    preparing, training, reporting = map(commands.add_parser, ("prepare", "train", "report"))
    preparing.add_argument("flickr8k", type=Path)
    for command in (preparing, training, reporting):
        command.add_argument("work", type=Path)
    for command in (preparing, training):
        command.add_argument("--image-weights", type=Path, required=True)
        command.add_argument("--text-model", type=Path, required=True)
    training.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    preparing.set_defaults(run=prepare)
    training.set_defaults(run=train)
    reporting.set_defaults(run=report)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
