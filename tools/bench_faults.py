"""What loaders make of broken shards: samples delivered and errors raised, as a table.

    python tools/bench_faults.py [--json FILE]

webdataset runs twice: as it comes (errors are raised) and with the handler that open_clip's
trainer uses (errors are warned about and passed over).
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import webdataset
from PIL import Image

from clipkit.data import PairStream, ShardIndex
from clipkit.data.captions import TextField
from clipkit.errors import ClipkitError

NUM_SAMPLES = 10


class Characters:
    """The smallest tokenizer."""

    pad_id = 0

    def encode(self, text: str) -> list[int]:
        """One id a character."""
        return [ord(character) for character in text]


def jpeg(number: int) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


def write(path: Path, samples: list[tuple[str, dict[str, bytes]]]) -> None:
    with tarfile.open(path, "w") as tar:
        for key, members in samples:
            for extension, data in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def whole() -> list[tuple[str, dict[str, bytes]]]:
    return [
        (f"{i:03d}", {"jpg": jpeg(i), "txt": f"caption {i}".encode()}) for i in range(NUM_SAMPLES)
    ]


def changed(number: int, **members: bytes | None) -> Callable[[Path], None]:
    """Sample ``number`` with other members; None takes one away."""

    def make(path: Path) -> None:
        samples = whole()
        key, found = samples[number]
        new = {**found, **members}
        samples[number] = (key, {name: data for name, data in new.items() if data is not None})
        write(path, samples)

    return make


def cut(at_member: int, extra_bytes: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        write(path, whole())
        with tarfile.open(path) as tar:
            offset = tar.getmembers()[at_member].offset
        path.write_bytes(path.read_bytes()[: offset + extra_bytes])

    return make


def flipped_header(path: Path) -> None:
    write(path, whole())
    with tarfile.open(path) as tar:
        offset = tar.getmembers()[10].offset
    data = bytearray(path.read_bytes())
    data[offset + 2] ^= 1
    path.write_bytes(data)


def joined(path: Path) -> None:
    write(path, whole()[:5])
    first = path.read_bytes()
    write(path, whole()[5:])
    path.write_bytes(first + path.read_bytes())


def zeros(path: Path) -> None:
    cut(10, 0)(path)
    path.write_bytes(path.read_bytes() + bytes(3 * 2**20))


def directories(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("folder")
        info.type = tarfile.DIRTYPE
        tar.addfile(info)


FAULTS: dict[str, Callable[[Path], None]] = {
    "nothing wrong": lambda path: write(path, whole()),
    "cut between two members": cut(10, 0),
    "cut inside a header": cut(10, 100),
    "cut inside a member": cut(10, 700),
    "flipped byte in a header": flipped_header,
    "unfinished copy, zeros at the end": zeros,
    "two tars joined with cat": joined,
    "empty tar": lambda path: write(path, []),
    "empty file": lambda path: path.touch(),
    "tar of directories": directories,
    "missing file": lambda _: None,
    "two samples with one key": lambda path: write(path, [*whole()[:9], whole()[2]]),
    "sample without a caption": changed(4, txt=None),
    "sample without an image": changed(4, jpg=None),
    "truncated JPEG": changed(4, jpg=jpeg(4)[:200]),
    "caption that is not UTF-8": changed(4, txt=b"\xff\xfe\xfa"),
    "empty caption": changed(4, txt=b"  "),
}


def run_webdataset(path: Path, handler: Callable[[Exception], bool]) -> str:
    """Decode pictures and captions as a CLIP trainer's pipeline does."""
    try:
        data = webdataset.WebDataset(
            str(path), shardshuffle=False, handler=handler, empty_check=False
        )
        pipeline = data.decode("pilrgb", handler=handler).to_tuple("jpg", "txt", handler=handler)
        texts = [text for _, text in pipeline]
    except Exception as error:
        return f"raises {type(error).__name__}"
    words = "all" if len(texts) == NUM_SAMPLES else f"{len(texts)} of {NUM_SAMPLES}, silent"
    return words if all(map(str.strip, texts)) else f"{words}, one with an empty text"


def run_clipkit(path: Path) -> str:
    try:
        index = ShardIndex.from_urls(path, write_sidecars=False)
        stream = PairStream(
            index,
            tokenizer=Characters(),
            batch_size=NUM_SAMPLES,
            image_size=16,
            caption=TextField("txt"),
            shuffle=False,
            max_bad_fraction=0.5,
        )
        num_samples = sum(len(batch.keys) for batch in stream)
    except ClipkitError as error:
        return f"before training: {str(error).replace(str(path), 'SHARD')}"
    faults = stream.state_dict()["bad_samples"]
    named = "; ".join(f"{key}: {reason}" for _, _, key, reason in faults)
    return f"{num_samples} of {NUM_SAMPLES}, named: {named}" if named else "all"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the table here")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (fault, make) in enumerate(FAULTS.items()):
            path = Path(folder) / f"{number:05d}.tar"
            make(path)
            rows.append(
                {
                    "fault": fault,
                    "webdataset": run_webdataset(path, webdataset.reraise_exception),
                    "webdataset, open_clip's handler": run_webdataset(
                        path, webdataset.ignore_and_continue
                    ),
                    "clipkit": run_clipkit(path),
                }
            )
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(value.replace("|", "/") for value in row.values()) + " |")
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
