"""Inputs of further modalities by sample, and checks of the parts of an encoder of many towers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.errors import ConfigError
from clipkit.models.evaluating import in_evaluation_mode
from clipkit.models.heads.label_head import LabelHead
from clipkit.models.towers.base import ImageTower, SignalTower, TextTower, Tower
from clipkit.types import Batch, ModalityBatch


def given_modality(batch: Batch, name: str) -> ModalityBatch:
    """Return the input of a modality; refuse a batch without it."""
    given = batch.modalities or {}
    if name not in given:
        raise ConfigError(
            f"batch.modalities: expected {name!r}, as the encoder has a {name}_tower, got "
            f"{', '.join(given) or 'none'}; add a field of that name to data.samples.fields"
        )
    return given[name]


def present_rows(given: ModalityBatch) -> Int64[Tensor, " present"] | None:
    """Return the samples that have a modality, without waiting for a GPU if their number is known.

    Returns:
        Positions; None for all samples.
    """
    if given.num_present is None:
        return given.present.nonzero()[:, 0]
    if given.num_present == len(given.present):
        return None
    return (~given.present).to(torch.uint8).argsort(stable=True)[: given.num_present]


def spread_rows(
    own: Float[Tensor, "present *rest"],
    given: ModalityBatch,
    rows: Int64[Tensor, " present"] | None,
) -> Float[Tensor, "B *rest"]:
    """Put rows back to their samples, with zeros for the others."""
    if rows is None:
        return own
    return own.new_zeros((len(given.present), *own.shape[1:])).index_copy(0, rows, own)


def present_features(
    tower: SignalTower,
    values: Float[Tensor, "B *rest"],
    rows: Int64[Tensor, " present"] | None,
) -> Float[Tensor, "present D"]:
    """Run a tower on the samples that have its modality; with none, on one row of zeros."""
    if rows is None:
        features: Tensor = tower(values)
    elif len(rows):
        features = tower(values[rows])
    else:
        with in_evaluation_mode(tower):  # batch norms must not see the zeros
            features = tower(values[:1])[:0]
    return features


def checked_input(
    name: str, tower: SignalTower, values: Float[Tensor, "B *rest"]
) -> Float[Tensor, "B *rest"]:
    """Return the inputs of a modality; refuse those of another shape than its tower expects."""
    shape = tuple(tower.input_shape)
    if tuple(values.shape[1:]) != shape:
        raise ConfigError(
            f"{name}_tower: expected inputs of shape {shape}, got {tuple(values.shape[1:])}; use "
            f"the same options for the tower and its field in data.samples.fields"
        )
    return values


def checked_width(towers: Mapping[str, Tower]) -> int:
    """Return the width of all embeddings."""
    if not towers:
        raise ConfigError("towers: expected at least one, got none")
    for name, tower in towers.items():
        kinds = {"image": ImageTower, "text": TextTower}
        kind: Any = kinds.get(name, SignalTower)
        if not name.isidentifier() or not isinstance(tower, kind):
            raise ConfigError(
                f"towers.{name}: expected the name of a modality with its {kind.__name__}, got "
                f"{type(tower).__name__}"
            )
    widths = {name: tower.embedding_dim for name, tower in towers.items()}
    if len(set(widths.values())) > 1:
        raise ConfigError(f"towers: expected the same embedding_dim for all, got {widths}")
    return next(iter(widths.values()))


def check_heads(heads: Mapping[str, LabelHead], towers: Mapping[str, Tower], width: int) -> None:
    """Refuse label heads without a tower, or of another width."""
    for name, head in heads.items():
        if name not in towers:
            raise ConfigError(
                f"label_heads: expected the names of towers ({', '.join(towers)}), got {name!r}"
            )
        if head.embedding_dim != width:
            raise ConfigError(
                f"label_heads.{name}.embedding_dim: expected the towers' {width}, got "
                f"{head.embedding_dim}"
            )


def check_pairs(pairs: Sequence[str], towers: Mapping[str, Tower]) -> None:
    """Refuse pairs that are not two towers, or come twice."""
    split = [tuple(pair.split(":")) for pair in pairs]
    for pair, names in zip(pairs, split, strict=True):
        if len(set(names)) != 2 or len(names) != 2 or not set(names) <= set(towers):
            raise ConfigError(
                f"pair_scales: expected FIRST:SECOND of two towers ({', '.join(towers)}), got "
                f"{pair!r}"
            )
    if len({frozenset(names) for names in split}) < len(split):
        raise ConfigError(f"pair_scales: expected each pair once, got {', '.join(pairs)}")
