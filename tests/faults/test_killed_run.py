"""A run that is killed by SIGKILL is told from its record, and the next one continues it."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

from clipkit.runs import load_runs, read_run
from tests.helpers import tiny

SCRIPT = """
    import os, signal, sys
    from pathlib import Path
    from lightning.pytorch import Callback
    from clipkit.training.callbacks import RunRecorder, SaveCheckpoint
    from clipkit.training.loggers.metrics_csv import MetricsCsv
    from tests.helpers import tiny

    class Kill(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 3 and sys.argv[3] == "kill":
                os.kill(os.getpid(), signal.SIGKILL)

    run, last = sys.argv[2], os.path.join(sys.argv[2], "last.ckpt")
    callbacks = RunRecorder(), SaveCheckpoint(every_n_steps=1), Kill()
    trainer = tiny.trainer(run, *callbacks, max_steps=5, logger=MetricsCsv(run))
    trainer.fit(tiny.module(), datamodule=tiny.data(Path(sys.argv[1])),
                ckpt_path=last if os.path.exists(last) else None)
"""


def fit(shards: Path, run: Path, mode: str) -> int:
    code = textwrap.dedent(SCRIPT)
    words = [sys.executable, "-c", code, str(shards), str(run), mode]
    return subprocess.run(words, timeout=300, check=False).returncode


def test_a_killed_run_is_told_and_continues(tmp_path: Path) -> None:
    tiny.shards(tmp_path / "shards")
    run = tmp_path / "runs/first"
    assert fit(tmp_path / "shards", run, "kill") == -signal.SIGKILL
    assert read_run(run).state == "running"
    (record,) = load_runs([tmp_path / "runs"])
    assert record.state == "killed"
    assert record.place_of(record.checkpoint) == str(run / "last.ckpt")
    assert fit(tmp_path / "shards", run, "continue") == 0
    (record,) = load_runs([tmp_path / "runs"])
    assert (record.state, record.step) == ("finished", 5)
