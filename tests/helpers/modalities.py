"""Three small towers, batches with any subset of modalities, and objectives with their loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn

from clipkit.losses import (
    CombinedLoss,
    ContrastiveLoss,
    LabelLoss,
    LinearSchedule,
    ModalityLabelLoss,
    ModalityPairLoss,
    SigmoidLoss,
    WeightedTerm,
)
from clipkit.models import (
    ImageTower,
    LinearLabelHead,
    MultimodalEncoder,
    SignalTower,
    TextTower,
)
from clipkit.types import Batch, Embeddings, ModalityBatch
from tests.helpers import oracles

SIZE, WIDTH, CLASSES, SHAPE = 22, 6, 4, (2, 5)


@final
class PixelTower(ImageTower):
    """A matrix over all pixels."""

    image_size, interpolation, resize_mode = 2, "bicubic", "shortest"
    image_mean = image_std = (0.5, 0.5, 0.5)

    def __init__(self, embedding_dim: int = WIDTH) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.linear = nn.Linear(12, embedding_dim)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.linear(images.flatten(1))
        return features

    def config(self) -> dict[str, Any]:
        return {"embedding_dim": self.embedding_dim}

    def layer_groups(self) -> list[list[str]]:
        return [[name for name, _ in self.named_parameters()]]


@final
class BagTower(TextTower):
    """A mean over the embeddings of tokens."""

    context_length, vocab_size, pad_id = 5, 20, 0
    tokenizer_name, trims_exactly = "open_clip:ViT-B-32", False

    def __init__(self, embedding_dim: int = WIDTH) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.bag = nn.EmbeddingBag(self.vocab_size, embedding_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        features: Tensor = self.bag(tokens)
        return features

    def config(self) -> dict[str, Any]:
        return {"embedding_dim": self.embedding_dim}

    def layer_groups(self) -> list[list[str]]:
        return [["bag.weight"]]


@final
class SumTower(SignalTower):
    """A matrix over all values."""

    def __init__(
        self, embedding_dim: int = WIDTH, input_shape: tuple[int, ...] = SHAPE, norm: bool = False
    ) -> None:
        super().__init__()
        self.embedding_dim, self.input_shape, self.norm = embedding_dim, tuple(input_shape), norm
        size = int(torch.tensor(self.input_shape).prod())
        self.normed = nn.BatchNorm1d(size) if norm else nn.Identity()
        self.linear = nn.Linear(size, embedding_dim)

    def forward(self, values: Tensor) -> Tensor:
        features: Tensor = self.linear(self.normed(values.flatten(1)))
        return features

    def config(self) -> dict[str, Any]:
        options = {"embedding_dim": self.embedding_dim, "norm": self.norm}
        return {**options, "input_shape": list(self.input_shape)}

    def layer_groups(self) -> list[list[str]]:
        return [[name for name, _ in self.named_parameters()]]


def encoder(bias: bool = False, **options: Any) -> MultimodalEncoder:
    """Three towers, a label head on two of them, and a scale of one pair; always the same."""
    torch.manual_seed(0)
    towers = {"image": PixelTower(), "text": BagTower(), "series": SumTower()}
    heads = {name: LinearLabelHead(WIDTH, CLASSES) for name in ("image", "series")}
    defaults = {"pair_scales": ["text:series"], "logit_bias": -3.0 if bias else None}
    return MultimodalEncoder(towers, heads, **{**defaults, **options}).double()


MASKS: dict[str, Callable[[Tensor], Tensor]] = {
    "some": lambda drawn: drawn > 0.4,
    "not on the second rank": lambda drawn: (drawn > 0.2) & (torch.arange(SIZE) < SIZE // 2),
    "one": lambda drawn: drawn == drawn.max(),
    "none": lambda drawn: drawn > 1,
    "all": lambda drawn: drawn >= 0,
}
"""Which samples have a series, by name."""


def batch(series: str = "some", with_groups: bool = False) -> Batch:
    """Samples of which some have no image, no caption or no series."""
    draw = torch.Generator().manual_seed(1)
    image, text, given = (torch.rand(SIZE, generator=draw) for _ in range(3))
    has_image, has_text, has_series = image > 0.3, text > 0.2, MASKS[series](given)
    labels = torch.randint(0, CLASSES, (SIZE,), generator=draw)
    labels[3:9] = -100
    values = torch.randn(SIZE, *SHAPE, generator=draw)
    pixels = torch.randint(0, 256, (SIZE, 3, 2, 2), generator=draw, dtype=torch.uint8)
    groups = torch.randint(-1, 5, (SIZE,), generator=draw)
    return Batch(
        pixels * has_image[:, None, None, None],
        torch.randint(1, 20, (SIZE, 5), generator=draw),
        labels,
        tuple(str(i) for i in range(SIZE)),
        sample_ids=torch.arange(SIZE),
        groups=groups if with_groups else None,
        pair_mask=has_image & has_text,
        image_present=has_image,
        text_present=has_text,
        modalities={"series": ModalityBatch(values * has_series[:, None, None], has_series)},
    )


PAIRS = {
    "all pairs": [("image", "text", 1.0), ("image", "series", 0.5), ("series", "text", 2.0)],
    "anchor": [("image", "text", 1.0), ("series", "image", 0.7)],
}
LOSSES = {"softmax": ContrastiveLoss, "sigmoid": SigmoidLoss}
LABEL_WEIGHT = 0.3


def objective(pairs: str, kind: str, tile: int | None = 7) -> CombinedLoss:
    """A term per pair of modalities, and the labels of the series."""
    terms = {
        f"{first}_{second}": WeightedTerm(
            ModalityPairLoss(LOSSES[kind](tile), first, second),
            LinearSchedule(weight, weight, length=10),
        )
        for first, second, weight in PAIRS[pairs]
    }
    labels = WeightedTerm(ModalityLabelLoss(LabelLoss(), "series"), LABEL_WEIGHT)
    return CombinedLoss(terms={**terms, "labels": labels})


def naive_objective(pairs: str, kind: str, embeddings: Embeddings, given: Batch) -> Tensor:
    """The same sum by loops over single samples, of the complete batch in one process."""
    series = (embeddings.modalities or {})["series"].values
    have = (given.modalities or {})["series"].present
    rows = {"image": embeddings.image, "text": embeddings.text, "series": series}
    present = {"image": given.image_present, "text": given.text_present, "series": have}
    total = series.new_zeros(())
    for first, second, weight in PAIRS[pairs]:
        both = [i for i in range(len(given)) if present[first][i] and present[second][i]]
        is_own = {first, second} == {"text", "series"}
        scale = embeddings.pair_scales["text:series"] if is_own else embeddings.logit_scale
        groups = None if given.groups is None else given.groups[both].tolist()
        groups = groups and [g if g >= 0 else -1 - i for i, g in enumerate(groups)]
        inputs = rows[first][both], rows[second][both], scale
        if kind == "softmax":
            total = total + weight * oracles.naive_softmax(*inputs, groups)
        else:
            total = total + weight * oracles.naive_sigmoid(*inputs, embeddings.logit_bias, groups)
    labels = [int(y) if there else -100 for y, there in zip(given.labels, have, strict=True)]
    logits = (embeddings.head_logits or {})["series"]
    return total + LABEL_WEIGHT * oracles.naive_label(logits, labels, None, 0.0)


def naive_gradients(pairs: str, kind: str, given: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Value and gradients of every parameter, by loops; 0 where none is reached."""
    model = encoder(bias=kind == "sigmoid")
    value = naive_objective(pairs, kind, model(given), given)
    if value.requires_grad:
        value.backward()
    return value.detach(), {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in model.named_parameters()
    }
