#!/usr/bin/env bash
# Install the lowest versions that pyproject.toml allows, and run the fast tests with them, those of
# extras, and those of the command line that use Lightning and jsonargparse most. The extra "onnx" wants a
# newer torch than the package, and is left out.
# Usage: PYTHON=python3.11 tools/lowest.sh VENV [NAME==VERSION ...]
# A version that is named replaces the lowest one; pip installs it first, also from a local index.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${1:?usage: tools/lowest.sh VENV [NAME==VERSION ...]}
shift
python=${PYTHON:-python3}
extras=albumentations,audio,demo,fp8,lora,qdrant,ray,remote,search,tables,tensorboard,tiktoken,tune
# Of the extra "test" only what these tests need: its other packages want newer versions.
tools="pytest pytest-timeout pytest-xdist hypothesis moto[server] braceexpand psutil mlflow-skinny httpx
    scikit-learn pandas"

"$python" -m venv --clear "$venv"
# uv resolves in seconds what takes pip more than ten minutes.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check uv packaging "$@"
"$venv/bin/python" tools/lowest_versions.py "$@" >"$venv/lowest.txt"
echo "lowest: installing $(wc -l <"$venv/lowest.txt") packages in their lowest versions ($venv/lowest.txt)"
# shellcheck disable=SC2086
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" -c "$venv/lowest.txt" \
    -e ".[$extras]" $tools
# shellcheck disable=SC2086
PYTHONPATH=$PWD "$venv/bin/python" -m pytest -q -p no:cacheprovider \
    tests/data tests/losses tests/metrics tests/models tests/optim tests/collection tests/curation \
    tests/search --ignore tests/search/test_serving_openapi.py tests/tuning \
    tests/training/test_lightning_compat.py tests/sweeps/test_float8_training.py tests/cli/test_fit.py tests/cli/test_loggers.py ${PYTEST_ARGS:-}
