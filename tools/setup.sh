#!/usr/bin/env bash
# Create a virtual environment and install clipkit with one extra.
# Usage: PYTHON=python3 tools/setup.sh VENV EXTRA
set -euo pipefail

venv=$1
extra=$2
python=${PYTHON:-python3}

fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

command -v "$python" >/dev/null || fail "no $python on the PATH: apt-get install python3 python3-venv, or make PYTHON=/path/to/python3.11"

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case $version in
    3.11 | 3.12 | 3.13) ;;
    *) fail "expected Python 3.11 to 3.13, got $version ($python): name another with make PYTHON=python3.12" ;;
esac
"$python" -c 'import venv, ensurepip' 2>/dev/null || fail "$python lacks venv: apt-get install python$version-venv"

free_mib=$(df -Pm "$(dirname "$venv")" | awk 'NR == 2 {print $4}')
if [ ! -x "$venv/bin/pip" ] && [ "$free_mib" -lt 8000 ]; then
    fail "expected 8,000 MiB of free disk for torch and its libraries, got $free_mib MiB at $(pwd)"
fi

if [ ! -x "$venv/bin/pip" ]; then
    echo "setup: creating $venv with Python $version"
    "$python" -m venv "$venv" || fail "could not create $venv"
fi

echo "setup: installing clipkit[$extra] into $venv (some minutes the first time)"
log=$venv/install.log
if ! "$venv/bin/python" -m pip install --disable-pip-version-check -e ".[$extra]" >"$log" 2>&1; then
    tail -n 15 "$log" >&2
    if grep -qiE 'No space left' "$log"; then
        fail "the disk is full; the whole log is $log"
    elif grep -qiE 'NewConnectionError|Temporary failure in name resolution|ConnectTimeout|Network is unreachable' "$log"; then
        fail "no package index could be reached; check the network or PIP_INDEX_URL; the whole log is $log"
    fi
    fail "pip could not install clipkit[$extra]; the whole log is $log"
fi
touch "$venv/.installed-$extra"
