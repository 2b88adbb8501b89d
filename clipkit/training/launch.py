"""Run ``clipkit fit`` in a separate process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from clipkit.remote_code import FLAG, is_trusted


def launch_fit(config: Path | str, options: Sequence[str] = (), log: Path | None = None) -> int:
    """Run ``clipkit fit -c config`` in a separate process and wait for it.

    A separate process has its own seeds, signals and memory: if the run is killed, the caller
    continues. If the caller is interrupted, the process is terminated. It may run the Python code
    of models if the caller may.
    """
    trust = [FLAG] if is_trusted() else []
    words = ["fit", "-c", str(config), *options, *trust]
    command = [sys.executable, "-m", "clipkit.cli.main", *words]
    with ExitStack() as stack:
        output = None if log is None else stack.enter_context(log.open("w", encoding="utf-8"))
        process = subprocess.Popen(command, stdout=output, stderr=output and subprocess.STDOUT)
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
