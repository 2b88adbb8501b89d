#!/usr/bin/env bash
# One run on several machines, without a scheduler: start this on every one of them.
#
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 tools/multi_node.sh -c configs/experiment/RUN.yaml
#   NNODES=2 NODE_RANK=1 MASTER_ADDR=10.0.0.1 tools/multi_node.sh -c configs/experiment/RUN.yaml
#
# MASTER_ADDR is the first machine's address as the others see it. The words are those of
# `clipkit fit`. Started again, the run goes on from its newest whole checkpoint.
#   PER_NODE      processes a machine (its GPUs; 1 where it has none)
#   MASTER_PORT   a free port of the first machine (29500)
#   MAX_RESTARTS  how often torchrun starts all ranks again after one failed (0)
#   PYTHON        the interpreter (python)
set -euo pipefail

: "${NNODES:?number of machines}" "${NODE_RANK:?0 on the first machine, then 1, 2, ...}"
: "${MASTER_ADDR:?address of the first machine}"
gpus=$(nvidia-smi -L 2>/dev/null | wc -l || true)
per_node=${PER_NODE:-$((gpus > 0 ? gpus : 1))}

exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes "$NNODES" --node_rank "$NODE_RANK" --nproc_per_node "$per_node" \
    --master_addr "$MASTER_ADDR" --master_port "${MASTER_PORT:-29500}" \
    --max_restarts "${MAX_RESTARTS:-0}" \
    -m clipkit.cli.main fit "$@" \
    --trainer.num_nodes "$NNODES" --trainer.devices "$per_node" --ckpt_path last
