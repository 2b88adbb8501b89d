"""The demo against open_clip's own trainer: same shards, same architecture, same wall-clock time.

Run `clipkit demo`, then open_clip's trainer for as many epochs as fit into the same minutes (found
by a short calibration run), in turn on the same machine and for every seed, and evaluate all models
with the same code. Print JSON: every run, and the means over the seeds.

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
    args: argparse.Namespace, config: Path, data: Path, epochs: int, seed: int, name: str
) -> list[str]:
    """Return open_clip's trainer with the settings that its README gives, warm-up of a tenth."""
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
        "--log-every-n-steps", "100000", "--seed", str(seed),
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


def calibrate_peer(args: argparse.Namespace, config: Path, data: Path) -> tuple[float, float]:
    """Return the seconds of an epoch of open_clip's trainer, and those of its start."""
    one, some = (
        run(
            peer_command(args, config, data, epochs, 0, f"{config.stem}-{epochs}-epochs"),
            args.output / f"{config.stem}-{epochs}-epochs.log",
        )
        for epochs in (1, 1 + CALIBRATION_EPOCHS)
    )
    seconds_per_epoch = (some - one) / CALIBRATION_EPOCHS
    return seconds_per_epoch, one - seconds_per_epoch


def train_peer(
    args: argparse.Namespace, config: Path, data: Path, seed: int, pace: tuple[float, float]
) -> dict[str, Any]:
    """Train with open_clip's trainer for as many epochs as fit into the time."""
    seconds_per_epoch, start = pace
    # The start of the process is not counted against it, as it is not against clipkit.
    epochs = max(1, round(60 * args.minutes / seconds_per_epoch))
    name = f"{config.stem}-seed-{seed}"
    wall = run(peer_command(args, config, data, epochs, seed, name), args.output / f"{name}.log")
    samples = epochs * (args.num_samples // args.batch_size) * args.batch_size
    checkpoint = args.output / "open_clip" / name / "checkpoints" / f"epoch_{epochs}.pt"
    return {
        "minutes": (wall - start) / 60, "epochs": epochs, "num_samples": samples,
        "samples_per_second": samples / (wall - start), "checkpoint": str(checkpoint),
    }  # fmt: skip


def train_own(args: argparse.Namespace, folder: Path, seed: int) -> dict[str, Any]:
    """Run the demo; return what it took."""
    command = [
        sys.executable, "-m", "clipkit.cli.main", "demo", "--output", str(folder),
        "--minutes", str(args.minutes), "--seed", str(seed),
    ]  # fmt: skip
    run(command, args.output / f"clipkit-seed-{seed}.log")
    figures = json.loads((folder / "metrics.json").read_text())
    return {key: value for key, value in figures.items() if key.startswith("train/")}


def evaluate(encoder: Any, sets: dict[str, str]) -> dict[str, float]:
    """Recalls on every set, with the same code for both."""
    from clipkit.evaluation import Retrieval

    return {
        f"{name}/{key}": value
        for name, folder in sets.items()
        for key, value in Retrieval(folder).run(encoder).items()
        if key in KEYS
    }


def means(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean over the runs of every figure."""
    return {
        key: sum(run[key] for run in runs) / len(runs)
        for key, value in runs[0].items()
        if isinstance(value, int | float)
    }


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("runs/bench_demo"))
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
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
    return parser.parse_args()


def compare(args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Train and evaluate with every trainer and seed, in turn; return the runs of each trainer."""
    from clipkit.data.demo.emoji import pack_demo
    from clipkit.models import from_open_clip, load_encoder

    data = pack_demo(args.output / "data")
    args.num_samples = data.num_training_pairs
    sets = {name: str(getattr(data, name)) for name in ("unseen_drawings", "unseen_concepts")}
    sets.update(extra.split("=", 1) for extra in args.extra)
    configs = args.peer_config or sorted((ROOT / "configs" / "open_clip").glob("*.json"))
    paces = {config: calibrate_peer(args, config, data.root) for config in configs}
    runs: dict[str, list[dict[str, Any]]] = {}

    def record(name: str, seed: int, trained: dict[str, Any], encoder: Any) -> None:
        found = {"seed": seed, **trained, **evaluate(encoder.eval(), sets)}
        runs.setdefault(name, []).append(found)
        (args.output / "runs.json").write_text(json.dumps(runs, indent=2) + "\n")

    for seed in args.seeds:
        folder = args.output / f"clipkit-seed-{seed}"
        trained = train_own(args, folder, seed)
        record("clipkit", seed, trained, load_encoder(folder / "last.ckpt"))
        for config in configs:
            trained = train_peer(args, config, data.root, seed, paces[config])
            encoder = from_open_clip(str(config), trained["checkpoint"])
            record(f"open_clip {config.stem}", seed, trained, encoder)
    return runs


def main() -> None:
    """Run all and print."""
    args = parse_arguments()
    args.output.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(ROOT))
    runs = compare(args)
    result: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "date": date.today().isoformat(),
        "minutes": args.minutes,
        "runs": runs,
        "means": {name: means(found) for name, found in runs.items()},
    }
    own = result["means"]["clipkit"]
    result["ratio"] = {
        f"{name}/{key}": own[key] / max(found[key], 1e-9)
        for name, found in result["means"].items()
        for key in own
        if name != "clipkit" and key.endswith(("recall_at_1", "recall_at_10"))
    }
    text = json.dumps(result, indent=2)
    (args.output / "bench_demo.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
