"""Collect examples of what a model retrieves and predicts on a data set."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final

from clipkit.data.text.tokenizer import Tokenizer
from clipkit.errors import DataError
from clipkit.evaluation.correct_pairs import RetrievalOptions, match_candidates
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.datasets.sample_source import ShownSamples
from clipkit.evaluation.embedding import EmbeddedPairs, embed_pairs
from clipkit.evaluation.evaluators.label_head import LabelHeadClassification
from clipkit.evaluation.evaluators.zero_shot import ZeroShotClassification
from clipkit.evaluation.inference import EmbedOptions
from clipkit.evaluation.memory import remembering
from clipkit.evaluation.outcomes.outcomes import Evaluation
from clipkit.evaluation.report.collect.classification import (
    classifier_content,
    multi_label_content,
    with_average_precisions,
)
from clipkit.evaluation.report.collect.embedding_map import embedding_map
from clipkit.evaluation.report.collect.explanations import explained_pairs
from clipkit.evaluation.report.collect.health import measure_health
from clipkit.evaluation.report.collect.retrieval import (
    Search,
    error_gallery,
    random_gallery,
    recall_curves,
)
from clipkit.evaluation.report.collect.sound_clips import SoundClips, SoundSource
from clipkit.evaluation.report.collect.thumbnails import Thumbnails
from clipkit.evaluation.report.collect.turns import TurnSource, turn_content
from clipkit.evaluation.report.content import Classifier, Examples
from clipkit.models import DualEncoder

_KINDS: Final = ("classification", "multi-label")


@dataclass(frozen=True, slots=True)
class ExampleOptions:
    """How many examples the page shows, and which.

    Args:
        num_queries: Number of queries in each direction, selected at random, and of hits and errors
            of a classifier; half as many errors of retrieval are shown.
        thumbnail_pixels: Longest side of an image in the page, in pixels.
        seed: Seed of every selection.
    """

    num_queries: int = 24
    thumbnail_pixels: int = 112
    seed: int = 0


def build_examples(
    encoder: DualEncoder,
    data: EvaluationDataset,
    *,
    classes: ZeroShotClassification | LabelHeadClassification | None = None,
    tokenizer: Tokenizer | None = None,
    options: EmbedOptions | None = None,
    num_queries: int = 24,
    thumbnail_pixels: int = 112,
    seed: int = 0,
) -> Examples:
    """Collect retrieval examples, map and health of the embeddings, and a classifier's results.

    Args:
        encoder: Model to examine.
        data: Images with captions.
        classes: Classifier whose classes and images are shown; None for none.
        tokenizer: Tokenizer of the captions; None for the text tower's own.
        options: How to compute the embeddings; None for the defaults.
        num_queries: Number of queries in each direction, selected at random.
        thumbnail_pixels: Longest side of an image in the page, in pixels.
        seed: Seed of the selection.

    Returns:
        Examples for ``ReportData``.

    Raises:
        DataError: If the data have no captions.
    """
    with remembering():
        pairs = embed_pairs(encoder, data, options or EmbedOptions(), tokenizer)
        if not pairs.captions:
            raise DataError(f"{data.name}: a gallery needs captions (member .txt), got none")
        evaluations = {} if classes is None else {"": classes.evaluate(encoder)}
    examples = examples_of(
        evaluations,
        {"": data},
        ("", pairs),
        ExampleOptions(num_queries, thumbnail_pixels, seed),
    )
    if tokenizer is not None:  # explanations use the text tower's own
        return examples
    return replace(examples, explanations=explained_pairs(encoder, data, pairs, seed=seed))


def examples_of(
    evaluations: Mapping[str, Evaluation],
    data: Mapping[str, ShownSamples],
    embedded: tuple[str, EmbeddedPairs] | None,
    options: ExampleOptions = ExampleOptions(),
    correct: RetrievalOptions = RetrievalOptions(),
    sounds: Mapping[str, SoundSource] | None = None,
    with_texts: Collection[str] = (),
    turns: Mapping[str, TurnSource] | None = None,
) -> Examples:
    """Collect examples from embeddings and outcomes, without a model.

    Args:
        evaluations: Result of each task by its name.
        data: Images of each task by its name.
        embedded: Name of a task with images, and their embeddings, with or without captions; None
            for no galleries, map and health.
        options: Number, size and selection of the examples.
        correct: Which images and captions match.
        sounds: Sounds of each task that measures sounds, by its name; None for no such task.
        with_texts: Tasks whose images are classified with a text, such as a question.
        turns: Turns of each task that ranks answers, by its name; None for no such task.

    Returns:
        Examples for ``ReportData``.
    """
    classifiers = [
        *_classifiers(evaluations, data, sounds or {}, options, with_texts),
        *_dialogues(evaluations, turns or {}, options),
    ]
    if embedded is None:
        return Examples(classifiers=classifiers)
    (name, pairs), seed = embedded, options.seed
    first_caption: dict[int, str] = {}
    for row, owner in enumerate(pairs.text_to_image.tolist()):
        first_caption.setdefault(owner, pairs.captions[row])
    thumbnails = Thumbnails(data[name], first_caption, options.thumbnail_pixels)
    examples = Examples(
        classifiers=classifiers,
        map=embedding_map(pairs, data[name].class_names, thumbnails, seed),
        health=measure_health(pairs, seed),
    )
    if not pairs.captions:
        return examples
    candidates = match_candidates(pairs, correct, is_complete=False)
    search = Search(data[name].name, candidates, pairs.captions, thumbnails)
    parts = evaluations[name].outcomes if name in evaluations else ()
    return replace(
        examples,
        gallery=random_gallery(search, options.num_queries, seed),
        errors=error_gallery(search, options.num_queries // 2, seed),
        recalls=recall_curves(candidates, parts),
    )


def _classifiers(
    evaluations: Mapping[str, Evaluation],
    data: Mapping[str, ShownSamples],
    sounds: Mapping[str, SoundSource],
    options: ExampleOptions,
    with_texts: Collection[str],
) -> list[Classifier]:
    """Return the first classification of each task: a probe has one for each of its settings."""
    classifiers = []
    for name, evaluation in evaluations.items():
        parts = [part for part in evaluation.outcomes if part.kind in _KINDS]
        if not parts:
            continue
        if parts[0].kind == "multi-label":
            content = multi_label_content(name, parts[0])
        else:
            inputs: Thumbnails | SoundClips | None = None
            if name in data:
                inputs = Thumbnails(data[name], {}, options.thumbnail_pixels)
            elif name in sounds:
                inputs = SoundClips(*sounds[name], {})
            content = classifier_content(
                name, parts[0], inputs, num_images=options.num_queries, seed=options.seed,
                texts=data[name] if name in with_texts else None,
            )  # fmt: skip
        classifiers.append(with_average_precisions(content, evaluation.metrics))
    return classifiers


def _dialogues(
    evaluations: Mapping[str, Evaluation],
    turns: Mapping[str, TurnSource],
    options: ExampleOptions,
) -> list[Classifier]:
    """Return the answers of each task that ranks them."""
    return [
        turn_content(
            name, evaluations[name].outcomes[0], source,
            Thumbnails(source[0], {}, options.thumbnail_pixels),
            num_images=options.num_queries, seed=options.seed,
        )
        for name, source in turns.items()
    ]  # fmt: skip
