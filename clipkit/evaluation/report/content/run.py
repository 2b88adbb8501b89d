"""Named values, and how a model was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Fact:
    """A name, a value and an explanation.

    Args:
        name: What the value is.
        value: Value as text, with its unit.
        note: A few words of explanation.
    """

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class TowerParameters:
    """Number of parameters of one part of the model.

    Args:
        name: Name of the part.
        num_trainable: Number of trainable parameters.
        num_frozen: Number of frozen parameters.
    """

    name: str
    num_trainable: int
    num_frozen: int


@dataclass(frozen=True, slots=True)
class RunDetails:
    """How a model was trained.

    Args:
        facts: Duration, samples per second, machine and so on.
        parameters: Size of each part of the model.
        versions: Software names and their versions.
        config: Resolved configuration as YAML.
    """

    facts: Sequence[Fact] = ()
    parameters: Sequence[TowerParameters] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    config: str = ""
