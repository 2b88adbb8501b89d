"""Turns of a dialogue about an image: a question, and several answers of which one is right."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, final

import numpy as np
import torch

from clipkit.data.samples.fields import SampleContext, SampleField
from clipkit.data.shards.members import read_value
from clipkit.data.text.turns import turn_tokens
from clipkit.errors import ConfigError, SampleError
from clipkit.types import CandidateSample, Sample

_FEWEST: Final = 2
_POSITION: Final = re.compile("[0-9]{1,9}")


@dataclass(frozen=True)  # no slots: jsonargparse reads a default instance with vars()
class TurnFields:
    """Fields of a JSON member that hold a turn.

    Args:
        history: What was said before: a text, or a list of texts; a sample may lack it.
        question: The question.
        candidates: List of the answers that are ranked.
        correct: Position of the right answer in that list, from 0.
        relevance: List of numbers from 0, how good each answer is; a sample may lack it.
    """

    history: str = "json:history"
    question: str = "json:question"
    candidates: str = "json:candidates"
    correct: str = "json:correct"
    relevance: str = "json:relevance"


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn of a dialogue.

    Args:
        context: What was said before, and the question.
        candidates: At least two answers.
        correct: Position of the right one.
        relevance: How good each answer is, from 0; None if that is unknown.
    """

    context: str
    candidates: tuple[str, ...]
    correct: int
    relevance: tuple[float, ...] | None = None


def read_turn(members: Mapping[str, bytes], fields: TurnFields = TurnFields()) -> Turn | None:
    """Read the turn of a sample; None if it has no list of candidates.

    Args:
        members: Files of the sample by extension.
        fields: Fields that hold the turn. Lists may be given as JSON in a text, as in a CSV table.

    Raises:
        SampleError: If the right answer is not one of at least two candidates, or a field has
            another form.

    Examples:
        >>> data = b'{"question": "is it red?", "candidates": ["yes", "no"], "correct": 1}'
        >>> read_turn({"json": data})
        Turn(context='is it red?', candidates=('yes', 'no'), correct=1, relevance=None)
    """
    listed = _listed(read_value(members, fields.candidates), fields.candidates)
    if listed is None:
        return None
    if len(listed) < _FEWEST or not all(isinstance(t, str) and t.strip() for t in listed):
        raise SampleError(
            f"{fields.candidates}: expected at least two texts, none of them empty, got "
            f"{listed!r:.80}"
        )
    correct = _position(read_value(members, fields.correct), len(listed), fields.correct)
    parts = [
        *_texts(read_value(members, fields.history), fields.history),
        *_texts(read_value(members, fields.question), fields.question),
    ]
    relevance = _relevance(read_value(members, fields.relevance), len(listed), fields.relevance)
    return Turn(" ".join(parts), tuple(text.strip() for text in listed), correct, relevance)


def _listed(value: Any, field: str) -> list[Any] | None:
    """Return a list, which a table may hold as JSON; None for an absent one."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise SampleError(f"{field}: expected a JSON list, got {value!r:.80}") from None
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, list):
        raise SampleError(f"{field}: expected a list, got {value!r:.80}")
    return value


def _position(value: Any, size: int, field: str) -> int:
    """Return the position of the right answer; a table without types holds it as text."""
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    text = text.strip()
    is_number = not isinstance(value, bool) and _POSITION.fullmatch(text) is not None
    if not is_number or int(text) >= size:
        raise SampleError(f"{field}: expected a position from 0 to {size - 1}, got {value!r:.80}")
    return int(text)


def _texts(value: Any, field: str) -> list[str]:
    """Return the texts of a field in their order: one, several, or none."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _listed(value, field)
    texts = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise SampleError(f"{field}: expected a text or a list of texts, got {value!r:.80}")
    return [text.strip() for text in texts if text.strip()]


def _relevance(value: Any, size: int, field: str) -> tuple[float, ...] | None:
    listed = _listed(value, field)
    if listed is None:
        return None
    is_number = [isinstance(one, int | float) and not isinstance(one, bool) for one in listed]
    if len(listed) != size or not all(is_number):
        raise SampleError(f"{field}: expected {size} numbers, one per candidate, got {value!r:.80}")
    try:
        numbers = tuple(float(one) for one in listed)
    except OverflowError:
        numbers = (math.inf,)
    if not all(math.isfinite(one) and one >= 0 for one in numbers):
        raise SampleError(f"{field}: expected numbers of at least 0, got {value!r:.80}")
    return numbers


@final
class AnswerCandidates(SampleField):
    """Answers to the question of a dialogue turn: ``batch.candidates``, for ``CandidateLoss``.

    Each text is what was said before, the question, and one answer; words are removed from the
    start of what is too long (``turn_tokens``). Answers equal to the right one are no candidates. A
    sample without a list of candidates has none, and
    is left out of the loss.

    Args:
        number: Number of candidates per sample: the right one, and others drawn with the sample's
            random numbers; null for all. Validation takes the first of the others. ``clipkit
            evaluate`` always ranks all.
        turn: Fields that hold a turn.

    Raises:
        ConfigError: If ``number`` is less than 2.

    Examples:
        >>> AnswerCandidates(number=8).turn.candidates
        'json:candidates'
    """

    def __init__(self, number: int | None = None, turn: TurnFields = TurnFields()) -> None:
        if number is not None and number < _FEWEST:
            raise ConfigError(
                f"AnswerCandidates.number: expected at least 2, the right answer and another one, "
                f"got {number}"
            )
        self.number, self.turn = number, turn
        self._draws = True

    def add(self, sample: Sample, context: SampleContext) -> Sample:
        """See ``SampleField.add``."""
        turn = read_turn(context.members, self.turn)
        if turn is None:
            return replace(sample, candidates=CandidateSample())
        chosen = self._chosen(turn, context.rng)
        texts = [turn.candidates[at] for at in chosen]
        tokens = tuple(
            torch.tensor(ids, dtype=torch.int64)
            for ids in turn_tokens(turn.context, texts, context.encode)
        )
        return replace(sample, candidates=CandidateSample(tokens, chosen.index(turn.correct)))

    def for_evaluation(self) -> AnswerCandidates:
        """See ``SampleField.for_evaluation``."""
        field = AnswerCandidates(self.number, self.turn)
        field._draws = False
        return field

    def _chosen(self, turn: Turn, rng: np.random.Generator) -> list[int]:
        """Return the positions of the candidates that are used, in their order."""
        right = turn.candidates[turn.correct]
        others = [at for at, text in enumerate(turn.candidates) if text != right]
        if self.number is not None and len(others) >= self.number:
            count = self.number - 1
            drawn = rng.choice(len(others), count, replace=False) if self._draws else range(count)
            others = [others[at] for at in drawn]
        return sorted([turn.correct, *others])
