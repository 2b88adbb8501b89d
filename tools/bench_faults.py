"""What loaders make of broken shards and odd pictures, as tables.

    pip install --no-deps --target PEER 'webdataset==0.2.86'    # what open_clip's trainer pins
    python tools/bench_faults.py --peer PEER [--json FILE]

webdataset runs as it comes, which raises errors. open_clip is the training loader of its own
trainer, which logs a warning and goes on; its epoch has a fixed length and is filled up with
samples that it gives again, so different samples are counted. It runs in a process of its own, with
the webdataset of ``--peer``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import webdataset
from fault_samples import FAULTS, NUM_SAMPLES, PICTURES, SIDE, make_all

from clipkit.data import FaultOptions, OrderOptions, PairStream, ShardIndex
from clipkit.errors import ClipkitError

HANGS_SECONDS = 8  # of computing


class Characters:
    """The smallest tokenizer."""

    pad_id = 0

    def encode(self, text: str) -> list[int]:
        """One id a character."""
        return [ord(character) for character in text]


def run_webdataset(path: Path) -> str:
    """Decode pictures and captions as a CLIP trainer's pipeline does."""
    data = webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False)
    samples = list(data.decode("pilrgb").to_tuple("jpg;png", "txt"))
    texts = [text for _, text in samples]
    words = "all" if len(texts) == NUM_SAMPLES else f"{len(texts)} of {NUM_SAMPLES}, silent"
    return words if all(map(str.strip, texts)) else f"{words}, one with an empty text"


def open_clip_loader(path: Path, num_samples: int) -> Iterator[tuple[Any, Any]]:
    """Batches of open_clip's own trainer: pixels as floats, and captions."""
    from open_clip_train.data import get_data
    from torchvision.transforms.functional import pil_to_tensor

    options = argparse.Namespace(
        train_data=str(path),
        train_num_samples=num_samples,
        train_data_upsampling_factors=None,
        val_data=None,
        imagenet_val=None,
        imagenet_v2=None,
        dataset_type="webdataset",
        batch_size=1,
        workers=0,
        world_size=1,
        seed=0,
    )
    transforms = [lambda image: pil_to_tensor(image).float()] * 2
    data = get_data(options, transforms, tokenizer=lambda text: [text])
    for batch in data["train"].dataloader:
        # Its releases give a pair, its main branch a mapping.
        yield (batch["image"], batch["text"]) if isinstance(batch, dict) else tuple(batch)


class Hangs(BaseException):
    """No ``Exception``: the loader's handler would pass over it and go on for ever."""


def guarded(look: Callable[[Path], str], path: Path) -> str:
    """What ``look`` says, or the error, or that there is no end to it."""

    def give_up(*_: Any) -> None:
        raise Hangs

    signal.signal(signal.SIGPROF, give_up)
    signal.setitimer(signal.ITIMER_PROF, HANGS_SECONDS)
    try:
        return look(path)
    except Hangs:
        return "goes on for ever without a sample"
    except Exception as error:
        return f"raises {type(error).__name__}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def run_open_clip(path: Path) -> str:
    """Different samples of one epoch; runs where ``--peer`` comes first on the path."""
    texts = [texts[0] for _, texts in open_clip_loader(path, NUM_SAMPLES)]
    different = len(set(texts))
    words = "all" if different == len(texts) == NUM_SAMPLES else f"{different} of {NUM_SAMPLES}"
    if different < len(texts):
        words += f", {len(texts) - different} given again"
    return words if all(map(str.strip, texts)) else f"{words}, one with an empty text"


def run_all_of_open_clip(folder: Path, peer: Path) -> dict[str, str]:
    """Outcome by name of a tar, out of one process that has the webdataset of ``peer``."""
    paths = [str(peer), str(Path(__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, __file__, "--open-clip-folder", str(folder)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def left_level(pixels: torch.Tensor) -> str:
    """Whether the left half has the level that it should have."""
    level = pixels[..., : pixels.shape[-1] // 2 - 2].float().mean().item()
    return "as meant" if abs(level - 30) < 4 else f"wrong: level {level:.0f} instead of 30"


def show_webdataset(path: Path) -> str:
    data = webdataset.WebDataset(str(path), shardshuffle=False).decode("torchrgb8")
    [sample] = [*data]
    return left_level(
        torch.as_tensor(next(sample[k] for k in ("jpg", "png", "gif") if k in sample))
    )


def show_open_clip(path: Path) -> str:
    images = [images[0] for images, _ in open_clip_loader(path, 1)]
    return left_level(images[0]) if images else "left out, silent"


def show_clipkit(path: Path) -> str:
    index = ShardIndex.from_urls(path, write_sidecars=False)
    stream = PairStream(
        index,
        tokenizer=Characters(),
        batch_size=1,
        image_size=SIDE,
        order=OrderOptions(shuffle=False),
    )
    return left_level(next(iter(stream)).images[0])


def run_clipkit(path: Path) -> str:
    try:
        index = ShardIndex.from_urls(path, write_sidecars=False)
        stream = PairStream(
            index,
            tokenizer=Characters(),
            batch_size=NUM_SAMPLES,
            image_size=16,
            order=OrderOptions(shuffle=False),
            faults=FaultOptions(max_bad_fraction=0.5),
        )
        num_samples = sum(len(batch.keys) for batch in stream)
    except ClipkitError as error:
        return f"before training: {str(error).replace(str(path), 'SHARD')}"
    faults = stream.state_dict()["bad_samples"]
    named = "; ".join(f"{key}: {reason}" for _, _, key, reason in faults)
    return f"{num_samples} of {NUM_SAMPLES}, named: {named}" if named else "all"


def outcomes(folder: Path) -> dict[str, str]:
    """What open_clip makes of every tar, by its name; runs in a process of its own."""
    importlib.import_module("open_clip_train.data")  # takes seconds, which must not count
    logging.disable(logging.WARNING)
    return {
        path.name: guarded(
            show_open_clip if path.name.startswith("picture") else run_open_clip, path
        )
        for path in make_all(folder).values()
    }


def print_table(rows: list[dict[str, str]]) -> None:
    print("\n| " + " | ".join(rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(value.replace("|", "/") for value in row.values()) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peer", type=Path, help="folder with webdataset 0.2.86")
    parser.add_argument("--json", type=Path, help="also write the tables here")
    parser.add_argument("--open-clip-folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if options.open_clip_folder:
        print(json.dumps(outcomes(options.open_clip_folder)))
        return
    if options.peer is None:
        parser.error("--peer: expected the folder of webdataset 0.2.86")
    with tempfile.TemporaryDirectory() as name:
        paths = make_all(Path(name))
        peers = run_all_of_open_clip(Path(name), options.peer)
        rows = [
            {
                "fault": fault,
                "webdataset": guarded(run_webdataset, paths[fault]),
                "open_clip": peers[paths[fault].name],
                "clipkit": run_clipkit(paths[fault]),
            }
            for fault in FAULTS
        ]
        shown = [
            {
                "picture": picture,
                "webdataset": guarded(show_webdataset, paths[picture]),
                "open_clip": peers[paths[picture].name],
                "clipkit": show_clipkit(paths[picture]),
            }
            for picture in PICTURES
        ]
    print_table(rows)
    print_table(shown)
    if options.json is not None:
        options.json.write_text(json.dumps({"faults": rows, "pictures": shown}, indent=2) + "\n")


if __name__ == "__main__":
    main()
