"""Check that all ranks read the same data."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from clipkit.data import PairSource
from clipkit.distributed.collectives import world_size
from clipkit.errors import ConfigError


def check_same_data(stream: PairSource, option: str) -> None:
    """Refuse ranks that see other shards than rank 0, such as an outdated folder of one machine.

    They would divide other samples among each other, so that some are read twice and others
    never. All ranks call this, and all raise the same error.

    Args:
        stream: The source of this rank.
        option: Option that names the data, for the error.

    Raises:
        ConfigError: If the ranks differ in the names, sizes or numbers of samples of the shards, in
            the masks, or in the seed.
    """
    if world_size() == 1:
        return
    state = stream.state_dict()
    facts = {
        name: state[key]
        for key, name in (
            ("num_samples", "samples"),
            ("fingerprint", "fingerprint of names, sizes and numbers"),
            ("seed", "seed"),
        )
        if key in state
    }
    facts["masks"] = state.get("masks", [])
    of_ranks: list[Any] = [None] * world_size()
    dist.all_gather_object(of_ranks, facts)
    for rank, others in enumerate(of_ranks):
        for name, value in of_ranks[0].items():
            if others.get(name) != value:
                raise ConfigError(
                    f"{option}: the ranks read different data: {name}: {value} on rank 0, "
                    f"{others.get(name)} on rank {rank}; copy the same shards to every machine, "
                    f"or name them one by one, with a commit for a data set of the Hub"
                )
