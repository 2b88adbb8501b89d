"""Check the stored state of a stream."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from clipkit.data.shards.index import ShardIndex
from clipkit.data.shards.masks.sample_mask import MaskSummary
from clipkit.errors import CheckpointError

_LOG: Final = logging.getLogger(__name__)
STATE_VERSION: Final = 1
_MASKED_STATE_VERSION: Final = 2  # a clipkit that knows no masks refuses it
_STATE_KEYS: Final = frozenset(
    {"fingerprint", "num_samples", "seed", "epoch", "position", "dropped", "layouts"}
    | {"bad_samples", "bad_ids", "bad_shards", "padded"}
)
_SEQUENTIAL_KEYS: Final = (_STATE_KEYS - {"fingerprint", "layouts"}) | {
    "declared_samples",
    "samples_seen",
}


Masks = Mapping[str, MaskSummary | None]
"""Mask of each source of a mixture by its name, or of a data set by ""."""


def header(index: ShardIndex, masks: Masks) -> dict[str, Any]:
    """Return the part of a state that identifies the data and the masks."""
    facts = {
        "version": STATE_VERSION,
        "fingerprint": index.fingerprint,
        "digest": index.digest,
        "num_samples": index.num_samples,
    }
    if any(masks.values()):
        facts["version"] = _MASKED_STATE_VERSION
        facts["masks"] = [mask.fingerprint if mask else "" for mask in masks.values()]
    return facts


def check_state(state: Mapping[str, Any], index: ShardIndex, masks: Masks) -> None:
    """Check whether a stream over these data, with these masks, can resume from a state."""
    _check_version(state)
    if state.get("exact") is False:
        raise CheckpointError(
            "stream state: of a WebDatasetSource (exact: false), which no exact order can "
            "continue; read the data as before (data.storage.webdataset), or start without the "
            "state"
        )
    is_masked = state["version"] == _MASKED_STATE_VERSION
    _check_keys(state, _STATE_KEYS | ({"masks"} if is_masked else frozenset()))
    if state["fingerprint"] != index.fingerprint:
        raise CheckpointError(
            f"stream state: from other data: {state['num_samples']} samples, fingerprint "
            f"{state['fingerprint']}; now {index.num_samples} samples, {index.fingerprint}. Use "
            f"the same shards in the same order, or start without the state"
        )
    _check_contents(state.get("digest"), index)
    _check_masks(state, masks)


def check_sequential_state(state: Mapping[str, Any]) -> None:
    """Check whether a ``WebDatasetSource`` can resume from a state."""
    _check_version(state)
    if state.get("exact") is not False:
        raise CheckpointError(
            "stream state: of a PairStream, whose exact order webdataset cannot continue; read "
            "the data as before (without data.storage.webdataset), or start without the state"
        )
    _check_keys(state, _SEQUENTIAL_KEYS)


def _check_version(state: Mapping[str, Any]) -> None:
    if state.get("version") not in (STATE_VERSION, _MASKED_STATE_VERSION):
        raise CheckpointError(
            f"stream state: expected version {STATE_VERSION} or {_MASKED_STATE_VERSION}, got "
            f"{state.get('version')!r}"
        )


def _check_keys(state: Mapping[str, Any], keys: frozenset[str]) -> None:
    if missing := sorted(keys - state.keys()):
        raise CheckpointError(f"stream state: incomplete, {', '.join(missing)} missing")


def _check_masks(state: Mapping[str, Any], masks: Masks) -> None:
    """Check whether the masks keep the same samples: a position counts these only."""
    is_masked = state["version"] == _MASKED_STATE_VERSION
    stored = state["masks"] if is_masked else [""] * len(masks)
    if not isinstance(stored, list) or len(stored) != len(masks):
        raise CheckpointError(
            f"stream state: expected masks of the {len(masks)} sources of this stream, got "
            f"{stored!r:.200}; use the sources of the state"
        )
    for (name, mask), fingerprint in zip(masks.items(), stored, strict=True):
        if (mask.fingerprint if mask else "") != fingerprint:
            source = f"source {name!r}: " if name else ""
            expected = f"a mask with fingerprint {fingerprint}" if fingerprint else "no mask"
            found = f"{mask.name} with {mask.fingerprint}" if mask else "none"
            raise CheckpointError(
                f"stream state: {source}expected {expected}, as at the first launch, got {found}; "
                f"another mask is another order of samples: use that of the first launch, or start "
                f"a new run from the weights, without the state"
            )


def _check_contents(stored: str | None, index: ShardIndex) -> None:
    """Check whether the shards contain the same samples, as far as both digests are known."""
    if stored is None:
        _LOG.warning(
            "stream state: written by an older clipkit, without a digest of the samples; only "
            "names, sizes and numbers of samples of the shards were compared"
        )
    elif not stored or not index.digest:
        _LOG.warning(
            "stream state: the samples of some remote shards are known by number only, from a "
            "counts file; only names, sizes and numbers of samples were compared. An index file of "
            "all shards identifies the samples, too (clipkit shards index SHARDS --output FILE.npz)"
        )
    elif stored != index.digest:
        raise CheckpointError(
            f"stream state: from other data: the shards have the same names, sizes and numbers "
            f"of samples, but contain other samples or another order of them (digest {stored}, now "
            f"{index.digest}). Use the shards of the first launch, or start without the state"
        )
