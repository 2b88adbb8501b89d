"""The demo against open_clip's own trainer: same shards, same architecture, same wall-clock time.

Runs `clipkit demo`, then open_clip's trainer for as many epochs as fit into the same minutes (found
by a short calibration run), in turn on the same machine, and evaluates both models with the same
code. Prints JSON.

open_clip's trainer needs webdataset <= 0.2.86, so it lives in an environment of its own:

    python -m venv peer
    peer/bin/pip install "open_clip_torch[training] @ git+https://github.com/mlfoundations/open_clip"
    python tools/bench_demo.py --peer-python peer/bin/python --output runs/bench_demo
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WAYS = ("image_to_text", "text_to_image")
KEYS = tuple(f"{way}/recall_at_{k}" for way in WAYS for k in (1, 5, 10))
RUN_PEER = (
    "import sys, open_clip; open_clip.add_model_config(sys.argv[1]); "
    "from open_clip_train.main import main; main(sys.argv[2:])"
)
CALIBRATION_EPOCHS = 3


def peer_command(
    args: argparse.Namespace, config: Path, data: Path, epochs: int, name: str
) -> list[str]:
    """open_clip's trainer with the settings that its README gives, warm-up of a tenth."""
    steps = epochs * (args.num_samples // args.batch_size)
    return [
        str(args.peer_python), "-c", RUN_PEER, str(config.parent),
        "--model", config.stem, "--dataset-type", "webdataset",
        "--train-data", str(data / "train" / "{00000..00003}.tar"),
        "--train-num-samples", str(args.num_samples),
        "--batch-size", str(args.batch_size), "--epochs", str(epochs),
        "--lr", str(args.peer_lr), "--wd", "0.1", "--beta2", "0.98", "--eps", "1e-6",
        "--warmup", str(max(1, steps // 10)), "--workers", "1", "--precision", "fp32",
        "--logs", str(args.output / "open_clip"), "--name", name, "--save-frequency", str(epochs),
        "--log-every-n-steps", "100000",
    ]  # fmt: skip


def run(command: list[str], log: Path) -> float:
    """Run a command, its output into a file; returns its seconds."""
    start = time.monotonic()
    with log.open("w") as file:
        status = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, check=False
        ).returncode
    if status != 0:
        raise SystemExit(f"{command[0]} failed with status {status}; see {log}")
    return time.monotonic() - start


def train_peer(args: argparse.Namespace, config: Path, data: Path) -> dict[str, Any]:
    """Fit open_clip's trainer into the time, and train."""
    one = run(peer_command(args, config, data, 1, f"{config.stem}-one"), args.output / "one.log")
    some = run(
        peer_command(args, config, data, 1 + CALIBRATION_EPOCHS, f"{config.stem}-some"),
        args.output / "some.log",
    )
    seconds_per_epoch = (some - one) / CALIBRATION_EPOCHS
    # The start of the process is not counted against it, as it is not against clipkit.
    epochs = max(1, int(60 * args.minutes / seconds_per_epoch))
    wall = run(
        peer_command(args, config, data, epochs, config.stem), args.output / f"{config.stem}.log"
    )
    samples = epochs * (args.num_samples // args.batch_size) * args.batch_size
    training = wall - (one - seconds_per_epoch)
    checkpoint = args.output / "open_clip" / config.stem / "checkpoints" / f"epoch_{epochs}.pt"
    return {
        "minutes": training / 60, "epochs": epochs, "num_samples": samples,
        "samples_per_second": samples / training, "checkpoint": str(checkpoint),
    }  # fmt: skip


def evaluate(encoder: Any, sets: dict[str, str]) -> dict[str, float]:
    """Recalls on every set, with the same code for both."""
    from clipkit.evaluation import Retrieval

    return {
        f"{name}/{key}": value
        for name, folder in sets.items()
        for key, value in Retrieval(folder).run(encoder).items()
        if key in KEYS
    }


def main() -> None:
    """Run both and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("runs/bench_demo"))
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--batch-size", type=int, default=128, help="of open_clip's trainer")
    parser.add_argument("--peer-lr", type=float, default=1e-3)
    parser.add_argument(
        "--peer-config", type=Path, action="append",
        help="open_clip configurations to train; default: the demo's own, and a small ViT",
    )  # fmt: skip
    parser.add_argument(
        "--extra", action="append", default=[], metavar="NAME=DIR",
        help="more evaluation data in CLIP_benchmark's layout (other artists)",
    )  # fmt: skip
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(ROOT))
    from clipkit.data.demo import pack_demo
    from clipkit.models import from_open_clip, load_encoder

    own = args.output / "clipkit"
    data = pack_demo(own / "data")
    args.num_samples = data.num_training_pairs
    sets = {
        "unseen_drawings": str(data.unseen_drawings),
        "unseen_concepts": str(data.unseen_concepts),
    }
    sets.update(extra.split("=", 1) for extra in args.extra)
    result: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "date": date.today().isoformat(),
        "minutes": args.minutes,
    }
    command = [
        sys.executable,
        "-m",
        "clipkit.cli.main",
        "demo",
        "--output",
        str(own),
        "--minutes",
        str(args.minutes),
    ]
    run(command, args.output / "clipkit.log")
    figures = json.loads((own / "metrics.json").read_text())
    result["clipkit"] = {k: v for k, v in figures.items() if k.startswith("train/")}
    result["clipkit"].update(evaluate(load_encoder(own / "last.ckpt"), sets))
    for config in args.peer_config or sorted((ROOT / "configs" / "open_clip").glob("*.json")):
        trained = train_peer(args, config, data.root)
        encoder = from_open_clip(str(config), trained["checkpoint"])
        result[f"open_clip {config.stem}"] = {**trained, **evaluate(encoder.eval(), sets)}
    peers = [name for name in result if name.startswith("open_clip ")]
    result["ratio"] = {
        f"{name}/{key}": result["clipkit"][key] / max(result[name][key], 1e-9)
        for name in peers
        for key in result["clipkit"]
        if key.endswith(("recall_at_1", "recall_at_10"))
    }
    text = json.dumps(result, indent=2)
    (args.output / "bench_demo.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
