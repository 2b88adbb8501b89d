"""Answers to questions about images, as classes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, final

from clipkit.class_names import read_class_names
from clipkit.data.samples.fields import SampleContext, SampleField
from clipkit.data.shards.members import read_value
from clipkit.errors import ConfigError, SampleError
from clipkit.types import IGNORE_LABEL, Sample

SEPARATOR: Final = ";"
ANSWER_FIELDS: Final = ("json:answers", "json:answer")
"""Where the answers of a sample are, unless a field is named."""
_TEXT_OF_OBJECT: Final = "answer"


def normal_answer(text: str) -> str:
    """Return an answer as answers are compared: in lower case, with single blanks.

    Examples:
        >>> normal_answer(" Light  Blue")
        'light blue'
    """
    return " ".join(text.lower().split())


def read_answers(members: Mapping[str, bytes], field: str | None = None) -> tuple[str, ...]:
    """Return the answers to the question of a sample, one for each person who answered.

    Args:
        members: Members of the sample by extension.
        field: A member, or a field of a JSON member: a text or a number, ``a;b``, a list of them,
            or a list of objects with ``answer``, as in VQA's annotations. Its JSON may be a text.
            None for ``json:answers``, and ``json:answer`` if that has none.

    Returns:
        Answers as ``normal_answer`` returns them, without empty ones; none if the sample has none.

    Raises:
        SampleError: If the value has another form.

    Examples:
        >>> read_answers({"json": b'{"answers": "Two;two;3"}'})
        ('two', 'two', '3')
    """
    if field is None:
        return read_answers(members, ANSWER_FIELDS[0]) or read_answers(members, ANSWER_FIELDS[1])
    value = _parsed(read_value(members, field))
    if value is None:
        return ()
    items = value if isinstance(value, list) else [value]
    texts: list[Any] = [
        item.get(_TEXT_OF_OBJECT) if isinstance(item, dict) else item for item in items
    ]
    if any(isinstance(text, bool) or not isinstance(text, str | int | float) for text in texts):
        raise SampleError(
            f"{field}: expected an answer, or several as a list or a;b, got {str(value)[:80]}"
        )
    answers = (normal_answer(_plain(text)) for text in texts if text == text)  # without NaN
    return tuple(answer for answer in answers if answer)


def _parsed(value: Any) -> Any:
    """Return a list that a cell of a table has as JSON, or with semicolons."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value.split(SEPARATOR)


def _plain(value: str | float) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def majority_answer(answers: Sequence[str]) -> str | None:
    """Return the most frequent answer; of equally frequent ones the first; None without any.

    Examples:
        >>> majority_answer(("red", "blue", "blue"))
        'blue'
    """
    return Counter(answers).most_common(1)[0][0] if answers else None


def most_frequent_answers(given: Iterable[Sequence[str]], number: int) -> list[str]:
    """Return the answers that most questions have as their majority answer, in that order.

    Args:
        given: Answers to each question.
        number: Largest number of answers that are returned.

    Examples:
        >>> most_frequent_answers([("no",), ("yes", "yes", "no"), ("yes",)], 1)
        ['yes']
    """
    counts = Counter(answer for one in given if (answer := majority_answer(one)) is not None)
    ordered = sorted(counts, key=lambda answer: (-counts[answer], answer))
    return ordered[:number]


@final
class Answers(SampleField):
    """The answer to the question about an image as ``batch.labels``, a number in a list of answers.

    The question is the caption. Where several people answered, each pass over the data draws the
    answer of one of them, so that the expected loss is the cross-entropy with the shares of the
    answers as soft targets; validation takes the most frequent answer. Answers that the list lacks
    are left out; a sample without any other has no label, and trains no label head.

    Args:
        answers: The answers in the order of their numbers, or a file with one per line.
        field: Where the answers of a sample are: a member or a field of a JSON member; None for
            ``json:answers`` or ``json:answer``. Their forms are on the page about tasks.
        draws: Whether one of several answers is drawn, instead of the most frequent one.

    Raises:
        ConfigError: If there are fewer than two answers, one of them twice, or the file cannot be
            read.

    Examples:
        >>> Answers(["yes", "no"]).class_names
        ('yes', 'no')
    """

    def __init__(
        self, answers: list[str] | str, field: str | None = None, draws: bool = True
    ) -> None:
        names = answers
        if isinstance(names, str):
            names = read_class_names(names, "Answers.answers")
        self.class_names = checked_answers(names, "Answers.answers")
        self.field, self.draws = field, draws
        self._numbers = {answer: number for number, answer in enumerate(self.class_names)}

    def add(self, sample: Sample, context: SampleContext) -> Sample:
        """See ``SampleField.add``."""
        if not self.draws:
            return replace(sample, label=self.label_of(context.members))
        given = read_answers(context.members, self.field)
        known = [self._numbers[answer] for answer in given if answer in self._numbers]
        if not known:
            return replace(sample, label=IGNORE_LABEL)
        drawn = int(context.rng.integers(len(known))) if len(known) > 1 else 0
        return replace(sample, label=known[drawn])

    def label_of(self, members: Mapping[str, bytes]) -> int:
        """Return the number of the most frequent answer; ``IGNORE_LABEL`` if the list lacks it.

        Args:
            members: Members of the sample by extension.

        Raises:
            SampleError: If the answers have another form.
        """
        best = majority_answer(read_answers(members, self.field))
        return self._numbers.get(best or "", IGNORE_LABEL)

    def for_evaluation(self) -> Answers:
        """Return a field that takes the most frequent answer."""
        return Answers(list(self.class_names), self.field, draws=False)


def checked_answers(names: Sequence[str], option: str) -> tuple[str, ...]:
    """Return a list of answers; refuse one that nothing can be chosen from, and equal ones."""
    answers = tuple(normal_answer(name) for name in names)
    twice = [answer for answer, count in Counter(answers).items() if count > 1]
    if len(answers) < 2 or "" in answers or twice:
        problem = f"{twice[0]!r} twice" if twice else f"{len(answers)}"
        problem = "an empty one" if "" in answers else problem
        raise ConfigError(f"{option}: expected at least two different answers, got {problem}")
    return answers
