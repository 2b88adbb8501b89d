"""How long a command line takes to answer, against open_clip's trainer; and how big the code is.

    python tools/bench_startup.py --peer-python peer/bin/python

The peer's environment is that of tools/bench_demo.py. Prints JSON: median seconds of whole
processes, in turn, after one run that is not counted.
"""

from __future__ import annotations

import argparse
import ast
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OWN = [sys.executable, "-m", "clipkit.cli.main"]


def seconds(command: list[str]) -> float:
    """Wall-clock time of a whole process."""
    start = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def medians(commands: dict[str, list[str]], num_runs: int) -> dict[str, float]:
    """Run the commands in turn, so that a drift of the machine meets all of them."""
    runs: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(num_runs + 1):
        for name, command in commands.items():
            took = seconds(command)
            if number > 0:
                runs[name].append(took)
    return {name: round(statistics.median(times), 3) for name, times in runs.items()}


def functions(path: Path) -> Iterator[tuple[int, str]]:
    """Lines and place of every function in a file, docstrings not counted."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                docstring = node.body[0]
                assert docstring.end_lineno is not None
                length -= docstring.end_lineno - docstring.lineno + 1
            yield length, f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"


def size_of_code() -> dict[str, Any]:
    """Lines of the package's files that are not blank, and its largest file and function."""
    files = sorted((ROOT / "clipkit").rglob("*.py"))
    lines = {path: path.read_text(encoding="utf-8").splitlines() for path in files}
    longest = max(files, key=lambda path: len(lines[path]))
    length, place = max(found for path in files for found in functions(path))
    return {
        "num_files": len(files),
        "num_lines": sum(bool(line.strip()) for text in lines.values() for line in text),
        "largest_file": f"{longest.relative_to(ROOT)}: {len(lines[longest])} lines",
        "largest_function": f"{place}: {length} lines",
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--num-runs", type=int, default=5)
    args = parser.parse_args()
    peer = str(args.peer_python)
    took = medians(
        {
            "clipkit --help": [*OWN, "--help"],
            "clipkit fit --help": [*OWN, "fit", "--help"],
            "import clipkit.models": [sys.executable, "-c", "import clipkit.models"],
            "open_clip_train.main --help": [peer, "-m", "open_clip_train.main", "--help"],
            "import open_clip": [peer, "-c", "import open_clip"],
        },
        args.num_runs,
    )
    result = {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "date": date.today().isoformat(),
        "seconds": took,
        "ratio": {
            "help": took["open_clip_train.main --help"] / took["clipkit --help"],
            "import": took["import open_clip"] / took["import clipkit.models"],
        },
        "code": size_of_code(),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
