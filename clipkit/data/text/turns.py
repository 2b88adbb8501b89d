"""Texts of a dialogue turn: what was said before, with each of several answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def turn_tokens(
    context: str, answers: Sequence[str], encode: Callable[[str], list[int]]
) -> list[list[int]]:
    """Encode each answer after the end of a context that leaves room for the longest of them.

    A tokenizer truncates the end of a text, which is the answer: of a long dialogue, all answers
    would be equal. Therefore words are removed from the start of the context, for all answers the
    same number, so that no answer is told by its context.

    A text that fills the length exactly counts as too long.

    Args:
        context: What was said before, and the question.
        answers: The answers.
        encode: Encoder of a text, which truncates long ones at their end.

    Examples:
        >>> encode = lambda text: text.split()[:4]
        >>> turn_tokens("is it red ? is it blue ?", ["yes", "no idea"], encode)
        [['?', 'yes'], ['?', 'no', 'idea']]
    """
    words = context.split()
    longest = max(answers, key=lambda answer: len(encode(answer)), default="")
    first, last = 0, len(words)  # the first words that may have to be removed
    while first < last:
        middle = (first + last) // 2
        if _fits(_joined(words[middle:], longest), encode):
            last = middle
        else:
            first = middle + 1
    return [encode(_joined(words[first:], answer)) for answer in answers]


def _joined(words: Sequence[str], answer: str) -> str:
    return " ".join([*words, answer]).strip()


def _fits(text: str, encode: Callable[[str], list[int]]) -> bool:
    """Return whether one more word still makes more tokens, so that nothing is truncated."""
    return len(encode(f"{text} a")) > len(encode(text))
