#!/usr/bin/env bash
# Everything that needs a GPU, part by part, each at most 10 minutes:
#
#   tools/gpu_check.sh OUT [--dry-run] [--limit SECONDS] [PART ...]
#
#   tests   the tests marked `gpu`                    syncs   host-device synchronisations per step
#   loss    losses at 4k to 131k pairs                steps   time, memory and utilisation of steps
#   loader  complete runs on JPEGs, share of waiting  ranks   DDP and sharded runs on all GPUs, if several
#
# OUT/results.jsonl has one line per test and measurement, written at once, so that a kill loses none;
# OUT/summary.json the machine and what became of each part; OUT/PART.log the rest. The status is 0 if
# everything passed or was skipped with a reason, 1 if something failed or ran out of time.
# --dry-run runs the same on a CPU, with small numbers, to find errors before a GPU is there.
#   PYTHON   the interpreter (python3)
#   WHEELS   a folder of wheels, for a machine without network; made on another one of the same kind by
#            `pip wheel -w WHEELS '.[fp8,onnx,search]' pytest pytest-timeout siglip-kernel`
#   PEER     src folder of an open_clip checkout, for the comparison; else the installed release
# Paths may be relative to the folder in which the script is called.
set -euo pipefail
cd_out() { mkdir -p "$1" && cd "$1" && pwd; }
# The path of a file or folder that must exist, absolute; links stay, by which Python finds its packages.
absolute() {
    [ -e "$2" ] || { echo "gpu_check.sh: $1: expected a path that exists, got $2" >&2; exit 2; }
    case $2 in /*) echo "$2" ;; *) echo "$PWD/$2" ;; esac
}

[ $# -gt 0 ] || { sed -n '2,20s/^# \{0,1\}//p' "$0"; exit 2; }
case $1 in -*) echo "gpu_check.sh: expected a folder for the results first, got $1" >&2; exit 2 ;; esac
out=$(cd_out "$1")
shift
python=${PYTHON:-python3}
case $python in */*) python=$(absolute PYTHON "$python") ;; esac
wheels=${WHEELS:+$(absolute WHEELS "$WHEELS")}
PEER=${PEER:+$(absolute PEER "$PEER")}
export PEER
cd "$(dirname "$0")/.."
if [ -n "$wheels" ]; then
    # The machine's torch is used if it has one; clipkit itself is this checkout.
    "$python" -m venv --system-site-packages "$out/venv"
    python=$out/venv/bin/python
    "$python" -m pip install -q --no-index --find-links "$wheels" \
        'clipkit[fp8,onnx,search]' pytest pytest-timeout
    "$python" -m pip install -q --no-index --find-links "$wheels" --no-deps siglip-kernel ||
        echo "gpu_check.sh: no wheel of siglip-kernel; its comparison is skipped" >&2
fi
exec "$python" tools/gpu_check.py "$out" "$@"
