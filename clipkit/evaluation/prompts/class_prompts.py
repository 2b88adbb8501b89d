"""Prompts of each class: templates by name or file, or prompts that are written for the class."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Final

from clipkit.class_names import listed_names
from clipkit.data.text.facts import DEFINITION, FactTable, as_table, with_fact
from clipkit.errors import ConfigError
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.prompts.prompt_files import read_entry, text_list
from clipkit.suggestions import did_you_mean
from clipkit.templates import PLACEHOLDER, check_templates, fill_template

GENERIC_TEMPLATES: Final = (
    "{}",
    "a picture of {}",
    "a photo that shows {}",
    "a drawing of {}",
    "here we see {}",
    "{}, seen from nearby",
    "{}, small and far away",
    "an image in the category {}",
)
"""Templates for data without any: several views and media, no assumption about the domain."""

SOUND_TEMPLATES: Final = (
    "{}",
    "the sound of {}",
    "this is a sound of {}",
    "a recording of {}",
    "{} can be heard",
    "{}, in the distance",
    "{} in a noisy place",
    "a sound in the category {}",
)
"""Templates for sounds without any. The third is the prompt of LAION-CLAP and of the CLAP of 2022
(Wu et al. 2023, Elizalde et al. 2023)."""

TEMPLATE_LISTS: Final = ("openai", "simple", "generic", "sound", "clap")
"""Lists of templates by name: OpenAI's 80 and 7 for ImageNet, ``GENERIC_TEMPLATES``,
``SOUND_TEMPLATES``, and the one prompt of CLAP."""

Templates = str | Sequence[str] | Mapping[str, Sequence[str] | Mapping[str, Sequence[str]]]
"""Name of a list, file, templates, or prompts of each class; see ``resolve_prompts``."""

_LOG: Final = logging.getLogger(__name__)
_OPTION: Final = "templates"
_SIGNS: Final = ("positive", "negative")
_OWN: Final = {
    "generic": GENERIC_TEMPLATES,
    "sound": SOUND_TEMPLATES,
    "clap": (SOUND_TEMPLATES[2],),
}
"""Lists that are not those of open_clip, by name."""


@dataclass(frozen=True, slots=True)
class ClassPrompts:
    """Prompts of each class.

    Args:
        positive: Prompts of each of the C classes, at least one per class.
        negative: Prompts of images without the class, at least one per class; empty for none.
        templates: Sentences that class names are inserted into, or all prompts if the classes have
            prompts of their own.
    """

    positive: tuple[tuple[str, ...], ...]
    negative: tuple[tuple[str, ...], ...] = ()
    templates: tuple[str, ...] = field(default=(), compare=False)

    def repeated(self) -> dict[int, int]:
        """Return the classes with exactly the prompts of an earlier class, and that class.

        Examples:
            >>> ClassPrompts((("a missile",), ("a tank",), ("a missile",))).repeated()
            {2: 0}
        """
        first: dict[tuple[tuple[str, ...], ...], int] = {}
        pairs = zip(self.positive, self.negative or [()] * len(self.positive), strict=True)
        earlier = [first.setdefault(pair, number) for number, pair in enumerate(pairs)]
        return {number: at for number, at in enumerate(earlier) if at != number}


def resolve_prompts(
    given: Templates | None,
    class_names: Sequence[str],
    data: EvaluationDataset,
    facts: FactTable | str | Path | None = None,
) -> ClassPrompts:
    """Return the prompts of each class.

    Args:
        given: A name of ``TEMPLATE_LISTS``; or a file with one template per line, a JSON or YAML
            file with templates or prompts, or a mapping by data set as CLIP_benchmark's; or the
            templates; or a mapping from each class to its prompts. In place of a list of templates
            or prompts, a mapping with the keys "positive" and "negative" may have a list for images
            with and without the class. None for the templates of the data, or, if the data have
            none, ``GENERIC_TEMPLATES``, for sounds ``SOUND_TEMPLATES``.
        class_names: Names of the C classes.
        data: The data set.
        facts: Table of facts, or the path of one; see ``FactTable.from_file``. The definition of
            each class that it knows is added to every prompt of the class. None for none.

    Raises:
        ConfigError: If a list is unknown, a file cannot be read, a template has no place for the
            class name, a class has no prompts, or the table defines none of the classes.
        DataError: If the table of facts cannot be read.

    Examples:
        >>> data = open_dataset("data/val")
        >>> resolve_prompts("openai", ["red"], data).positive[0][0]
        'a bad photo of a red.'
        >>> resolve_prompts({"red": ["a red square", "{} paint"]}, ["red"], data).positive
        (('a red square', 'red paint'),)
        >>> table = FactTable([Concept("red", {"definition": "the colour of blood"})])
        >>> resolve_prompts(["a {} square"], ["red"], data, table).positive
        (('a red square, the colour of blood',),)
    """
    prompts = _resolve(given, class_names, data)
    return prompts if facts is None else _defined(prompts, class_names, as_table(facts))


def _defined(prompts: ClassPrompts, names: Sequence[str], table: FactTable) -> ClassPrompts:
    """Return the prompts with the definition of each class that the table knows."""
    definitions = [_definition(name, table) for name in names]
    unknown = [name for name, text in zip(names, definitions, strict=True) if text is None]
    if len(unknown) == len(names):
        raise ConfigError(
            f"facts: {table.where}: expected definitions of the classes ({listed_names(names)}), "
            f"got none; names of concepts are compared without case and punctuation"
        )
    if unknown:
        _LOG.warning(
            "facts: %s: no definition of %d of %d classes (%s)",
            table.where, len(unknown), len(names), listed_names(unknown),
        )  # fmt: skip

    def added(of_classes: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
        pairs = zip(of_classes, definitions, strict=True)
        return tuple(tuple(with_fact(t, d) if d else t for t in texts) for texts, d in pairs)

    positive = added(prompts.positive)
    negative = added(prompts.negative) if prompts.negative else ()
    return ClassPrompts(positive, negative, tuple(chain(*positive, *negative)))


def _definition(name: str, table: FactTable) -> str | None:
    """Return the definition of the longest concept in a name that has one."""
    defined = [c for c in table.concepts_in(name) if DEFINITION in c.facts]
    return max(defined, key=lambda c: len(c.name)).facts[DEFINITION] if defined else None


def _resolve(
    given: Templates | None, class_names: Sequence[str], data: EvaluationDataset
) -> ClassPrompts:
    """Return the prompts of each class without facts."""
    content: Any = given
    where = _OPTION
    if given is None:
        generic = SOUND_TEMPLATES if data.modality.is_sound else GENERIC_TEMPLATES
        content = data.templates or generic
    elif isinstance(given, str):
        where = f"{_OPTION}: {given}"
        content = _listed(given) or read_entry(given, _OPTION, data.name, (*class_names,))
    if isinstance(content, Mapping) and set(content) == set(_SIGNS) != set(class_names):
        signs = [_checked(content[sign], f"{where}: {sign}") for sign in _SIGNS]
        positive, negative = (_inserted(templates, class_names) for templates in signs)
        return ClassPrompts(positive, negative, (*signs[0], *signs[1]))
    if isinstance(content, Mapping):
        return _by_class(content, class_names, where)
    templates = _checked(content, where)
    return ClassPrompts(_inserted(templates, class_names), templates=templates)


def _listed(name: str) -> Sequence[str] | None:
    """Return a list of templates by its name; None for the address of a file."""
    if name in _OWN:
        return _OWN[name]
    if name in TEMPLATE_LISTS:
        from open_clip import zero_shot_metadata

        # open_clip writes templates as functions of the class name.
        functions = getattr(zero_shot_metadata, f"{name.upper()}_IMAGENET_TEMPLATES")
        return [function(PLACEHOLDER) for function in functions]
    if "." not in name:
        raise ConfigError(
            f"{_OPTION}: expected {', '.join(TEMPLATE_LISTS)} or a file, got {name!r}"
            f"{did_you_mean(name, TEMPLATE_LISTS)}"
        )
    return None


def _checked(content: Any, where: str) -> tuple[str, ...]:
    texts = list(content) if isinstance(content, tuple) else content
    return check_templates(text_list(texts, where), where)


def _inserted(templates: Sequence[str], class_names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(fill_template(text, name) for text in templates) for name in class_names)


def _by_class(content: Mapping[Any, Any], names: Sequence[str], where: str) -> ClassPrompts:
    if missing := [name for name in names if name not in content]:
        raise ConfigError(
            f"{where}: expected prompts of each of the {len(names)} classes, got none of "
            f"{len(missing)} ({listed_names(missing)}); the keys are class names, or the name of "
            f"the data, or positive and negative"
        )
    if unused := [str(name) for name in content if name not in names]:
        _LOG.warning("%s: prompts of %d other classes are not used", where, len(unused))
    pairs = [_signed(content[name], name, where) for name in names]
    num_negative = sum(bool(negative) for _, negative in pairs)
    if 0 < num_negative < len(pairs):
        raise ConfigError(
            f"{where}: expected negative prompts of all classes or of none, got those of "
            f"{num_negative} of {len(pairs)} classes"
        )
    negative = tuple(negative for _, negative in pairs) if num_negative else ()
    positive = tuple(prompts for prompts, _ in pairs)
    return ClassPrompts(positive, negative, tuple(chain(*positive, *negative)))


def _signed(content: Any, name: str, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the positive and the negative prompts of a class."""
    what = f"{where}: {name}"
    if not isinstance(content, Mapping):
        return _filled(content, name, what), ()
    if not set(content) <= set(_SIGNS) or "positive" not in content:
        keys = ", ".join(map(str, content))
        raise ConfigError(f"{what}: expected the keys positive and negative, got {keys}")
    negative = content.get("negative")
    return (
        _filled(content["positive"], name, f"{what}: positive"),
        _filled(negative, name, f"{what}: negative") if negative is not None else (),
    )


def _filled(content: Any, name: str, what: str) -> tuple[str, ...]:
    prompts = text_list(list(content) if isinstance(content, tuple) else content, what)
    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise ConfigError(f"{what}: expected at least one prompt and none that is empty")
    return tuple(fill_template(prompt, name) for prompt in prompts)
