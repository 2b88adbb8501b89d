"""Worker processes of a stream that die, and programs that end while some are running."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.helpers.factories import write_shards

START = """
import multiprocessing, os, signal, sys, time
from clipkit.data import PairStream, ShardIndex
from clipkit.data.stream import workers
from tests.helpers.streams import ids, make
workers.TASK_SAMPLES = 3
def stream(num_workers):
    return make(ShardIndex.from_urls(sys.argv[1]), 10, num_workers=num_workers)
"""

KILLED = """
first, plain = stream(2), stream(0)
batches = iter(first)
batch = next(batches)
first.commit(batch)
plain.commit(next(iter(plain)))
try:
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    for batch in batches:  # those that are ready may still come
        first.commit(batch)
        plain.load_state_dict(first.state_dict())
except RuntimeError as error:
    assert "worker" in str(error), error
else:
    raise AssertionError("no error")
end = time.monotonic() + 30
while multiprocessing.active_children():
    assert time.monotonic() < end
assert ids(next(iter(first))) == ids(next(iter(plain)))  # with new workers
print("continued")
"""

BROKEN = """
def fail():
    raise ConnectionResetError(104, "Connection reset by peer")
class Broken:
    def __reduce__(self):
        return fail, ()
workers.GuardedBuilder.__getitem__ = lambda self, task: Broken()
try:
    next(iter(stream(1)))
except RuntimeError as error:
    assert "worker process of the data ended" in str(error), error
    assert "ConnectionResetError" in str(error), error
else:
    raise AssertionError("no error")
end = time.monotonic() + 30
while multiprocessing.active_children():
    assert time.monotonic() < end
print("named")
"""

INTERRUPTED = r"Exception ignored in: <function _MultiProcessingDataLoaderIter.*>\nTraceback"

LEFT = """
first, second = iter(stream(2)), iter(stream(2))
next(first), next(second)
del first
print("left")
"""


def run(code: str, shards: Path) -> str:
    write_shards(shards, [60])
    done = subprocess.run(
        [sys.executable, "-c", START + code, str(shards)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # torch's signal handler may interrupt torch's own clean-up, which Python prints
    printed = re.sub(INTERRUPTED, "", done.stderr) if code is KILLED else done.stderr
    assert "Traceback" not in printed, done.stderr
    return done.stdout


def test_a_killed_worker_ends_the_iteration_and_not_the_stream(tmp_path: Path) -> None:
    assert run(KILLED, tmp_path).endswith("continued\n")


def test_a_connection_that_breaks_is_named_as_a_worker(tmp_path: Path) -> None:
    """A process that is killed while it hands over samples."""
    assert run(BROKEN, tmp_path) == "named\n"


def test_a_program_ends_although_workers_are_running(tmp_path: Path) -> None:
    """Those of an iterator that is deleted, and of one that is not."""
    assert run(LEFT, tmp_path).endswith("left\n")
