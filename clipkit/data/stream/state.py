"""Check the stored state of a stream."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from clipkit.data.shards.index import ShardIndex
from clipkit.errors import CheckpointError

_LOG: Final = logging.getLogger(__name__)
STATE_VERSION: Final = 1
_STATE_KEYS: Final = frozenset(
    {"fingerprint", "num_samples", "seed", "epoch", "position", "dropped", "layouts"}
    | {"bad_samples", "bad_ids", "bad_shards", "padded"}
)
_SEQUENTIAL_KEYS: Final = (_STATE_KEYS - {"fingerprint", "layouts"}) | {
    "declared_samples",
    "samples_seen",
}


def check_state(state: Mapping[str, Any], index: ShardIndex) -> None:
    """Check whether a stream over these data can resume from a state."""
    _check_version(state)
    if state.get("exact") is False:
        raise CheckpointError(
            "stream state: of a WebDatasetSource (exact: false), which no exact order can "
            "continue; read the data as before (data.storage.webdataset), or start without the "
            "state"
        )
    _check_keys(state, _STATE_KEYS)
    if state["fingerprint"] != index.fingerprint:
        raise CheckpointError(
            f"stream state: from other data: {state['num_samples']} samples, fingerprint "
            f"{state['fingerprint']}; now {index.num_samples} samples, {index.fingerprint}. Use "
            f"the same shards in the same order, or start without the state"
        )
    _check_contents(state.get("digest"), index)


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
    if state.get("version") != STATE_VERSION:
        raise CheckpointError(
            f"stream state: expected version {STATE_VERSION}, got {state.get('version')!r}"
        )


def _check_keys(state: Mapping[str, Any], keys: frozenset[str]) -> None:
    if missing := sorted(keys - state.keys()):
        raise CheckpointError(f"stream state: incomplete, {', '.join(missing)} missing")


def _check_contents(stored: str | None, index: ShardIndex) -> None:
    """Check whether the shards contain the same samples, as far as both digests are known."""
    if stored is None:
        _LOG.warning(
            "stream state: written by an older clipkit, without a digest of the samples; only "
            "names, sizes and numbers of samples of the shards were compared"
        )
    elif not stored or not index.digest:
        _LOG.warning(
            "stream state: the samples of some remote shards are known by number only (counts "
            "file, no index); only names, sizes and numbers of samples were compared"
        )
    elif stored != index.digest:
        raise CheckpointError(
            f"stream state: from other data: the shards have the same names, sizes and numbers "
            f"of samples, but contain other samples or another order of them (digest {stored}, now "
            f"{index.digest}). Use the shards of the first launch, or start without the state"
        )
