"""Read suites from YAML files, and find those that are shipped with clipkit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, Final, get_args, get_origin, get_type_hints

from clipkit.errors import ConfigError, check_at_least
from clipkit.evaluation.correct_pairs import RetrievalOptions
from clipkit.evaluation.datasets.choice_sources import ChoiceColumns
from clipkit.evaluation.probes.options import ProbeOptions
from clipkit.evaluation.suites.suite import (
    ENGLISH,
    DataCompTask,
    Suite,
    SuiteEntry,
    in_language,
)
from clipkit.evaluation.task_options import RobustnessOptions, ZeroShotOptions
from clipkit.evaluation.tasks import TASKS
from clipkit.suggestions import did_you_mean
from clipkit.yaml_files import read_yaml

_SHIPPED: Final = Path(__file__).parent / "shipped"
_PREFIX: Final = "wds/"
_NAME: Final = "{name}"
_SUITE_KEYS: Final = ("root", "split", "datasets")
_ENTRY_KEYS: Final = tuple(field.name for field in fields(SuiteEntry))
_GROUPS: Final = {
    "datacomp": DataCompTask,
    "probe": ProbeOptions,
    "correct": RetrievalOptions,
    "choice": ChoiceColumns,
    "zero_shot": ZeroShotOptions,
    "robustness": RobustnessOptions,
}


def shipped_suites() -> list[str]:
    """Return the names of the suites that are shipped with clipkit.

    Examples:
        >>> "robustness" in shipped_suites()
        True
    """
    return sorted(path.stem for path in _SHIPPED.glob("*.yaml"))


def read_suite(source: str | Path, root: str | None = None) -> Suite:
    """Read a suite.

    Args:
        source: A YAML file, or the name of a shipped suite; see ``shipped_suites``.
        root: Where data sets without an address of their own are, in place of the suite's ``root``:
            an address with ``{name}`` for the name of the data set, "/" in it replaced by "-", and
            ``{language}``. None for the suite's.

    Returns:
        The suite, with an entry for each language of a data set.

    Raises:
        ConfigError: If there is no such file or suite, a key is unknown or missing, a value has the
            wrong type, or two data sets have the same name, task and language.

    Examples:
        >>> len(read_suite("clip_benchmark").entries)
        41
    """
    path = _path(str(source))
    content = read_yaml(path)
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path}: expected the keys {', '.join(_SUITE_KEYS)}, got {content!r}")
    _check_keys(f"{path}", content, _SUITE_KEYS)
    listed = content.get("datasets")
    if not isinstance(listed, list) or not listed:
        raise ConfigError(f"{path}: datasets: expected a list of data sets, got {listed!r}")
    defaults = {"root": root or content.get("root"), "split": content.get("split", "test")}
    entries = tuple(
        entry
        for number, given in enumerate(listed)
        for entry in _entries(f"{path}: datasets[{number}]", given, defaults)
    )
    _refuse_repeated(path, entries)
    return Suite(path.stem, entries)


def _path(source: str) -> Path:
    if source in shipped_suites():
        return _SHIPPED / f"{source}.yaml"
    path = Path(source)
    if not path.is_file():
        names = ", ".join(shipped_suites())
        hint = did_you_mean(source, shipped_suites())
        raise ConfigError(
            f"suite: expected a YAML file, or one of {names}; got {source!r}, which does not "
            f"exist{hint}"
        )
    return path


def _entries(where: str, given: Any, defaults: Mapping[str, Any]) -> Iterator[SuiteEntry]:
    """Yield a data set of a suite, in each of its languages."""
    values = {"name": given} if isinstance(given, str) else given
    if not isinstance(values, Mapping) or not isinstance(values.get("name"), str):
        raise ConfigError(f"{where}: expected a name, or a mapping with 'name', got {given!r}")
    where = f"{where} ({values['name']})"
    _check_keys(where, values, _ENTRY_KEYS)
    languages = values.get("language", ENGLISH)
    options: dict[str, Any] = {key: value for key, value in values.items() if key != "language"}
    options.setdefault("split", defaults["split"])
    if "data" not in options:
        options["data"] = _address(where, values["name"], defaults["root"])
    for key, kind in _GROUPS.items():
        if key in options:
            options[key] = _group(f"{where}: {key}", options[key], kind)
    _check_types(where, options, SuiteEntry)
    entry = SuiteEntry(**options)
    check_at_least(f"{where}: limit", entry.limit, 1)
    if entry.task not in (None, *TASKS):
        raise ConfigError(
            f"{where}: task: expected one of {', '.join(TASKS)}, got {entry.task!r}"
            f"{did_you_mean(entry.task or '', TASKS)}"
        )
    languages = [languages] if isinstance(languages, str) else languages
    if not isinstance(languages, list) or not languages:
        raise ConfigError(f"{where}: language: expected texts, got {languages!r}")
    for language in languages:
        if not isinstance(language, str):
            raise ConfigError(f"{where}: language: expected texts, got {language!r} (quote 'no')")
        yield in_language(entry, language)


def _address(where: str, name: str, root: Any) -> str:
    if not isinstance(root, str):
        raise ConfigError(
            f"{where}: expected 'data', or 'root' of the suite with a place for the name, such as "
            f"data/wds_{{name}}; got neither"
        )
    if _NAME not in root:
        raise ConfigError(
            f"{where}: root: expected a place for the name of the data set, such as "
            f"data/wds_{_NAME}, got {root!r}"
        )
    return root.replace(_NAME, name.removeprefix(_PREFIX).replace("/", "-"))


def _group(where: str, given: Any, kind: type) -> Any:
    """Return a group of options from a mapping."""
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where}: expected a mapping of options, got {given!r}")
    _check_keys(where, given, tuple(field.name for field in fields(kind)))
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()}
    _check_types(where, values, kind)
    try:
        return kind(**values)
    except (TypeError, ConfigError) as error:  # a missing argument, or a value that is refused
        raise ConfigError(f"{where}: {error}") from error


def _check_keys(where: str, given: Mapping[Any, Any], known: tuple[str, ...]) -> None:
    for key in given:
        if key not in known:
            raise ConfigError(
                f"{where}: unknown key {key!r}{did_you_mean(str(key), known)}; expected "
                f"{', '.join(known)}"
            )


def _check_types(where: str, values: Mapping[str, Any], kind: type) -> None:
    """Refuse values of another type than the fields of a dataclass have."""
    types = get_type_hints(kind)
    for key, value in values.items():
        if not any(_fits(value, part) for part in _parts(types[key])):
            shown = str(types[key]).removeprefix("<class '").removesuffix("'>")
            raise ConfigError(f"{where}: {key}: expected {shown}, got {value!r}")


def _parts(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)


def _fits(value: Any, annotation: Any) -> bool:
    if annotation is int:
        return type(value) is int  # True is an int, too
    if get_origin(annotation) is Sequence:
        (inner,) = get_args(annotation)
        return isinstance(value, tuple) and all(_fits(item, inner) for item in value)
    return isinstance(annotation, type) and isinstance(value, annotation)


def _refuse_repeated(path: Path, entries: tuple[SuiteEntry, ...]) -> None:
    seen = set()
    for entry in entries:
        key = (entry.name, entry.task, entry.language)
        if key in seen:
            raise ConfigError(
                f"{path}: datasets: {entry.title} occurs twice; results need distinct names"
            )
        seen.add(key)
