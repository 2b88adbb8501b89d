"""What ``bench_faults.py`` measures: shards with a fault each, pictures that readers get wrong."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NUM_SAMPLES = 10
SIDE = 32


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


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header promises more, or less, than there is."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def turned() -> bytes:
    """Upright, its left half is dark; a camera stored it lying on its side."""
    upright = Image.new("L", (SIDE, SIDE), 220)
    upright.paste(30, (0, 0, SIDE // 2, SIDE))
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)


def animation() -> bytes:
    frames = [Image.new("L", (SIDE, SIDE), level) for level in (30, 220)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


PICTURES: dict[str, tuple[str, bytes]] = {
    "16-bit grey PNG": (
        "png", encoded(Image.fromarray(np.full((SIDE, SIDE), 30 * 257, dtype=np.uint16)), "PNG"),
    ),
    "turned by EXIF": ("jpg", turned()),
    "CMYK JPEG": ("jpg", encoded(Image.new("CMYK", (SIDE, SIDE), (0, 0, 0, 225)), "JPEG")),
    "palette PNG": ("png", encoded(Image.new("L", (SIDE, SIDE), 30).convert("P"), "PNG")),
    "animated GIF": ("gif", animation()),
    "animated GIF that is called .png": ("png", animation()),
}  # fmt: skip
"""Pictures whose left half has level 30 of 255 when they are shown as they are meant."""


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
    "PNG bomb, 30,000 x 30,000": changed(4, jpg=None, png=png_of_size(30_000, 30_000)),
    "PNG of no width": changed(4, jpg=None, png=png_of_size(0, 10)),
    "zero bytes of image": changed(4, jpg=b""),
    "caption that is not UTF-8": changed(4, txt=b"\xff\xfe\xfa"),
    "empty caption": changed(4, txt=b"  "),
}


def make_all(folder: Path) -> dict[str, Path]:
    """The path of each fault and picture; made unless they are there."""
    paths = {fault: folder / f"{number:05d}.tar" for number, fault in enumerate(FAULTS)}
    if not (folder / "made").exists():
        for fault, make in FAULTS.items():
            make(paths[fault])
    for number, (name, (kind, data)) in enumerate(PICTURES.items()):
        paths[name] = folder / f"picture{number}.tar"
        if not (folder / "made").exists():
            write(paths[name], [("0", {kind: data, "txt": b"a caption"})])
    (folder / "made").touch()
    return paths
