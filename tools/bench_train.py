"""Training against open_clip's own trainer: same shards, architecture, batch, workers, precision.

Three questions, each a part that can be run alone (--part):

speed     samples per second of whole training processes. Each trainer is run for a short and a
          longer number of steps; the rate is that of the steps in between, so that neither start
          nor checkpoint counts; per second, and per second of CPU time. open_clip is run as it
          comes: it pads captions to 77 tokens, and its variable_text needs another tokenizer.
equality  the loss of each of the first steps, from the same weights, over the same pictures and
          captions in the same order, without augmentation.
overhead  Lightning's trainer against a plain loop over the same parts, in turn.

open_clip's trainer needs webdataset <= 0.2.86, so both lie apart from this environment:

    git clone https://github.com/mlfoundations/open_clip peer/open_clip
    pip install --no-deps --target peer/wds webdataset==0.2.86
    python tools/bench_train.py --peer-path peer/wds:peer/open_clip/src \
        --data 'data/train/*.tar' --case vit_b32 --output runs/bench_train

Prints JSON, and writes it to OUTPUT/bench_train_CASE_PART.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tarfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

RUN_PEER = """
import sys, open_clip
open_clip.add_model_config(sys.argv[1])
from open_clip_train.main import main
main(sys.argv[2:])
"""
# The trainer as it is, over given files in order, with open_clip's own evaluation transform.
RUN_PEER_IN_ORDER = """
import json, sys, torch, open_clip
from PIL import Image
from open_clip_train import data, main
open_clip.add_model_config(sys.argv[1])
pairs = json.load(open(sys.argv[2]))
class Pairs(torch.utils.data.Dataset):
    def __init__(self, preprocess, tokenize): self.preprocess, self.tokenize = preprocess, tokenize
    def __len__(self): return len(pairs)
    def __getitem__(self, i):
        image = self.preprocess(Image.open(pairs[i][0]).convert("RGB"))
        return {"image": image, "text": self.tokenize([pairs[i][1]])[0]}
def get_data(args, transforms, epoch=0, tokenizer=None, **_):
    loader = torch.utils.data.DataLoader(Pairs(transforms[1], tokenizer), args.batch_size)
    loader.num_samples, loader.num_batches = len(pairs), len(loader)
    return {"train": data.DataInfo(loader)}
main.get_data = get_data
main.main(sys.argv[3:])
"""
CASES: dict[str, dict[str, Any]] = {
    "vit_b32": {"model": "configs/model/vit_b32.yaml", "peer_model": "ViT-B-32", "batch_size": 16,
                "short": 3, "long": 15, "overhead_steps": 6},
    "small": {"model": "configs/model/vit_tiny.yaml", "peer_model": None, "batch_size": 64,
              "short": 10, "long": 90, "overhead_steps": 25},
}  # fmt: skip
LEARNING_RATE, EQUAL_STEPS, EQUAL_WARMUP = 5e-4, 20, 10


def run(command: list[str], log: Path, env: dict[str, str] | None = None) -> tuple[float, float]:
    """Run a command with its output in a file; returns its seconds, by the clock and of CPU."""
    start, used = time.perf_counter(), cpu_seconds()
    with log.open("w") as file:
        done = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, check=False, env=env, cwd=ROOT
        )
    if done.returncode != 0:
        raise SystemExit(f"{command[:3]} failed with status {done.returncode}; see {log}")
    return time.perf_counter() - start, cpu_seconds() - used


def remove_weights(folder: Path) -> None:
    """A disk holds few checkpoints of a large model."""
    for path in [*folder.rglob("*.ckpt"), *folder.rglob("*.pt")]:
        path.unlink()


def cpu_seconds() -> float:
    """CPU time of the processes that have ended, their workers included."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def own_command(args: argparse.Namespace, folder: Path, steps: int, *more: str) -> list[str]:
    """`clipkit fit` with the shipped configuration."""
    return [
        sys.executable, "-m", "clipkit.cli.main", "fit",
        "-c", args.case["model"], "-c", "configs/data/webdataset.yaml",
        "-c", "configs/trainer/cpu.yaml", "--data.train", args.data, "--data.val", "null",
        "--data.batch_size", str(args.batch_size), "--data.num_workers", str(args.workers),
        "--trainer.max_steps", str(steps), "--trainer.max_epochs", "-1",
        "--trainer.max_time", "null", "--trainer.precision", args.precision,
        "--trainer.default_root_dir", str(folder), *more,
    ]  # fmt: skip


