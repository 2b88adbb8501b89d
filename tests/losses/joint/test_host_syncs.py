"""Terms over fused tokens on made-up CUDA tensors: where they wait for the GPU, nowhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from packaging.version import Version
from torch import nn

from clipkit.distributed import row_requests
from clipkit.losses import (
    CandidateLoss,
    CombinedLoss,
    FusedLabelLoss,
    FusedStateDistillationLoss,
    MaskedWordDistillationLoss,
    MaskedWordLoss,
    MatchingDistillationLoss,
    MatchingLoss,
    Teacher,
    WeightedTerm,
)
from clipkit.losses.joint import masking, pairs
from clipkit.token_sequences import Fused, TokenSequence
from clipkit.types import CandidateBatch, Embeddings
from tests.helpers.fake_cuda import OBJECTIVES, fake_gpu, fake_ranks, make_step

pytestmark = pytest.mark.skipif(
    Version(torch.__version__) < Version("2.10"), reason="wants a driver for made-up tensors"
)
ROWS, WIDTH, VOCABULARY = 12, 8, 50
WORDS = 49, [0, 48], 0.4


class Stage(nn.Module):
    """A fusion without weights worth the name."""

    vocab_size, fused_names, returned_names = VOCABULARY, ("text", "image"), ("text",)
    num_fused_classes = VOCABULARY

    def __init__(self):
        super().__init__()
        self.words = nn.Parameter(torch.ones(VOCABULARY, WIDTH))

    def fuse(self, tokens):
        states = tokens["text"].values + tokens["image"].values.mean(1, keepdim=True)
        return Fused({"text": states}, states.mean(1))

    def match(self, pooled):
        return pooled @ self.words[0]

    def read_text_tokens(self, tokens):
        return TokenSequence(self.words[tokens], tokens != 0)

    def predict_words(self, states):
        return states @ self.words.T

    def classify_fused(self, pooled):
        return pooled @ self.words.T

    def zero(self):
        return 0 * self.words.sum()


class StageTeacher(Teacher):
    """What the student has made, by another fusion."""

    def __init__(self):
        super().__init__()
        self.stage = Stage()
        self.given: Embeddings | None = None

    def forward(self, batch):
        assert self.given is not None
        return replace(self.given, joint=self.stage)


TERMS = {
    "matching": MatchingLoss,
    "words": lambda: MaskedWordLoss(*WORDS),
    "words in micro-batches": lambda: MaskedWordLoss(*WORDS, micro_batch_size=5),
    "matching of a teacher": MatchingDistillationLoss,
    "words of a teacher": lambda: MaskedWordDistillationLoss(*WORDS),
    "states of a teacher": FusedStateDistillationLoss,
    "candidates": CandidateLoss,
    "labels": FusedLabelLoss,
    "labels in micro-batches": lambda: FusedLabelLoss(micro_batch_size=5),
}


def step(name, num_ranks):
    with torch.device("cuda"):
        term, stage, teacher = TERMS[name](), Stage(), StageTeacher()
        tokens = {
            "image": TokenSequence(torch.randn(ROWS, 3, WIDTH).requires_grad_()),
            "text": TokenSequence(torch.randn(ROWS, 4, WIDTH).requires_grad_(),
                                  torch.ones(ROWS, 4, dtype=torch.bool)),
        }  # fmt: skip
    embeddings, batch = make_step(OBJECTIVES["softmax, groups"], num_ranks)
    with torch.device("cuda"):
        counts = torch.full((ROWS,), 2)
        given = CandidateBatch(torch.ones(2 * ROWS, 4, dtype=torch.int64), counts, counts - 1)
    batch = replace(batch, candidates=given)
    embeddings = teacher.given = replace(embeddings, tokens=tokens, joint=stage)
    source = teacher if term.reads_teacher else None
    loss = CombinedLoss(terms={"term": WeightedTerm(term)}, teacher=source)
    value = loss(embeddings, batch)["loss"]
    assert value.device.type == "cuda"
    assert value.requires_grad


@pytest.mark.parametrize("num_ranks", [1, 8])
@pytest.mark.parametrize("name", TERMS)
def test_fused_terms_wait_for_counts_alone(name, num_ranks, monkeypatch):
    reads = []

    def chosen(counts):
        reads.append("words")
        return [2] * len(counts)

    def wanted(counts):
        reads.append("rows")
        rounds = [[2, *[0] * 7]] * 6 + [[0] * 8] * 2
        return [rounds, rounds]

    monkeypatch.setattr(masking, "on_the_host", chosen)
    monkeypatch.setattr(row_requests, "on_the_host", wanted)
    monkeypatch.setattr(pairs, "gather_numbers", lambda *numbers: [numbers] * num_ranks)
    with fake_ranks(num_ranks), fake_gpu():
        step(name, num_ranks)
    of_words = ["words"] * ("words" in name)
    exchanged = {"matching": 2, "matching of a teacher": 4}.get(name, 0)
    assert reads == of_words + ["rows"] * (exchanged if num_ranks > 1 else 0)


def test_the_number_of_words_is_waited_for():
    with fake_gpu(), pytest.raises(AssertionError, match="waits for the GPU"):
        step("words", 1)
