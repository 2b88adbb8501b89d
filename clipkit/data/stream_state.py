"""What a stored state of a stream must hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from clipkit.data.index import ShardIndex
from clipkit.errors import CheckpointError

STATE_VERSION: Final = 1
_STATE_KEYS: Final = frozenset(
    {"fingerprint", "num_samples", "seed", "epoch", "position", "dropped", "layouts"}
    | {"bad_samples", "bad_ids", "bad_shards", "padded"}
)


def check_state(state: Mapping[str, Any], index: ShardIndex) -> None:
    """Whether a stream over these data can go on from a state.

    Raises:
        CheckpointError: If the state is of another format, incomplete, or of other data.
    """
    if state.get("version") != STATE_VERSION:
        raise CheckpointError(
            f"stream state: expected version {STATE_VERSION}, got {state.get('version')!r}"
        )
    missing = sorted(_STATE_KEYS - state.keys())
    if missing:
        raise CheckpointError(f"stream state: incomplete, {', '.join(missing)} missing")
    if state["fingerprint"] != index.fingerprint:
        raise CheckpointError(
            f"stream state: taken on other data: {state['num_samples']} samples, fingerprint "
            f"{state['fingerprint']}; now {index.num_samples} samples, {index.fingerprint}. Use "
            f"the same shards in the same order, or start without the state"
        )
