"""Teachers of a joint encoder, and the distillation of a fusion as loops."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from clipkit.losses import (
    CombinedLoss,
    DistillationLoss,
    EncoderTeacher,
    FusedStateDistillationLoss,
    LossTerm,
    MaskedWordDistillationLoss,
    MatchingDistillationLoss,
    MomentumTeacher,
    Teacher,
    WeightedTerm,
)
from clipkit.models import CrossAttentionFusion, JointEncoder, WordHead, with_fusion
from clipkit.types import Batch
from tests.helpers import joint, tiny_models

WIDE = 12
WEIGHTS = {"matching": 0.7, "words": 1.3, "states": 0.4, "similarities": 0.9}


def larger(width: int = WIDE) -> JointEncoder:
    """A teacher of other weights, in float64, of a fusion of other width and depth."""
    vision = {**tiny_models.VIT, "layers": 1, "width": 16, "patch_size": 16}
    text = {**tiny_models.TEXT, "layers": 1, "width": 16}
    dual = tiny_models.encoder(vision, text)
    torch.manual_seed(6)
    fusion = CrossAttentionFusion(width, 2, 2)
    model = with_fusion(dual, fusion, WordHead(width, joint.VOCABULARY)).double()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.2 * torch.randn(value.shape, generator=generator, dtype=value.dtype))
    return model


def momentum_of(model: JointEncoder) -> MomentumTeacher:
    teacher = MomentumTeacher(decay=0.9)
    teacher.follow(model)
    return teacher


def terms(micro_batch_size: int | None = None, width: int = WIDE) -> dict[str, LossTerm]:
    """All terms that read a teacher; the projection has always the same weights."""
    torch.manual_seed(5)
    states = FusedStateDistillationLoss((8, width), micro_batch_size)
    words = MaskedWordDistillationLoss(joint.MASK, joint.SPECIAL, 0.4, micro_batch_size)
    matching = MatchingDistillationLoss(micro_batch_size=micro_batch_size)
    return {
        "matching": matching, "words": words, "states": states, "similarities": DistillationLoss()
    }  # fmt: skip


def objective(micro_batch_size: int | None = None, teacher: Teacher | None = None) -> CombinedLoss:
    given = terms(micro_batch_size)
    weighted = {name: WeightedTerm(loss, WEIGHTS[name]) for name, loss in given.items()}
    return CombinedLoss(terms=weighted, teacher=teacher or EncoderTeacher(larger())).double()


def _pairs(model: JointEncoder, given: Batch) -> Iterator[tuple[int, int]]:
    """Image and caption of each pair that is scored."""
    out = model(given)
    similarities = (out.logit_scale * out.text @ out.image.T).detach()
    for i in range(len(given)):
        if not given.pair_mask[i]:
            continue
        image = joint.naive_negative(given, similarities, i, 0)
        text = joint.naive_negative(given, similarities.T, i, 1)
        pairs = (i, i), (image, i), (i, text)
        yield from ((a, b) for a, b in pairs if a is not None and b is not None)


def _fused(model: JointEncoder, given: Batch, image: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Pooled vector and fused states of a pair, read alone."""
    read = model.read_image(given.images[image : image + 1]).tokens
    fused = model.fuse({"image": read, "text": model.read_text(tokens[None]).tokens})
    return fused.pooled[0], fused.tokens["text"][0]


def naive_matching(model: JointEncoder, teacher: JointEncoder, given: Batch) -> Tensor:
    losses = []
    for image, text in _pairs(model, given):
        own, taught = (
            torch.sigmoid(one.match(_fused(one, given, image, given.tokens[text])[0][None])[0])
            for one in (model, teacher)
        )
        p = taught.detach()
        losses.append(p * (p / own).log() + (1 - p) * ((1 - p) / (1 - own)).log())
    return torch.stack(losses).mean()


def naive_words(model: JointEncoder, teacher: JointEncoder, given: Batch) -> Tensor:
    masked, places = joint.naive_masking(given)
    losses = []
    for row, position in places:
        own, taught = (
            one.predict_words(_fused(one, given, row, masked[row])[1][position][None])[0].softmax(0)
            for one in (model, teacher)
        )
        losses.append((taught.detach() * (taught.detach() / own).log()).sum())
    return torch.stack(losses).mean()


def naive_states(
    model: JointEncoder, teacher: JointEncoder, given: Batch, projection: torch.nn.Linear
) -> Tensor:
    losses = []
    for row in range(len(given)):
        if given.pair_mask[row]:
            own, taught = (
                _fused(one, given, row, given.tokens[row])[0] for one in (model, teacher)
            )
            losses.append(((projection(own) - taught.detach()) ** 2).mean())
    return torch.stack(losses).mean()


def naive_similarities(model: JointEncoder, teacher: JointEncoder, given: Batch) -> Tensor:
    kept, logits = given.pair_mask, []
    for one in (model, teacher):
        out = one(given)
        logits.append(out.logit_scale * out.image[kept] @ out.text[kept].T)
    own, taught = logits[0], logits[1].detach()
    parts = [
        F.kl_div(a.log_softmax(1), b.softmax(1), reduction="batchmean")
        for a, b in ((own, taught), (own.T, taught.T))
    ]
    return (parts[0] + parts[1]) / 2


def naive_terms(
    model: JointEncoder, teacher: JointEncoder, given: Batch, projection: torch.nn.Linear
) -> dict[str, Tensor]:
    return {
        "matching": naive_matching(model, teacher, given),
        "words": naive_words(model, teacher, given),
        "states": naive_states(model, teacher, given, projection),
        "similarities": naive_similarities(model, teacher, given),
    }