def peer_options(args: argparse.Namespace, folder: Path, steps: int, warmup: int) -> list[str]:
    """Options of open_clip's trainer: those that its README gives, and this benchmark's."""
    precision = {"32-true": "fp32", "bf16-mixed": "amp_bf16"}[args.precision]
    return [
        "--model", args.peer_model, "--dataset-type", "webdataset",
        "--train-data", "::".join(shards(args.data)),
        "--train-num-samples", str(steps * args.batch_size), "--epochs", "1",
        "--batch-size", str(args.batch_size), "--workers", str(args.workers),
        "--lr", str(LEARNING_RATE), "--beta2", "0.98", "--eps", "1e-6",
        "--warmup", str(warmup), "--precision", precision, "--device", "cpu",
        "--logs", str(folder), "--name", f"steps{steps}", "--save-frequency", "1",
    ]  # fmt: skip


def peer_env(args: argparse.Namespace) -> dict[str, str]:
    """An environment that finds open_clip's trainer and its webdataset first."""
    return {**os.environ, "PYTHONPATH": args.peer_path}


def speed(args: argparse.Namespace) -> dict[str, Any]:
    """Samples per second of both trainers."""
    short, long = args.steps or (args.case["short"], args.case["long"])
    result: dict[str, Any] = {"steps": [short, long]}
    for name in args.runners:
        seconds = []
        # the first run, which finds nothing in the disk's cache, is not counted
        for number, steps in enumerate((short, short, long)):
            folder = args.output / f"{name}_{number}_{os.getpid()}"
            folder.mkdir(parents=True)
            if name == "clipkit":
                warmup = f"--model.schedule.init_args.warmup={max(1, steps // 10)}"
                command, env = own_command(args, folder, steps, warmup), None
            else:
                options = peer_options(args, folder, steps, max(1, steps // 10))
                command = [sys.executable, "-c", RUN_PEER, str(args.peer_configs), *options]
                env = peer_env(args)
            seconds.append(run(command, folder / "log.txt", env))
            remove_weights(folder)
        samples = (long - short) * args.batch_size
        _, (wall, cpu), (longer_wall, longer_cpu) = seconds
        result[name] = {
            "process_seconds": [wall, longer_wall],
            "process_cpu_seconds": [cpu, longer_cpu],
            "samples_per_second": samples / (longer_wall - wall),
            "samples_per_cpu_second": samples / (longer_cpu - cpu),
        }
    if "clipkit" in result:
        result["ratio"] = {
            f"{key} to {name}": result["clipkit"][key] / result[name][key]
            for name in args.runners
            for key in ("samples_per_second", "samples_per_cpu_second")
            if name != "clipkit"
        }
    return result


def equality(args: argparse.Namespace) -> dict[str, Any]:
    """The losses of the first steps of both trainers."""
    import torch

    from clipkit.models import from_open_clip, save_open_clip

    folder = args.output / f"equality_{os.getpid()}"
    torch.manual_seed(0)
    model = args.peer_model if args.case["peer_model"] else str(args.peer_config)
    encoder = from_open_clip(model)
    weights = folder / "start" / "open_clip_model.safetensors"
    save_open_clip(encoder, weights)
    size = encoder.image_tower.image_size
    keys = folder / "keys.txt"
    own = own_command(
        args, folder / "own", EQUAL_STEPS,
        f"--model.encoder.init_args.pretrained={weights}",
        "--model.optimizer.init_args.weight_decay=0",
        f"--model.optimizer.init_args.lr={LEARNING_RATE}",
        f"--model.schedule.init_args.warmup={EQUAL_WARMUP}",
        "--data.samples.transform=clipkit.data.EvalTransform",
        f"--data.samples.transform.size={size}",
        "--trainer.log_every_n_steps=1",
        "--trainer.callbacks+=clipkit.training.callbacks.KeyLog",
        f"--trainer.callbacks.path={keys}",
    )  # fmt: skip
    run(own, folder / "own.txt")
    with (folder / "own" / "metrics.csv").open() as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    order = [line.split(" ", 2)[2] for line in keys.read_text().splitlines()]
    pairs = folder / "pairs.json"
    pairs.write_text(json.dumps(unpack(args.data, order, folder / "pairs")))
    options = peer_options(args, folder / "peer", EQUAL_STEPS, EQUAL_WARMUP)
    options += ["--wd", "0", "--pretrained", str(weights), "--log-every-n-steps", "1"]
    log = folder / "peer.txt"
    command = [sys.executable, "-c", RUN_PEER_IN_ORDER, str(args.peer_configs), str(pairs)]
    run([*command, *options], log, peer_env(args))
    pattern = r"Train Epoch.*?\sLoss: ([0-9.]+)"
    peer = [float(value) for value in re.findall(pattern, log.read_text())]
    pairs_of_losses = list(zip(losses, peer, strict=True))
    return {
        "steps": len(pairs_of_losses),
        "clipkit": losses,
        "open_clip": peer,
        "largest_relative_difference": max(abs(a - b) / b for a, b in pairs_of_losses),
    }


def shards(pattern: str) -> list[str]:
    """The files that a pattern such as data/*.tar matches."""
    return sorted(str(path) for path in Path(pattern).parent.glob(Path(pattern).name))


def unpack(pattern: str, order: list[str], folder: Path) -> list[tuple[str, str]]:
    """Write the pictures of some pairs as files; returns path and caption in order."""
    folder.mkdir(parents=True)
    wanted, captions, paths = set(order), {}, {}
    for shard in shards(pattern):
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                if key not in wanted:
                    continue
                data = tar.extractfile(member).read()  # type: ignore[union-attr]
                if extension == "txt":
                    captions[key] = data.decode()
                elif extension in ("jpg", "jpeg", "png"):
                    paths[key] = folder / f"{len(paths)}.{extension}"
                    paths[key].write_bytes(data)
    return [(str(paths[key]), captions[key]) for key in order]


def overhead(args: argparse.Namespace) -> dict[str, Any]:
    """What a step costs under Lightning's trainer and in a plain loop, in turn.

    Each round is a pair, measured one after the other; the first, with cold caches, is not counted.
    """
    steps = args.case["overhead_steps"]
    rounds = [
        (plain_loop(args, steps), lightning_loop(args, steps)) for _ in range(args.rounds + 1)
    ]
    result: dict[str, Any] = {"steps": steps, "rounds": args.rounds}
    for number, kind in enumerate(("seconds", "cpu_seconds")):
        ratios = sorted(ours[number] / plain[number] for plain, ours in rounds[1:])
        result[kind] = {
            "plain": [round(plain[number], 4) for plain, _ in rounds[1:]],
            "lightning": [round(ours[number], 4) for _, ours in rounds[1:]],
            "overhead_median": statistics.median(ratios) - 1,
            "overhead_range": [ratios[0] - 1, ratios[-1] - 1],
        }
    return result


class StepClock:
    """Seconds and seconds of CPU of a step, from the end of the first one on."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []

    def tick(self) -> None:
        """A step is over."""
        self.times.append((time.perf_counter(), time.process_time()))

    def per_step(self) -> tuple[float, float]:
        """Means; a worker's CPU is not this process's."""
        steps = len(self.times) - 1
        wall, cpu = (end - start for start, end in zip(self.times[0], self.times[-1], strict=True))
        return wall / steps, cpu / steps


def parts(args: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Encoder, loss and options of the stream, always the same."""
    import torch

    from clipkit.losses import CombinedLoss, ContrastiveLoss
    from clipkit.models import from_open_clip

    torch.manual_seed(0)
    encoder = from_open_clip(args.peer_model if args.case["peer_model"] else str(args.peer_config))
    return encoder, CombinedLoss(ContrastiveLoss()), {"batch_size": args.batch_size}


def plain_loop(args: argparse.Namespace, steps: int) -> tuple[float, float]:
    """A loop of ten lines; the first step is not counted."""
    import torch

    from clipkit.data import OpenClipTokenizer, PairStream, ShardIndex
    from clipkit.data.images.transforms import TrainTransform
    from clipkit.optim import ParameterGroups

    encoder, loss, options = parts(args)
    encoder.train()
    tokenizer = OpenClipTokenizer(context_length=encoder.text_tower.context_length)
    stream = PairStream(
        ShardIndex.from_urls(args.data), tokenizer=tokenizer, num_workers=args.workers,
        image_transform=TrainTransform(encoder.image_tower.image_size), **options,
    )  # fmt: skip
    optimizer = ParameterGroups().optimizer(
        encoder, lambda groups: torch.optim.AdamW(groups, lr=1e-5, fused=True)
    )
    clock = StepClock()
    while len(clock.times) <= steps:
        for batch in stream:
            terms = loss(encoder(batch), batch)
            optimizer.zero_grad()
            terms["loss"].backward()
            optimizer.step()
            stream.commit(batch)
            clock.tick()
            if len(clock.times) > steps:
                break
    return clock.per_step()


def lightning_loop(args: argparse.Namespace, steps: int) -> tuple[float, float]:
    """The same under the trainer, with the callbacks and the logger of the shipped runs."""
    import torch
    from lightning.pytorch import Callback, Trainer

    from clipkit.optim import WarmupCosine
    from clipkit.training import ContrastiveModule, MetricsCsv, PairDataModule
    from clipkit.training.callbacks import ProgressBar, Throughput

    clock = StepClock()

    class Tick(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            clock.tick()

    encoder, loss, options = parts(args)
    module = ContrastiveModule(
        encoder, loss, lambda groups: torch.optim.AdamW(groups, lr=1e-5, fused=True),
        WarmupCosine(),
    )  # fmt: skip
    data = PairDataModule(train=args.data, num_workers=args.workers, **options)
    folder = str(args.output / f"overhead_{os.getpid()}")
    trainer = Trainer(
        accelerator="cpu", devices=1, max_steps=steps + 1, default_root_dir=folder,
        enable_checkpointing=False, enable_model_summary=False, log_every_n_steps=10,
        logger=MetricsCsv(folder), callbacks=[ProgressBar(), Throughput(), Tick()],
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return clock.per_step()


def main() -> None:
    """Run a part and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-path", required=True, help="PYTHONPATH of open_clip's trainer")
    parser.add_argument("--data", required=True, help="pattern of shards on this disk")
    parser.add_argument("--case", choices=sorted(CASES), required=True)
    parser.add_argument("--part", choices=("speed", "equality", "overhead"), default="speed")
    parser.add_argument("--runners", nargs="+", default=["clipkit", "open_clip"])
    parser.add_argument("--batch-size", type=int, default=None)
    parser.add_argument("--steps", type=int, nargs=2, metavar=("SHORT", "LONG"), help="of speed")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    parser.add_argument("--rounds", type=int, default=9, help="of the overhead")
    parser.add_argument("--output", type=Path, default=Path("runs/bench_train"))
    args = parser.parse_args()
    name = args.case
    args.case = CASES[name]
    args.batch_size = args.batch_size or args.case["batch_size"]
    args.output = args.output.resolve()
    args.peer_configs = args.output / "configs"
    args.peer_configs.mkdir(parents=True, exist_ok=True)
    args.peer_config = args.peer_configs / "bench_small.json"
    args.peer_config.write_text(json.dumps(small_config()))
    args.peer_model = args.case["peer_model"] or args.peer_config.stem
    result = {
        "case": name, "part": args.part, "batch_size": args.batch_size, "workers": args.workers,
        "precision": args.precision, "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(), "python": platform.python_version(), "torch": version("torch"),
        "lightning": version("lightning"), "date": date.today().isoformat(),
        **{"speed": speed, "equality": equality, "overhead": overhead}[args.part](args),
    }  # fmt: skip
    text = json.dumps(result, indent=2)
    (args.output / f"bench_train_{name}_{args.part}.json").write_text(text + "\n")
    print(text)


def small_config() -> dict[str, Any]:
    """The architecture of configs/model/vit_tiny.yaml."""
    import yaml

    model = yaml.safe_load((ROOT / "configs/model/vit_tiny.yaml").read_text())["model"]
    config: dict[str, Any] = model["encoder"]["init_args"]["name"]
    return config


if __name__ == "__main__":
    main()
