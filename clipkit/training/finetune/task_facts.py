"""Facts about the data and the model of a task of images with texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from clipkit.data.packing.hub import pinned
from clipkit.data.packing.sources import open_source
from clipkit.data.samples.answers import majority_answer, most_frequent_answers, read_answers
from clipkit.data.samples.candidates import read_turn
from clipkit.errors import ConfigError, DataError, SampleError
from clipkit.models import JointEncoder
from clipkit.models.checkpoints.kinds import as_dual
from clipkit.models.checkpoints.named import load_towers
from clipkit.training.finetune.facts import (
    BaseModelInfo,
    FinetuneData,
    encoder_config,
    inspect_data,
    model_info,
)

_HEAD_WIDTH: Final = 64
_LARGEST_WIDTH: Final = 512


@dataclass(frozen=True, slots=True)
class TaskModel:
    """A model that a head on a fusion is added to.

    Args:
        base: Facts about its towers; ``base.encoder`` is the model in a configuration.
        fusion_width: Components of the pooled vector of its fusion; None if it has no fusion.
    """

    base: BaseModelInfo
    fusion_width: int | None

    @property
    def new_width(self) -> int:
        """Width of a new fusion: a multiple of 64 near that of the embeddings."""
        width = round(self.base.embedding_dim / 2 / _HEAD_WIDTH) * _HEAD_WIDTH
        return min(_LARGEST_WIDTH, max(_HEAD_WIDTH, width))


def inspect_task_model(model: str, weights: str | None = None) -> TaskModel:
    """Load a model, and return what a configuration needs to start from it.

    Args:
        model: Name of the model, with or without a fusion; see ``clipkit.models.load_model``.
        weights: "average" or "raw" weights of a checkpoint; None for the average if there is one.

    Raises:
        ClipkitError: If the model cannot be loaded, or its fusion is not one of images and texts.
    """
    encoder, kind = load_towers(model, "cpu", weights)
    if not isinstance(encoder, JointEncoder):
        dual = as_dual(encoder, model)
        return TaskModel(model_info(dual, encoder_config(model, kind), kind), None)
    if {*encoder.fused_names} != {"image", "text"}:
        raise ConfigError(
            f"--model: {model}: expected a fusion of images and texts, got one of "
            f"{', '.join(encoder.fused_names)}"
        )
    config = encoder_config(model, kind, "from_joint_checkpoint")
    return TaskModel(model_info(encoder, config, kind), encoder.fusion.width)


def inspect_questions(
    train: Path | str,
    val: Path | str | None = None,
    *,
    num_answers: int = 1000,
    per_class: int | None = None,
    allow_outside: bool = False,
) -> FinetuneData:
    """Count questions and their answers; the classes are the most frequent answers.

    Args:
        train: Table with the columns image, question, and answer or answers, or shards.
        val: Validation data of the same kinds; None for none.
        num_answers: Largest number of answers that are learned.
        per_class: Largest number of questions with the same most frequent answer; None for all.
        allow_outside: Whether the images of a table may be outside of its folder.

    Returns:
        Facts, whose ``class_counts`` are numbers of questions by their most frequent answer.

    Raises:
        DataError: If the data cannot be read, a sample has no question, no sample has an answer, or
            there is only one answer.
    """
    checked = _checked_paths(train, val)
    given: list[tuple[str, ...]] = []
    num_without_question = 0
    items = open_source(checked[0], allow_outside=allow_outside).items
    for number, item in enumerate(items, start=1):
        texts = item.texts()
        num_without_question += not texts.get("txt", b"").strip()
        with _named_sample(train, number):
            given.append(read_answers(texts))
    if num_without_question:
        raise DataError(
            f"{train}: {num_without_question} of {len(items)} samples have no question; add a "
            f"column question next to answer or answers"
        )
    answers = most_frequent_answers(given, num_answers)
    if len(answers) < 2:
        known = f"one ({answers[0]!r})" if answers else "none; add a column answer or answers"
        raise DataError(f"{train}: expected at least two different answers, got {known}")
    counts = Counter(majority_answer(one) for one in given)
    numbers = _at_most([counts[answer] for answer in answers], per_class)
    return FinetuneData(*checked, sum(numbers), numbers, answers)


def inspect_labelled_texts(
    train: Path | str,
    val: Path | str | None = None,
    *,
    per_class: int | None = None,
    allow_outside: bool = False,
) -> FinetuneData:
    """Count images with texts by their class.

    Args:
        train: Table with an image, a text (``hypothesis`` or a caption) and a class in each row, or
            shards.
        val: Validation data of the same kinds; None for none.
        per_class: Largest number of samples of a class; None for all.
        allow_outside: Whether the images of a table may be outside of its folder.

    Raises:
        DataError: If the data cannot be read, or have less than two classes, several classes per
            sample, or no texts.
    """
    data = inspect_data(train, val, allow_outside=allow_outside)
    present = sum(count > 0 for count in data.class_counts)
    if data.multi_label or present < 2:
        found = "lists of classes" if data.multi_label else f"{present or 'no'} classes"
        raise DataError(
            f"{train}: expected one of at least two classes for each image with its text, in a "
            f"column label or class_name, got {found}"
        )
    if not data.has_captions:
        raise DataError(
            f"{train}: expected a text for each image, in a column hypothesis or caption, got "
            f"classes alone; to classify images without texts, leave out --task"
        )
    counts = _at_most(data.class_counts, per_class)
    return replace(data, num_samples=sum(counts), class_counts=counts)


def inspect_turns(
    train: Path | str, val: Path | str | None = None, *, allow_outside: bool = False
) -> FinetuneData:
    """Count the turns of dialogues.

    Args:
        train: Table with the columns image, question, candidates and correct, or shards.
        val: Validation data of the same kinds; None for none.
        allow_outside: Whether the images of a table may be outside of its folder.

    Raises:
        DataError: If the data cannot be read, no sample has candidates, or one has no question.
    """
    checked = _checked_paths(train, val)
    items = open_source(checked[0], allow_outside=allow_outside).items
    num_turns = num_without_question = 0
    for number, item in enumerate(items, start=1):
        texts = item.texts()
        with _named_sample(train, number):
            num_turns += read_turn(texts) is not None
        num_without_question += not texts.get("txt", b"").strip()
    if num_without_question or not num_turns:
        raise DataError(
            f"{train}: expected a question and candidates in each row, in the columns question, "
            f"candidates and correct, got {num_turns} samples with candidates and "
            f"{num_without_question} without a question, of {len(items)}"
        )
    return FinetuneData(*checked, num_turns)


@contextmanager
def _named_sample(train: Path | str, number: int) -> Iterator[None]:
    """Name the data and the sample in an error over its content."""
    try:
        yield
    except SampleError as error:
        raise DataError(f"{train}: sample {number}: {error.reason}") from error


def _at_most(counts: Sequence[int], per_class: int | None) -> list[int]:
    """Return how many samples of each class are trained on."""
    return [count if per_class is None else min(count, per_class) for count in counts]


def _checked_paths(train: Path | str, val: Path | str | None) -> tuple[str, str | None]:
    for option, path in (("--train", train), ("--val", val)):
        if path is not None and not str(path).startswith("hf://") and not Path(path).exists():
            raise DataError(f"{option}: {path}: no such file or folder")
    return pinned(str(train)), None if val is None else pinned(str(val))
