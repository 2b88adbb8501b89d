"""The run that ``bench_crash.py`` breaks, and the server that it takes down."""

from __future__ import annotations

import functools
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback

ROOT = Path(__file__).resolve().parents[1]
NUM_SHARDS, SHARD_SAMPLES, STEP_SAMPLES = 80, 8, 8
NUM_STEPS = NUM_SHARDS * SHARD_SAMPLES // STEP_SAMPLES
FAULT_AT, SAVE_EVERY = 33, 10
POISONED = (FAULT_AT, FAULT_AT + 1)
MODEL = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "head_width": 32, "layers": 2},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
CALLBACKS = "clipkit.training.callbacks"


class Slow(Callback):
    """A tenth of a second a step, so that faults hit where they are meant to."""

    def on_train_batch_end(self, *_: Any) -> None:
        """Wait."""
        time.sleep(0.1)


class Poison(Callback):
    """Embeddings that are NaN at some steps."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Hook into the encoder."""

        def poison(_module: Any, _inputs: Any, embeddings: Any) -> Any:
            if trainer.global_step + 1 in POISONED:
                embeddings.image = embeddings.image * float("nan")
            return embeddings

        pl_module.encoder.register_forward_hook(poison)


class Run:
    """One run of ``clipkit fit`` in a folder of its own."""

    def __init__(self, folder: Path, train: str, ranks: int, *extra: dict[str, Any]) -> None:
        self.folder, self.ranks = folder, ranks
        self.saves_in = folder
        self.train, self.extra = train, extra
        self.log = folder / "log.txt"
        folder.mkdir()

    def start(self) -> subprocess.Popen[bytes]:
        """The command under torchrun, in a process group of its own."""
        callbacks: list[dict[str, Any]] = [
            {"class_path": "crash_run.Slow"},
            {"class_path": f"{CALLBACKS}.KeyLog", "init_args": {"path": f"{self.folder}/keys.txt"}},
            {"class_path": f"{CALLBACKS}.StepGuard"},
            {"class_path": f"{CALLBACKS}.SaveCheckpoint",
             "init_args": {"every_n_steps": SAVE_EVERY, "folder": str(self.saves_in)}},
            *self.extra,
        ]  # fmt: skip
        words = [
            "--model.encoder=clipkit.models.from_open_clip",
            f"--model.encoder.name={json.dumps(MODEL)}",
            "--model.loss.contrastive=clipkit.losses.ContrastiveLoss",
            "--model.optimizer=torch.optim.AdamW",
            "--model.schedule=clipkit.optim.WarmupCosine",
            f"--data.train={self.train}",
            f"--data.batch_size={STEP_SAMPLES // self.ranks}",
            f"--data.order.shuffle_window={SHARD_SAMPLES}",
            "--trainer.accelerator=cpu",
            f"--trainer.strategy={'ddp' if self.ranks > 1 else 'auto'}",
            f"--trainer.max_steps={NUM_STEPS}",
            "--trainer.logger=false",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
            f"--trainer.default_root_dir={self.folder}",
            f"--trainer.callbacks={json.dumps(callbacks)}",
        ]
        variables = {
            "NNODES": "1", "NODE_RANK": "0", "PER_NODE": str(self.ranks),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
            "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tools'}",
            "CLIPKIT_CACHE": str(self.folder / "cache"),
        }  # fmt: skip
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [str(ROOT / "tools" / "multi_node.sh"), *words],
                env={**os.environ, **variables}, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def steps(self) -> int:
        """The last step in the log of keys."""
        path = self.folder / "keys.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return max((int(line.split()[0]) for line in lines), default=0)

    def until(self, step: int, process: subprocess.Popen[bytes]) -> None:
        """Wait for a step."""
        deadline = time.monotonic() + 300
        while self.steps() < step:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{self.folder.name}: no step {step}: {self.tail()}")
            time.sleep(0.02)

    def finish(self) -> int:
        """Start, and wait for the end."""
        return self.start().wait(timeout=600)

    def saved_step(self) -> int:
        """The step of ``last.ckpt``."""
        stored = torch.load(self.saves_in / "last.ckpt", weights_only=True, mmap=True)
        return int(stored["global_step"])

    def weights(self) -> dict[str, torch.Tensor]:
        """Those of ``last.ckpt``."""
        stored = torch.load(self.saves_in / "last.ckpt", weights_only=True)
        return dict(stored["state_dict"])

    def keys(self) -> list[str]:
        """What the weights have seen."""
        return [line.split()[2] for line in (self.folder / "keys.txt").read_text().splitlines()]

    def tail(self) -> str:
        """The end of the log."""
        return self.log.read_text(errors="replace")[-1500:]


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


class Server:
    """An HTTP server of a folder that can be away."""

    def __init__(self, folder: Path) -> None:
        self._handler = functools.partial(_Quiet, directory=str(folder))
        self.port = free_port()
        self.up()

    def up(self) -> None:
        """Answer."""
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), self._handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def down(self) -> None:
        """Refuse connections."""
        self._server.shutdown()
        self._server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""
