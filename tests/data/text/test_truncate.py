"""Captions cut on the device are those that the tokenizer cuts."""

from __future__ import annotations

import pytest
import torch

from clipkit.data.text.tokenizer import Tokenizer
from clipkit.data.text.tokenizers import tokenizer_from_name
from clipkit.data.text.truncate import truncate_tokens, truncation_token

CAPTIONS = [
    "a dog",
    "!",
    "wow ! ! ! ! ! ! ! !",
    "a small dog runs over the wet grass of a big garden",
    "",
]


class Words(Tokenizer):
    """Length of each word, between optional marks."""

    name = "words"
    vocab_size = 100

    def __init__(self, context_length: int, end: int | None, pad_id: int) -> None:
        self.context_length, self.end, self.pad_id = context_length, end, pad_id

    def encode(self, text: str) -> list[int]:
        words = [20 + ord(word[0]) % 50 for word in text.split()]
        if self.end is None:
            return words[: self.context_length]
        return [*words[: self.context_length - 1], self.end]


@pytest.mark.parametrize("length", [3, 4, 7, 12, 16])
def test_of_clip_s_tokenizer(length):
    whole = tokenizer_from_name("open_clip:ViT-B-32", 16)
    short = tokenizer_from_name("open_clip:ViT-B-32", length)
    tokens = whole(CAPTIONS)
    expected = short(CAPTIONS)
    cut = truncate_tokens(tokens, length, whole.pad_id, truncation_token(whole))
    assert torch.equal(cut[:, : expected.shape[1]], expected)
    assert (cut[:, expected.shape[1] :] == 0).all()
    assert torch.equal(tokens, whole(CAPTIONS)), "the batch's own tokens were changed"


@pytest.mark.parametrize(("end", "pad_id"), [(9, 0), (1, 1), (None, 0)])
def test_of_tokenizers_with_other_ends(end, pad_id):
    """An end of its own, an end that is also the padding (SigLIP), and none at all."""
    whole = Words(12, end, pad_id)
    assert truncation_token(whole) == end
    for length in range(3, 12):
        expected = Words(length, end, pad_id)(CAPTIONS)
        assert torch.equal(truncate_tokens(whole(CAPTIONS), length, pad_id, end), expected)
