"""Rollout, Grad-CAM and the tokens of words."""

from __future__ import annotations

import pytest
import torch

from clipkit.data import tokenizer_from_name
from clipkit.models.explanation.recording import Attention
from clipkit.models.explanation.relevance import grad_cam, is_chain, roll_out, scaled
from clipkit.models.explanation.words import find_tokens, find_words

LAYERS, HEADS, TOKENS = 3, 2, 5


@pytest.fixture
def layers():
    generator = torch.Generator().manual_seed(0)
    attentions = torch.randn(LAYERS, HEADS, TOKENS, TOKENS, generator=generator).softmax(-1)
    gradients = torch.randn(LAYERS, HEADS, TOKENS, TOKENS, generator=generator)
    return attentions, gradients


def matrix_form(attentions, gradients):
    """Equations 5 and 6 of the paper, with a matrix of all pairs of tokens."""
    relevance = torch.eye(TOKENS)
    for attention, gradient in zip(attentions, gradients, strict=True):
        relevance = relevance + (attention * gradient).clamp(min=0).mean(0) @ relevance
    return relevance - torch.eye(TOKENS)


def test_rollout_is_that_of_the_paper(layers):
    attentions, gradients = layers
    gradients[-1, :, 1:] = 0  # only the class token is read
    relevance = roll_out(attentions, gradients, [True] * LAYERS)
    torch.testing.assert_close(relevance, matrix_form(attentions, gradients)[0])


def test_the_mean_of_all_tokens(layers):
    attentions, gradients = layers
    relevance = roll_out(attentions, gradients, [True] * LAYERS)
    torch.testing.assert_close(relevance, matrix_form(attentions, gradients).mean(0))


def test_a_last_layer_of_the_class_token_only(layers):
    attentions, gradients = layers
    gradients[-1, :, 1:] = 0
    complete = roll_out(attentions, gradients, [True] * LAYERS)
    short = roll_out(
        [*attentions[:-1], attentions[-1][:, :1]], [*gradients[:-1], gradients[-1][:, :1]],
        [True] * LAYERS,
    )  # fmt: skip
    torch.testing.assert_close(short, complete)


def test_trained_queries_have_no_residual_connection(layers):
    attentions, gradients = layers
    pool, change = torch.rand(HEADS, 1, TOKENS), torch.randn(HEADS, 1, TOKENS)
    relevance = roll_out([*attentions, pool], [*gradients, change], [True] * LAYERS + [False])
    pooled = (pool * change).clamp(min=0).mean(0)[0]
    expected = pooled @ (matrix_form(attentions, gradients) + torch.eye(TOKENS))
    torch.testing.assert_close(relevance, expected)


def test_small_gradients_are_not_lost_beside_the_residual_connection(layers):
    attentions, gradients = layers
    relevance = roll_out(attentions[-1:], 1e-12 * gradients[-1:], [True])
    torch.testing.assert_close(
        scaled(relevance), scaled(roll_out(attentions[-1:], gradients[-1:], [True]))
    )
    assert roll_out(attentions, 0 * gradients, [True] * LAYERS).tolist() == [0] * TOKENS


def test_a_chain_reads_all_tokens_of_the_layer_before():
    def layer(queries, keys, batch=1):
        return Attention(torch.zeros(batch, HEADS, queries, keys), None)

    assert is_chain([layer(5, 5), layer(5, 5), layer(1, 5)])
    assert is_chain([layer(9, 5), layer(1, 9)])
    assert not is_chain([])
    assert not is_chain([layer(4, 4, batch=4)])  # windows
    assert not is_chain([layer(16, 4)] * 2)  # fewer keys than tokens


def test_grad_cam_weights_channels_and_drops_what_is_negative():
    features, gradient = torch.randn(4, 3, 2), torch.randn(4, 3, 2)
    expected = torch.zeros(3, 2)
    for channel in range(4):
        expected += gradient[channel].mean() * features[channel]
    torch.testing.assert_close(grad_cam(features, gradient), expected.relu())


@pytest.mark.parametrize(
    ("values", "expected"), [([1, 4, -2], [0.25, 1, 0]), ([-1, 0], [0, 0]), ([], [])]
)
def test_the_largest_relevance_is_one(values, expected):
    assert scaled(torch.tensor(values, dtype=torch.float64)).tolist() == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a  dog,\nrunning ", ["a", "dog,", "running"]),
        ("犬 and 猫です", ["犬", "and", "猫", "で", "す"]),
        ("  ", []),
        ("🐕‍🦺 é", ["🐕‍🦺", "é"]),
    ],
)
def test_words(text, words):
    assert [text[place] for place in find_words(text)] == words


@pytest.mark.parametrize("text", ["a photo of two extraordinarily large chihuahuas", "Œuvre, 2nd!"])
def test_tokens_of_words_are_those_of_the_word_alone(text):
    tokenizer = tokenizer_from_name("open_clip:ViT-B-32", context_length=77)
    ids = tokenizer.encode(text)
    spans = find_tokens(text, tokenizer.encode)
    assert [ids[span] for span in spans] == [tokenizer.encode(w)[1:-1] for w in text.split()]
    assert spans[0].start == 1
    assert spans[-1].stop == len(ids) - 1


def test_truncated_words_have_no_tokens():
    tokenizer = tokenizer_from_name("open_clip:ViT-B-32", context_length=5)
    spans = find_tokens("a red and blue square", tokenizer.encode)
    assert [span.stop - span.start for span in spans] == [1, 1, 1, 0, 0]


def test_a_very_long_text_is_encoded_until_it_is_truncated():
    tokenizer = tokenizer_from_name("open_clip:ViT-B-32", context_length=5)
    calls = []
    find_tokens("dog " * 5000, lambda text: calls.append(text) or tokenizer.encode(text))
    assert len(calls) < 10


@pytest.mark.parametrize("end", [[], [1]])
def test_tokenizers_without_a_start_or_with_an_end(end):
    def letters(text):
        return [*(ord(letter) for letter in text if letter != " "), *end]

    spans = find_tokens("ab cde", letters)
    assert [(span.start, span.stop) for span in spans] == [(0, 2), (2, 5)]
