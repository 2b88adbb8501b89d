"""Check that towers read what the fields of the data return."""

from __future__ import annotations

from collections.abc import Iterable

from clipkit.data.modalities.field import ModalityField
from clipkit.data.samples.fields import SampleField
from clipkit.errors import ConfigError
from clipkit.models import SignalTower, TowerEncoder


def check_modalities(encoder: TowerEncoder, fields: Iterable[SampleField]) -> None:
    """Refuse a field whose values are not those that the tower of its name reads.

    Raises:
        ConfigError: If the shapes differ, or an option that both declare in ``value_options``.
    """
    for field in fields:
        tower = encoder.towers.get(field.name) if isinstance(field, ModalityField) else None
        if not isinstance(field, ModalityField) or not isinstance(tower, SignalTower):
            continue
        name = f"data.samples.fields: {type(field).__name__} of {field.name!r}"
        shape = tuple(field.empty().shape)
        made, read = field.value_options(), tower.value_options()
        different = ", ".join(
            f"{option} {value} instead of {read[option]}"
            for option, value in made.items()
            if option in read and value != read[option]
        )
        if different:
            raise ConfigError(
                f"{name}: expected the values that {field.name}_tower reads, got {different}; use "
                f"the same options for both, also those that evaluation alone reads from the tower"
            )
        if shape != tuple(tower.input_shape):
            raise ConfigError(
                f"{name}: expected values of shape {tuple(tower.input_shape)}, which "
                f"{field.name}_tower reads, got {shape}; use the same options for both"
            )
