#!/usr/bin/env bash
# Everything that needs a GPU, part by part; JSON lines go to OUT/PART.jsonl, tests to OUT/tests.txt.
# Usage: tools/gpu_check.sh OUT [PART ...]        parts: tests syncs loss steps loader (default: all)
# PYTHON names the interpreter; PEER is the src folder of an open_clip checkout, for the comparison.
set -uo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
shift
cd "$(dirname "$0")/.." || exit
python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
[ $# -gt 0 ] || set -- tests syncs loss steps loader

peer() { # run a tool with open_clip's checkout in front of the installed release
    PYTHONPATH="${PEER:+$PEER:}$PYTHONPATH" "$python" "$@"
}

tests() {
    "$python" -m pytest -q -p no:cacheprovider --timeout=240 -m gpu tests/gpu 2>&1 | tee "$out/tests.txt"
}

syncs() {
    "$python" tools/gpu_syncs.py 2>"$out/syncs.err" | tee "$out/syncs.jsonl"
    "$python" tools/gpu_syncs.py --labels 2>>"$out/syncs.err" | tee -a "$out/syncs.jsonl"
}

loss() {
    # shellcheck disable=SC2086
    peer tools/bench_gpu_loss.py --sizes ${SIZES:-4096 16384 32768 65536 131072} 2>"$out/loss.err" |
        tee "$out/loss.jsonl"
}

steps() {
    : >"$out/steps.jsonl"
    for pair in ${MODELS:-ViT-B-32:1024 ViT-B-16:512 ViT-L-14:192}; do
        model=${pair%:*} batch=${pair#*:}
        "$python" tools/bench_gpu_steps.py --runner clipkit --model "$model" --batch-size "$batch" \
            --lengths 77 32 2>"$out/steps.err" | tee -a "$out/steps.jsonl"
        peer tools/bench_gpu_steps.py --runner open_clip --model "$model" --batch-size "$batch" \
            2>>"$out/steps.err" | tee -a "$out/steps.jsonl"
    done
}

loader() {
    local folder
    folder=$(mktemp -d)
    "$python" tools/photo_shards.py "$folder/data" --photos "${PHOTOS:-60000}"
    for pair in ${LOADER_MODELS:-ViT-B-32:512:80 ViT-L-14:128:60}; do
        IFS=: read -r model batch steps <<<"$pair"
        "$python" -m clipkit.cli.main fit -c configs/model/vit_b32.yaml -c configs/data/webdataset.yaml \
            -c configs/trainer/gpu.yaml --model.encoder.init_args.name "$model" \
            --model.schedule.init_args.warmup 10 \
            --trainer.callbacks+ clipkit.training.callbacks.CompileTowers \
            --data.train "$folder/data/*.tar" --data.val null --data.batch_size "$batch" \
            --data.num_workers "${WORKERS:-$(($(nproc) - 2))}" --trainer.max_steps "$steps" \
            --trainer.max_epochs -1 --trainer.log_every_n_steps 20 \
            --trainer.logger clipkit.training.MetricsCsv --trainer.logger.save_dir "$folder/$model" \
            --trainer.default_root_dir "$folder/$model" >"$out/loader_$model.log" 2>&1
        echo "loader $model: status $?"
        find "$folder/$model" -name metrics.csv -exec cp {} "$out/loader_$model.csv" \;
    done
    rm -rf "$folder"
}

for part in "$@"; do
    start=$SECONDS
    echo "== $part"
    "$part"
    echo "== $part took $((SECONDS - start)) s"
done
