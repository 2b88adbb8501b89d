"""Small models of emoji, what they read, and their training: for ``joint_tasks.py``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from emoji_training import write_tokenizer
from joint_pictures import (
    ANSWERS,
    PARTS,
    SIZE,
    VERDICTS,
    Question,
    World,
    caption,
    draw,
    hypothesis,
    question,
)
from torch import Tensor, nn

from clipkit.data import TransformersTokenizer
from clipkit.models import (
    CrossAttentionFusion,
    DualEncoder,
    JointEncoder,
    OpenClipImageTower,
    TransformersTextTower,
    WordHead,
    with_fusion,
)
from clipkit.models.inputs import tokenizer_of
from clipkit.optim import Progress, WarmupCosine
from clipkit.token_sequences import TokenSequence
from clipkit.types import Embeddings

WIDTH, DIM, FUSION = 96, 64, 64
SPECIAL, MASK = (0, 1, 2), 3  # of the tokenizer, whose unknown word no caption has
IMAGE = {
    "embed_dim": DIM,
    "vision_cfg": {
        "image_size": SIZE, "patch_size": 12, "width": WIDTH, "head_width": 32, "layers": 3,
    },
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}  # fmt: skip


@dataclass(frozen=True)
class Labelled:
    """Pictures with texts and their classes.

    Args:
        images: Pixels.
        texts: Questions or hypotheses.
        labels: Numbers of the answers or verdicts.
        kinds: Kind of each question, or verdict.
        claims: Caption of each class that fits; empty for hypotheses.
    """

    images: Tensor
    texts: list[str]
    labels: Tensor
    kinds: list[str]
    claims: list[dict[str, str]]


def labelled(world: World, task: str, part: str, number: int, seed: int) -> Labelled:
    """Labelled pictures of a part, the same for all methods."""
    rng = np.random.default_rng([seed, PARTS.index(part) if part in PARTS else 9])
    rows = []
    for _ in range(number):
        if task == "questions":
            scene = world.scene(part, rng)
            asked = question(scene, rng)
        else:
            scene, text, verdict = hypothesis(world, part, rng)
            asked = Question(text, verdict, verdict, {})
        rows.append((draw(scene), asked))
    names = ANSWERS if task == "questions" else VERDICTS
    return Labelled(
        torch.from_numpy(np.stack([pixels for pixels, _ in rows])),
        [asked.text for _, asked in rows],
        torch.tensor([names.index(asked.answer) for _, asked in rows]),
        [asked.kind for _, asked in rows],
        [asked.claims for _, asked in rows],
    )


def captioned(world: World, number: int, rng: np.random.Generator) -> tuple[Tensor, list[str]]:
    """Pictures of training with captions."""
    scenes = [
        world.covered("train", rng) if rng.random() < 0.3 else world.scene("train", rng)
        for _ in range(number)
    ]
    pixels = torch.from_numpy(np.stack([draw(scene) for scene in scenes]))
    return pixels, [caption(scene, rng) for scene in scenes]


def tokenizer_in(work: Path, world: World) -> TransformersTokenizer:
    """The tokenizer of captions and of the texts of both tasks."""
    rng = np.random.default_rng(0)
    texts = captioned(world, 3000, rng)[1] + [one.name for one in (*world.known, *world.unknown)]
    texts += [question(world.scene("train", rng), rng).text for _ in range(1000)]
    return TransformersTokenizer(str(write_tokenizer(work / "tokenizer", texts, 1200)), 24)


def new_encoder(tokenizer: TransformersTokenizer, path: Path) -> JointEncoder:
    """A ViT of three layers, a BERT of two, and a fusion of two, with random weights."""
    bert = {
        "model_type": "bert", "hidden_size": WIDTH, "num_hidden_layers": 2,
        "num_attention_heads": 3, "intermediate_size": 2 * WIDTH, "max_position_embeddings": 32,
        "pad_token_id": 0, "vocab_size": tokenizer.vocab_size, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip
    text = TransformersTextTower(
        bert, DIM, pretrained=False, context_length=24, tokenizer_name=f"transformers:{path}"
    )
    words = WordHead(FUSION, tokenizer.vocab_size)
    return with_fusion(DualEncoder(OpenClipImageTower(IMAGE), text), new_fusion(), words)


def new_fusion() -> CrossAttentionFusion:
    """Texts that look at images."""
    return CrossAttentionFusion(FUSION, depth=2, num_heads=4, query="text", context=["image"])


def steps_of(groups: Sequence[tuple[list[nn.Parameter], float]], steps: int) -> Iterator[int]:
    """Numbers of steps; after each, the gradients are applied, with a schedule."""
    optimizer = torch.optim.AdamW([{"params": p, "lr": lr} for p, lr in groups], weight_decay=0.05)
    schedule, rates = WarmupCosine(warmup=0.1), [lr for _, lr in groups]
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * schedule.at(Progress(step, steps))
        yield step
        torch.nn.utils.clip_grad_norm_([p for ps, _ in groups for p in ps], 1.0)
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def read(encoder: JointEncoder, images: Tensor | None, texts: Sequence[str]) -> Embeddings:
    """Embeddings and tokens of pictures, if there are any, and of texts."""
    text = encoder.read_text(tokenizer_of(encoder.text_tower)(list(texts)))
    tokens, image = {"text": text.tokens}, text.embedding[:0]
    if images is not None:
        parts = [encoder.read_image(part) for part in images.split(256)]
        image = torch.cat([part.embedding for part in parts])
        tokens["image"] = TokenSequence(torch.cat([part.tokens.values for part in parts]))
    return Embeddings(image, text.embedding, encoder.logit_scale, tokens=tokens, joint=encoder)


def rows_of(given: Embeddings, rows: Tensor) -> Embeddings:
    """The embeddings of some samples."""
    assert given.tokens is not None
    assert given.text is not None
    tokens = {name: one.rows(rows) for name, one in given.tokens.items()}
    return Embeddings(
        given.image[rows], given.text[rows], given.logit_scale, tokens=tokens, joint=given.joint
    )


class LateFusion(nn.Module):
    """A network on embeddings of image and text and their product, or of the text alone."""

    def __init__(self, num_classes: int, text_only: bool) -> None:
        super().__init__()
        self.text_only = text_only
        width = DIM if text_only else 3 * DIM
        self.layers = nn.Sequential(
            nn.Linear(width, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, num_classes)
        )

    def forward(self, given: Embeddings) -> Tensor:
        """Score the classes."""
        assert given.text is not None
        parts = [given.text, given.image, given.text * given.image * DIM**0.5]
        scores: Tensor = self.layers(torch.cat(parts[: 1 if self.text_only else 3], 1) * DIM**0.5)
        return scores


class Fusing(nn.Module):
    """A head on a fusion."""

    def __init__(self, encoder: JointEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, given: Embeddings) -> Tensor:
        """Score the classes."""
        assert given.tokens is not None
        return self.encoder.classify_fused(self.encoder.fuse(given.tokens).pooled)
