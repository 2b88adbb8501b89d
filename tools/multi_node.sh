#!/usr/bin/env bash
# One run on several machines, without a scheduler: start this on every one of them.
#
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 tools/multi_node.sh -c configs/experiment/RUN.yaml
#   NNODES=2 NODE_RANK=1 MASTER_ADDR=10.0.0.1 tools/multi_node.sh -c configs/experiment/RUN.yaml
#
# With MAX_RESTARTS torchrun starts all ranks again after one failed. With a range of machines, too,
# the run continues on those that are left when one is lost, and on more when one is added:
#
#   NNODES=2:4 MAX_RESTARTS=10 MASTER_ADDR=10.0.0.1 tools/multi_node.sh -c configs/experiment/RUN.yaml
#
# MASTER_ADDR is the first machine's address as the others see it; that machine must not be lost.
# The words are those of `clipkit fit`. Started again, the run continues from its newest complete
# checkpoint.
#   PER_NODE            processes per machine (its GPUs; 1 where it has none)
#   MASTER_PORT         a free port of the first machine (29500)
#   NODE_RANK           number of this machine; not needed with MAX_RESTARTS
#   MAX_RESTARTS        how often torchrun starts all ranks again after one failed (0); the names of
#                       the machines must resolve on all of them
#   RDZV_CONF           options of torchrun's rendezvous with MAX_RESTARTS (last_call_timeout=30)
#   TORCH_ELASTIC_SHUTDOWN_TIMEOUT
#                       seconds that ranks have to save after SIGTERM, before torchrun kills them (300)
#   PYTHON              the interpreter (python)
#   GLOO_SOCKET_IFNAME  network interface between the machines, such as eth0, if their names do not
#                       resolve to addresses on it (NCCL_SOCKET_IFNAME is the same for NCCL)
set -euo pipefail

: "${NNODES:?number of machines, or MIN:MAX}"
: "${MASTER_ADDR:?address of the first machine}"
gpus=$(nvidia-smi -L 2>/dev/null | wc -l || true)
per_node=${PER_NODE:-$((gpus > 0 ? gpus : 1))}
port=${MASTER_PORT:-29500}

restarts=${MAX_RESTARTS:-0}
# torchrun's own 30 seconds are less than a step and a checkpoint of a large model take.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-300}

# A static rendezvous knows every address beforehand, but its machines cannot start again together.
if ((restarts > 0)) || [[ $NNODES == *:* ]]; then
    placement=(--rdzv_backend c10d --rdzv_endpoint "$MASTER_ADDR:$port" --rdzv_id clipkit
        --rdzv_conf "${RDZV_CONF:-last_call_timeout=30}")
    # torchrun otherwise keeps one store for all starts, in which new ranks find addresses of old ones.
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
else
    : "${NODE_RANK:?0 on the first machine, then 1, 2, ...}"
    placement=(--node_rank "$NODE_RANK" --master_addr "$MASTER_ADDR" --master_port "$port")
fi

# The number of machines is known only when torchrun has started the ranks.
# shellcheck disable=SC2016
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes "$NNODES" --nproc_per_node "$per_node" --max_restarts "$restarts" \
    "${placement[@]}" --no_python \
    bash -c 'exec "$0" -m clipkit.cli.main fit "$@" --ckpt_path last \
        --trainer.num_nodes $((WORLD_SIZE / LOCAL_WORLD_SIZE)) --trainer.devices "$LOCAL_WORLD_SIZE"' \
    "${PYTHON:-python}" "$@"
