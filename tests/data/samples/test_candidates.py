"""Turns of dialogues, from a table or shards to the batch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from clipkit.data import (
    AnswerCandidates,
    EvalTransform,
    OpenClipTokenizer,
    OptionalCaption,
    PairStream,
    SampleOptions,
    ShardIndex,
    TurnFields,
)
from clipkit.data.samples.candidates import read_turn
from clipkit.data.text.turns import turn_tokens
from clipkit.errors import ConfigError, SampleError
from tests.helpers import turns
from tests.helpers.factories import pair, write_shard

TURN = {"question": "is it?", "candidates": ["yes", "no", "perhaps"], "correct": 1}


def turn_of(**changes):
    return read_turn({"json": json.dumps({**TURN, **changes}).encode()})


def test_a_turn_is_read_as_json_gives_it_and_as_a_table_does():
    full = turn_of(history=["a cat .", " is it black ? no ."], relevance=[0, 1, 0.5])
    assert full.context == "a cat . is it black ? no . is it?"
    assert (full.candidates, full.correct, full.relevance) == (
        ("yes", "no", "perhaps"), 1, (0.0, 1.0, 0.5),
    )  # fmt: skip
    of_table = turn_of(
        history='["a cat .", "is it black ? no ."]',
        candidates='["yes", "no", "perhaps"]',
        correct=" 1 ",
        relevance="[0, 1, 0.5]",
    )
    assert of_table == full
    assert turn_of(history="a cat .", correct=1.0).context == "a cat . is it?"
    assert turn_of(candidates=None) is None
    assert turn_of(candidates=" ") is None
    assert read_turn(pair(0)) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"candidates": ["yes"]}, "json:candidates: expected at least two"),
        ({"candidates": ["yes", " "]}, "none of them empty"),
        ({"candidates": ["yes", 3]}, "at least two texts"),
        ({"candidates": "yes;no"}, "expected a JSON list"),
        ({"candidates": {"a": 1}}, "expected a list"),
        ({"correct": 3}, "json:correct: expected a position from 0 to 2, got 3"),
        ({"correct": -1}, "got -1"),
        ({"correct": True}, "got True"),
        ({"correct": None}, "got None"),
        ({"correct": "no"}, "got 'no'"),
        ({"correct": 0.5}, "got 0.5"),
        ({"correct": float("inf")}, "got inf"),
        ({"correct": "²"}, "position"),
        ({"correct": "9" * 6000}, "position"),
        ({"history": 4}, "json:history: expected a text"),
        ({"history": ["a", 4]}, "json:history: expected a text"),
        ({"relevance": [1, 0]}, "json:relevance: expected 3 numbers"),
        ({"relevance": [1, 0, "x"]}, "3 numbers"),
        ({"relevance": [1, 0, -1]}, "at least 0"),
        ({"relevance": [1, 0, 10**400]}, "at least 0"),
        ({"relevance": [1, 0, float("nan")]}, "at least 0"),
    ],
)
def test_what_is_no_turn_is_a_fault_that_names_the_field(changes, reason):
    with pytest.raises(SampleError, match=reason):
        turn_of(**changes)


def test_the_start_of_a_long_dialogue_is_removed_and_answers_stay():
    tokenizer = OpenClipTokenizer(context_length=16)
    context = "one two three four five six seven eight nine ten eleven twelve is it red ?"
    answers = ["yes", "no", "not that i can see"]
    tokens = turn_tokens(context, answers, tokenizer.encode)
    alone = [tokenizer.encode(answer)[1:] for answer in answers]
    assert [ids[-len(own) :] for ids, own in zip(tokens, alone, strict=True)] == alone
    assert max(map(len, tokens)) in (15, 16)
    heads = {tuple(ids[: len(ids) - len(own)]) for ids, own in zip(tokens, alone, strict=True)}
    assert len(heads) == 1  # one context for all answers
    kept = tuple(tokenizer.encode("eleven twelve is it red ?")[:-1])
    assert heads.pop()[-4:] == kept[-4:]
    short = turn_tokens("is it red ?", answers, tokenizer.encode)
    assert short == [tokenizer.encode(f"is it red ? {answer}") for answer in answers]


def test_an_answer_that_is_too_long_alone_is_truncated():
    tokenizer = OpenClipTokenizer(context_length=8)
    (tokens,) = turn_tokens("what is it ?", ["a b c d e f g h i j"], tokenizer.encode)
    assert tokens == tokenizer.encode("a b c d e f g h i j")
    assert turn_tokens("what", [], tokenizer.encode) == []
    assert turn_tokens("", ["yes"], tokenizer.encode) == [tokenizer.encode("yes")]


def stream(path, field, batch_size=6):
    samples = SampleOptions(fields=[field], caption=OptionalCaption())
    return PairStream(
        ShardIndex.from_urls(str(path)), tokenizer=OpenClipTokenizer(), batch_size=batch_size,
        image_transform=EvalTransform(16), samples=samples,
    )  # fmt: skip


def test_batches_hold_the_right_answer_and_drawn_others(tmp_path):
    samples = [(f"{i:03d}", turns.members(i)) for i in range(4)]
    path = write_shard(tmp_path / "0.tar", [*samples, ("none", pair(1)), ("more", pair(2))])
    seen = set()
    for number, counts in ((None, 4), (2, 2), (9, 4)):
        (batch,) = stream(path, AnswerCandidates(number))
        given = batch.candidates
        assert given.counts.tolist() == [0 if len(key) == 4 else counts for key in batch.keys]
        rows = given.tokens.split(given.counts.tolist())
        for key, own, correct in zip(batch.keys, rows, given.correct.tolist(), strict=True):
            if len(key) == 4:
                assert correct == -1
                continue
            turn = read_turn(turns.members(int(key)))
            (right,) = turn_tokens(turn.context, [turn.candidates[turn.correct]],
                                   OpenClipTokenizer().encode)  # fmt: skip
            assert own[correct][: len(right)].tolist() == right
            assert len({tuple(row.tolist()) for row in own}) == len(own)
            seen.add((number, tuple(own[:, -4:].flatten().tolist())))
        moved = batch.to("cpu").candidates
        assert torch.equal(moved.tokens, given.tokens)
        assert any(one is given.counts for one in batch.tensors())
    still = AnswerCandidates(2).for_evaluation()
    turn = read_turn(turns.members(0))
    assert {tuple(still._chosen(turn, np.random.default_rng(s))) for s in range(9)} == {(0, 1)}
    drawn = AnswerCandidates(2)
    assert len({tuple(drawn._chosen(turn, np.random.default_rng(s))) for s in range(20)}) == 3


def test_answers_equal_to_the_right_one_are_no_candidates():
    turn = turn_of(candidates=["no", "yes", " no ", "no"], correct=2)
    assert AnswerCandidates()._chosen(turn, np.random.default_rng(0)) == [1, 2]


def test_options_are_checked_and_fields_have_other_names():
    with pytest.raises(ConfigError, match="AnswerCandidates"):
        AnswerCandidates(1)
    fields = TurnFields(candidates="json:answer_options", correct="json:gt_index")
    data = {"json": b'{"question": "q", "answer_options": ["a", "b"], "gt_index": 0}'}
    assert read_turn(data, fields).candidates == ("a", "b")
