"""Evaluate a model and write a page, and an image of the confusion matrix of each classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, cast

from clipkit.atomic_files import write_bytes
from clipkit.distributed.collectives import rank
from clipkit.evaluation.comparison.intervals import metric_intervals
from clipkit.evaluation.correct_pairs import RetrievalOptions
from clipkit.evaluation.datasets.sample_source import ShownSamples
from clipkit.evaluation.embedding import EmbeddedPairs
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.evaluators.class_report import Classifying, PerClass
from clipkit.evaluation.evaluators.joint.classification import JointClassification
from clipkit.evaluation.evaluators.joint.dialogue import DialogueRanking
from clipkit.evaluation.evaluators.joint.question_answering import QuestionAnswering
from clipkit.evaluation.evaluators.reranked_retrieval import RerankedEvaluation, RerankedRetrieval
from clipkit.evaluation.evaluators.retrieval import Retrieval
from clipkit.evaluation.evaluators.suite import joined
from clipkit.evaluation.memory import remembering
from clipkit.evaluation.outcomes.outcomes import Evaluation
from clipkit.evaluation.report.collect.evaluator_data import (
    compared_modalities,
    embedded_pairs,
    images_of,
    sounds_of,
)
from clipkit.evaluation.report.collect.examples import examples_of
from clipkit.evaluation.report.collect.explanations import explained_pairs
from clipkit.evaluation.report.collect.matches import explained_matches
from clipkit.evaluation.report.collect.modalities import (
    Compared,
    compared_images,
    modality_galleries,
)
from clipkit.evaluation.report.collect.reranking import reranking_of
from clipkit.evaluation.report.collect.sound_clips import SoundSource
from clipkit.evaluation.report.collect.turns import TurnSource
from clipkit.evaluation.report.content import (
    Examples,
    Explanation,
    ReportData,
    Result,
    RunDetails,
)
from clipkit.evaluation.report.page import write_report
from clipkit.evaluation.report.sections.confusion_image import confusion_png
from clipkit.models import DualEncoder, TowerEncoder
from clipkit.models.named_towers import NamedTowerEncoder

_OF_CLASS: Final = ("precision/", "recall/", "f1/", "average_precision/", "auroc/")


@dataclass(frozen=True, slots=True)
class Measured:
    """What a page is written from.

    Args:
        evaluations: Result of each evaluator by its name.
        data: Images of each evaluator by its name; evaluators without images are left out.
        embedded: Name of the evaluator whose embeddings are shown, and the embeddings; None if no
            evaluator embedded images.
        explanations: Parts of images and captions that carry a match, of some matches.
        correct: Which images and captions match.
        compared: Retrieval between modalities; None if there was none.
        sounds: Sounds of each evaluator of sounds, by its name.
        with_texts: Names of the evaluators of images with texts, such as questions.
        matches: Parts of images and captions that carry the matching logit of a joint encoder.
        reranked: Retrieval before and after re-ranking, and its samples; None without it.
        turns: Turns of each evaluator of dialogues, by its name.
    """

    evaluations: dict[str, Evaluation]
    data: dict[str, ShownSamples]
    embedded: tuple[str, EmbeddedPairs] | None
    explanations: Sequence[Explanation] = ()
    correct: RetrievalOptions = RetrievalOptions()
    compared: Compared | None = None
    sounds: Mapping[str, SoundSource] = field(default_factory=dict)
    with_texts: Sequence[str] = ()
    matches: Sequence[Explanation] = ()
    reranked: tuple[RerankedEvaluation, Compared] | None = None
    turns: Mapping[str, TurnSource] = field(default_factory=dict)

    def examples(self) -> Examples:
        """Collect what the page shows of images, texts and classes."""
        examples = examples_of(
            self.evaluations, self.data, self.embedded, correct=self.correct, sounds=self.sounds,
            with_texts=self.with_texts, turns=self.turns,
        )  # fmt: skip
        galleries = [] if self.compared is None else modality_galleries(self.compared)
        return replace(
            examples,
            explanations=self.explanations,
            matches=self.matches,
            modalities=galleries,
            reranking=None if self.reranked is None else reranking_of(*self.reranked),
        )


def evaluate_with_report(
    encoder: DualEncoder,
    evaluators: Mapping[str, Evaluator],
    folder: Path | str,
    *,
    title: str,
    versions: Mapping[str, str] | None = None,
) -> dict[str, dict[str, float]]:
    """Run evaluators, measure every class of classifiers, and write a report.

    The report consists of ``report.html`` and one ``confusion-NAME.png`` per classifier. Evaluators
    of the same data share one pass over the images.

    Args:
        encoder: Model to evaluate.
        evaluators: Evaluators by name.
        folder: Folder for the files.
        title: Title of the page.
        versions: Versions of packages by name, for the page; None for none.

    Returns:
        Metrics by name of the evaluator. Those of classifiers include every class.

    Examples:
        >>> evaluators = {"zero-shot": ZeroShotClassification("data/val")}
        >>> metrics = evaluate_with_report(encoder, evaluators, "report", title="Colours")
        >>> "recall/red" in metrics["zero-shot"], Path("report/report.html").is_file()
        (True, True)
    """
    measured = measure(encoder, evaluators)
    evaluations = measured.evaluations
    if rank() == 0:
        intervals = metric_intervals(joined(evaluations).outcomes)
        write_evaluations(folder, measured, intervals, title=title, versions=versions)
    return {name: evaluation.metrics for name, evaluation in evaluations.items()}


def measure(encoder: DualEncoder, evaluators: Mapping[str, Evaluator]) -> Measured:
    """Run evaluators, those of classifiers class by class, with one pass over the images.

    Args:
        encoder: Model to evaluate.
        evaluators: Evaluators by name.

    Returns:
        Results and embeddings, for ``write_evaluations``.
    """
    given, evaluators = evaluators, {n: _plain(part) for n, part in evaluators.items()}
    # Those that embed captions are first, because others can use their images.
    order = sorted(evaluators, key=lambda name: not isinstance(evaluators[name], Retrieval))
    with remembering():
        evaluations, reranked = _results(encoder, given, order)
        data = dict[str, ShownSamples]()
        data |= {name: source for name in evaluators if (source := images_of(evaluators[name]))}
        embedded = None
        for name in filter(data.__contains__, order):
            if (part := embedded_pairs(encoder, evaluators[name])) is not None:
                embedded, data[name] = (name, part[0]), part[1]
                break
        retrievals = [part for part in evaluators.values() if isinstance(part, Retrieval)]
        compared = next((compared_modalities(encoder, part) for part in retrievals), None)
    ordered = {name: evaluations[name] for name in evaluators}
    explanations: Sequence[Explanation] = ()
    matches: Sequence[Explanation] = ()
    if embedded is not None and embedded[1].captions:
        name, pairs_of = embedded
        explanations = explained_pairs(_of_images_and_texts(encoder), data[name], pairs_of)
        matches = explained_matches(encoder, data[name], pairs_of)
    correct = next((part.correct for part in retrievals), RetrievalOptions())
    by_name = {name: sounds_of(encoder, evaluators[name]) for name in evaluators}
    sounds = {name: heard for name, heard in by_name.items() if heard is not None}
    joint = (JointClassification, QuestionAnswering)
    with_texts = [name for name, one in evaluators.items() if isinstance(one, joint)]
    turns = {
        name: (one.data, one.turn)
        for name, one in evaluators.items()
        if isinstance(one, DialogueRanking)
    }
    return Measured(
        ordered, data, embedded, explanations, correct, compared, sounds, with_texts, matches,
        reranked, turns,
    )  # fmt: skip


def _results(
    encoder: DualEncoder, evaluators: Mapping[str, Evaluator], order: Sequence[str]
) -> tuple[dict[str, Evaluation], tuple[RerankedEvaluation, Compared] | None]:
    """Run evaluators; return what re-ranking changed, too, if one measures it."""
    evaluations, reranked = dict[str, Evaluation](), None
    for name in order:
        part = evaluators[name]
        if isinstance(part, RerankedRetrieval):
            found = part.compare(encoder)
            compared = compared_modalities(encoder, part.retrieval)
            reranked = found, compared or compared_images(part.data, found.pair)
            evaluations[name] = found.evaluation
        else:
            evaluations[name] = _with_classes(part).evaluate(encoder)
    return evaluations, reranked


def merged_result(name: str, measured: Measured, note: str = "") -> Result:
    """Return the metrics of all evaluators, without single classes, as one row with intervals.

    Args:
        name: Name of the row.
        measured: Results of evaluators whose metrics have different names.
        note: A few words under the name.
    """
    metrics, intervals = dict[str, float](), dict[str, tuple[float, float]]()
    for evaluation in measured.evaluations.values():
        metrics |= _without_classes(evaluation.metrics)
        intervals |= metric_intervals(evaluation.outcomes)
    return Result(name, metrics, note, intervals=intervals)


def write_evaluations(
    folder: Path | str,
    measured: Measured,
    intervals: Mapping[str, tuple[float, float]],
    *,
    title: str,
    versions: Mapping[str, str] | None = None,
) -> None:
    """Write ``report.html`` and one ``confusion-NAME.png`` per classifier.

    Args:
        folder: Folder for the files.
        measured: Results of ``measure``.
        intervals: Lower and upper limit of each metric by ``NAME/METRIC``.
        title: Title of the page.
        versions: Versions of packages by name; None for none.
    """
    examples = measured.examples()
    for part in examples.classifiers:
        if part.confusion is not None:
            path = Path(folder) / f"confusion-{part.name}.png"
            write_bytes(path, confusion_png(part.confusion))
    results = [
        _result(name, evaluation, intervals) for name, evaluation in measured.evaluations.items()
    ]
    run = RunDetails(versions=versions or {})
    write_report(Path(folder) / "report.html", ReportData(title, "", results, (), examples, run))


def _result(
    name: str, evaluation: Evaluation, intervals: Mapping[str, tuple[float, float]]
) -> Result:
    shown, prefix = _without_classes(evaluation.metrics), f"{name}/"
    of_shown = {
        key.removeprefix(prefix): limits
        for key, limits in intervals.items()
        if key.startswith(prefix) and key.removeprefix(prefix) in shown
    }
    return Result(name, shown, intervals=of_shown, details=evaluation.details)


def _without_classes(metrics: Mapping[str, float]) -> dict[str, float]:
    """Leave out metrics of single classes, which are in the table of classes."""
    return {key: value for key, value in metrics.items() if not key.startswith(_OF_CLASS)}


def _with_classes(evaluator: Evaluator) -> Evaluator:
    if isinstance(evaluator, Classifying):
        return PerClass(evaluator)
    return evaluator


def _plain(evaluator: Evaluator) -> Evaluator:
    """Return the retrieval that is measured before re-ranking, and other evaluators."""
    return evaluator.retrieval if isinstance(evaluator, RerankedRetrieval) else evaluator


def _of_images_and_texts(encoder: TowerEncoder) -> DualEncoder:
    """Return the encoder whose matches are explained."""
    return encoder.dual() if isinstance(encoder, NamedTowerEncoder) else cast(DualEncoder, encoder)
