"""Build the encoder without weights on ranks that get shards of the first rank's weights."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any, Final

from jsonargparse import ArgumentParser, Namespace

from clipkit.distributed.world import current_world
from clipkit.errors import first_line
from clipkit.models import TowerEncoder, structure_only
from clipkit.training import ShardedStrategy

_LOG: Final = logging.getLogger(__name__)
_SHARDED: Final = (
    f"{ShardedStrategy.__module__}.{ShardedStrategy.__qualname__}",
    "clipkit.training.ShardedStrategy",
)


def encoder_without_weights(sections: Mapping[str, Any]) -> TowerEncoder | None:
    """Return the encoder of a configuration without weights; None if this rank needs weights.

    Only ranks other than the first under ``ShardedStrategy`` need none. A model whose code reads
    its weights while it is built cannot be built so, and is built with them.

    Args:
        sections: The parsed configuration of a subcommand.
    """
    strategy = getattr(sections["trainer"].get("strategy"), "class_path", None)
    if strategy not in _SHARDED or _is_first_rank():
        return None
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--encoder", type=TowerEncoder)
    try:
        with structure_only():
            given = Namespace(encoder=sections["model"]["encoder"])  # type: ignore[no-untyped-call]
            encoder: TowerEncoder = parser.instantiate_classes(given).encoder
    except Exception as error:  # builders raise what torch's meta device cannot do as their own
        _LOG.warning(
            "model.encoder: cannot be built without weights, so that this rank builds all of them "
            "before it keeps its shard (%s)", first_line(error),
        )  # fmt: skip
        return None
    return encoder


def _is_first_rank() -> bool:
    """Return whether this may be the first rank of a run, under any launcher."""
    # Lightning's own launcher sets no RANK.
    return current_world().is_main and os.environ.get("LOCAL_RANK", "0") == "0"
