"""Arrange ranks into replicas of a sharded model."""

from __future__ import annotations

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from clipkit.errors import ConfigError


def replicated_mesh(ranks: DeviceMesh, shard_size: int | None) -> DeviceMesh:
    """Return a mesh of replicas times the ranks of a replica; one dimension for one replica.

    Ranks with consecutive numbers, such as those of a machine, are a replica.

    Args:
        ranks: All ranks, in one dimension.
        shard_size: Number of ranks of a replica; None for all of them.

    Raises:
        ConfigError: If it does not divide the number of ranks.
    """
    if shard_size is None or shard_size == ranks.size():
        return ranks
    if ranks.size() % shard_size:
        raise ConfigError(
            f"ShardedStrategy.shard_size: expected a divisor of the number of ranks, got "
            f"{shard_size} for {ranks.size()} ranks; omit it to shard over all of them"
        )
    shape = (ranks.size() // shard_size, shard_size)
    return init_device_mesh(ranks.device_type, shape, mesh_dim_names=("replica", "shard"))


def check_resharding(reshard_after_forward: bool | int, mesh: DeviceMesh) -> None:
    """Refuse a number of ranks that does not divide those of a replica, or is all of them.

    Raises:
        ConfigError: If weights cannot be kept sharded over that many ranks.
    """
    size = mesh.size(-1)
    if isinstance(reshard_after_forward, bool) or (
        size % reshard_after_forward == 0 and reshard_after_forward < size
    ):
        return
    raise ConfigError(
        f"ShardedStrategy.reshard_after_forward: expected true, false or a divisor of {size}, the "
        f"number of ranks that share the weights, below it; got {reshard_after_forward}"
    )
