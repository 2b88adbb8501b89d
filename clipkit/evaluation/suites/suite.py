"""A suite: the data sets that models are measured on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from clipkit.errors import ConfigError
from clipkit.evaluation.correct_pairs import RetrievalOptions
from clipkit.evaluation.datasets.choice_sources import ChoiceColumns
from clipkit.evaluation.datasets.queries import IMAGES, query_modality
from clipkit.evaluation.probes.options import ProbeOptions
from clipkit.evaluation.task_options import RobustnessOptions, ZeroShotOptions

ENGLISH: Final = "en"
_LANGUAGE: Final = "{language}"


@dataclass(frozen=True)
class DataCompTask:
    """Place of a data set in the results of DataComp.

    Args:
        key: Key of the task, such as "vtab/pets".
        name: Name of the data set there, such as "Oxford-IIIT Pet".
        main_metric: The one metric that is averaged; empty if the task has none.
    """

    key: str
    name: str
    main_metric: str = "acc1"


@dataclass(frozen=True)
class SuiteEntry:
    """A data set of a suite, measured by one task in one language.

    Args:
        name: Name of the data set in results, such as "wds/vtab/pets".
        data: Evaluation data, as for ``open_dataset``.
        task: One of ``TASKS``; None for the task that the data were made for.
        split: Folder inside ``data`` to evaluate on.
        caption: Where captions are: a text member ("txt", one per line) or a field of a JSON member
            ("json:title").
        label_field: Where the class is: a member ("cls") or a field of a JSON member.
        language: Language of captions and class names, in results.
        limit: Number of samples, from the first one on; None for all.
        probe: Splits, groups and numbers of the tasks that fit a classifier.
        correct: Which candidates of a retrieval are correct, groups of queries, and widths.
        choice: Columns of a table of pair choices; None to recognise them.
        zero_shot: Class names, templates, groups and calibration of zero-shot classification.
        robustness: Classifier of the tasks "corruptions" and "fairness", and the corruptions.
        unavailable: Why the data set cannot be measured; empty if it can.
        datacomp: Place in the results of DataComp; None if it is not one of its tasks.
        modality: What the samples are: "image" or "sound".

    Raises:
        ConfigError: If the modality is unknown.
    """

    name: str
    data: str
    task: str | None = None
    split: str = "test"
    caption: str = "txt"
    label_field: str = "cls"
    language: str = ENGLISH
    limit: int | None = None
    probe: ProbeOptions = ProbeOptions()
    correct: RetrievalOptions = RetrievalOptions()
    choice: ChoiceColumns | None = None
    zero_shot: ZeroShotOptions = ZeroShotOptions()
    robustness: RobustnessOptions = RobustnessOptions()
    unavailable: str = ""
    datacomp: DataCompTask | None = None
    modality: str = IMAGES.name

    def __post_init__(self) -> None:
        query_modality(self.modality)

    @property
    def title(self) -> str:
        """Name in messages, with the language unless it is English."""
        return self.name if self.language == ENGLISH else f"{self.name} ({self.language})"

    @property
    def files(self) -> tuple[str, ...]:
        """Names in the options that may be those of files."""
        prompts = self.zero_shot
        given = prompts.class_names, prompts.templates, prompts.facts, self.correct.positives
        return tuple(name for name in given if isinstance(name, str))


@dataclass(frozen=True)
class Suite:
    """Data sets that models are measured on.

    Args:
        name: Name of the suite.
        entries: The data sets.

    Examples:
        >>> suite = Suite("mine", (SuiteEntry("squares", "data/val"),))
        >>> [entry.title for entry in suite.entries]
        ['squares']
    """

    name: str
    entries: tuple[SuiteEntry, ...]

    def in_languages(self, languages: tuple[str, ...]) -> Suite:
        """Return the part of the suite in some languages; all of it if none is named.

        Raises:
            ConfigError: If the suite has no data in one of the languages.
        """
        known = sorted({entry.language for entry in self.entries})
        for language in languages:
            if language not in known:
                raise ConfigError(
                    f"language: expected one of the suite {self.name!r}, {', '.join(known)}, got "
                    f"{language!r}"
                )
        if not languages:
            return self
        return replace(
            self, entries=tuple(entry for entry in self.entries if entry.language in languages)
        )


def in_language(entry: SuiteEntry, language: str) -> SuiteEntry:
    """Return an entry with ``{language}`` in its addresses, fields and files filled in.

    Examples:
        >>> in_language(SuiteEntry("coco", "data/{language}"), "de").data
        'data/de'
    """

    def filled(value: Any) -> Any:
        return value.replace(_LANGUAGE, language) if isinstance(value, str) else value

    names = ("data", "split", "caption", "label_field")
    texts = {name: filled(getattr(entry, name)) for name in names}
    prompts = replace(
        entry.zero_shot,
        class_names=filled(entry.zero_shot.class_names),
        templates=filled(entry.zero_shot.templates),
        facts=filled(entry.zero_shot.facts),
    )
    return replace(entry, language=language, zero_shot=prompts, **texts)
