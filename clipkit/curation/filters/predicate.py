"""A filter by a function of the user."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from clipkit.curation.candidates import Candidates
from clipkit.curation.filters.base import Decision, Filter
from clipkit.errors import ConfigError, DataError, first_line
from clipkit.suggestions import did_you_mean

Predicate = Callable[[Mapping[str, Any]], bool]


@final
@dataclass(frozen=True, slots=True)
class PredicateFilter(Filter):
    """Keeps samples for which a Python function returns True.

    The function gets a mapping: ``row`` (number of the sample), all columns of the collection's
    table, and ``score`` (NaN without a caption) if captions were embedded. It runs with all rights
    of this process, as any code that you import does.

    Args:
        function: The function as "module:function". The module is also looked for in the current
            folder.

    Raises:
        ConfigError: If it is not written so.
    """

    function: str

    def __post_init__(self) -> None:
        module, _, name = self.function.partition(":")
        if not module or not name.isidentifier():
            raise ConfigError(
                f"predicate: expected MODULE:FUNCTION, such as rules:keep, got {self.function!r}"
            )

    @property
    def description(self) -> str:
        """What is kept."""
        return f"predicate {self.function}"

    def decide(self, candidates: Candidates) -> Decision:
        """Remove samples for which the function returns False.

        Raises:
            ConfigError: If the function cannot be imported.
            DataError: If it raises an error or returns another type; the message names the row.
        """
        predicate = load_predicate(self.function)
        scores = candidates.scores if candidates.collection.info.has_texts else None
        removed = np.zeros(len(candidates), dtype=np.bool_)
        for places, files, positions in candidates.shards():
            records = files.table().take(positions).to_pylist()
            for place, record in enumerate(records, start=places.start):
                record["row"] = int(candidates.rows[place])
                if scores is not None:
                    record["score"] = float(scores[place])
                removed[place] = not self._keeps(predicate, record)
        return Decision(removed)

    def _keeps(self, predicate: Predicate, record: dict[str, Any]) -> bool:
        row, key = record["row"], record["key"]
        try:
            result = predicate(record)
        except Exception as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise DataError(
                f"predicate {self.function}: row {row} (key {key!r}): {reason}"
            ) from error
        if not isinstance(result, bool | np.bool_):
            raise DataError(
                f"predicate {self.function}: row {row} (key {key!r}): expected True or False, got "
                f"{type(result).__name__}"
            )
        return bool(result)


def load_predicate(function: str) -> Predicate:
    """Import a function by "module:function".

    Raises:
        ConfigError: If there is no such module or function, or importing it fails.
    """
    module_name, _, name = function.partition(":")
    try:
        with _current_folder():
            module = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(
            f"predicate: {function}: cannot import {module_name}: {first_line(error)}"
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        raise ConfigError(
            f"predicate: {function}: {module_name} has no function {name!r}"
            f"{did_you_mean(name, vars(module))}"
        )
    predicate: Predicate = found
    return predicate


@contextmanager
def _current_folder() -> Iterator[None]:
    """Look for modules in the current folder, after all others."""
    folder = str(Path.cwd())
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
