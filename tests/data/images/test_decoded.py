"""Decoded images in memory: the same pixels, within the memory, never of another file."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clipkit.data import PairStream, ShardIndex, TrainTransform
from clipkit.data.images import decode
from clipkit.data.images.decode import Box, ImageDecoder
from clipkit.data.images.decoded_images import DecodedImages
from clipkit.errors import ConfigError, SampleError
from tests.helpers.factories import write_shards
from tests.helpers.fakes import ByteTokenizer


def _file(format: str, width: int, height: int, seed: int = 0, mode: str = "RGB") -> bytes:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format)
    return out.getvalue()


FILES = {
    "png": _file("PNG", 72, 72),
    "transparent png": _file("PNG", 40, 31, mode="RGBA"),
    "jpeg": _file("JPEG", 90, 70),
    "jpeg of one pixel": _file("JPEG", 1, 1),
    "jpeg of odd size": _file("JPEG", 131, 33),
    "webp": _file("WEBP", 50, 60),
}


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("name", FILES)
def test_every_crop_is_the_same_as_without(name: str, fast: bool) -> None:
    data = FILES[name]
    keeping, plain = ImageDecoder(16, fast, keep_mib=1), ImageDecoder(16, fast)
    rng = np.random.default_rng(1)
    for _ in range(40):
        parts = rng.random(4)

        def crop(width: int, height: int, parts: np.ndarray = parts) -> Box:
            box_width = max(1, round(width * parts[0]))
            box_height = max(1, round(height * parts[1]))
            left = int(parts[2] * (width - box_width + 1))
            return Box(left, int(parts[3] * (height - box_height + 1)), box_width, box_height)

        assert torch.equal(keeping(data, crop), plain(data, crop))
        assert torch.equal(keeping(data), plain(data))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_whole_pixels_of_any_format_are_resized_as_pillow_does(interpolation: str) -> None:
    shapes = np.random.default_rng(2).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    drawing = Image.fromarray(shapes).resize((72, 72), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    drawing.save(out, "PNG")
    for box in (Box(0, 0, 72, 72), Box(3, 5, 60, 47)):

        def crop(width: int, height: int, box: Box = box) -> Box:
            return box

        fast, exact = (
            ImageDecoder(64, fast, interpolation=interpolation)(out.getvalue(), crop)
            for fast in (True, False)
        )
        difference = (fast.int() - exact.int()).abs()
        assert difference.float().mean() < 0.1
        assert difference[:, 2:-2, 2:-2].max() <= 2, "inside, nothing but rounding differs"


def test_a_file_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for name in ("to_rgb", "decode_jpeg"):
        real = getattr(decode, name)
        monkeypatch.setattr(
            decode, name, lambda *args, name=name, real=real: (calls.append(name), real(*args))[1]
        )
    decoder = ImageDecoder(64, keep_mib=1)
    for _ in range(3):
        for name in ("png", "jpeg"):
            decoder(FILES[name])
    assert sorted(calls) == ["decode_jpeg", "to_rgb"]


def test_other_content_is_another_file() -> None:
    decoder = ImageDecoder(16, keep_mib=1)
    first, second = (_file("PNG", 16, 16, seed) for seed in (0, 1))
    assert not torch.equal(decoder(first), decoder(second))
    assert torch.equal(decoder(second), ImageDecoder(16)(second))


def test_a_background_of_one_image_is_neither_kept_nor_taken_for_the_own() -> None:
    data = FILES["transparent png"]
    keeping, plain = ImageDecoder(16, keep_mib=1), ImageDecoder(16)
    for color in (None, (255, 0, 0), (0, 255, 0), None):
        assert torch.equal(keeping(data, background=color), plain(data, background=color))
    assert keeping._decoded.num_bytes == 40 * 31 * 3


def test_writing_to_a_result_changes_nothing_kept() -> None:
    for name in ("png", "jpeg"):
        decoder = ImageDecoder(72, keep_mib=1)
        whole = decoder(FILES[name])
        for _ in range(2):
            decoder(FILES[name]).zero_()
        assert torch.equal(decoder(FILES[name]), whole)


def test_the_memory_is_bounded_and_a_full_one_changes_nothing() -> None:
    keeping, plain = ImageDecoder(32, keep_mib=1), ImageDecoder(32)
    files = [_file("PNG", 300, 300, seed) for seed in range(6)]  # 264 KiB decoded
    for data in files * 2:
        assert torch.equal(keeping(data), plain(data))
    assert keeping._decoded.num_bytes == 3 * 300 * 300 * 3


def test_a_damaged_file_fails_each_time_and_is_not_kept() -> None:
    decoder = ImageDecoder(16, keep_mib=1)
    for _ in range(2):
        with pytest.raises(SampleError, match="truncated"):
            decoder(FILES["png"][:-600])
    assert decoder._decoded.num_bytes == 0


def test_a_copy_for_a_worker_starts_empty_and_gives_the_same() -> None:
    transform = TrainTransform(32, scale=(0.5, 1.0), keep_decoded_mib=1)
    rng = np.random.default_rng
    pixels = transform(FILES["png"], rng(0))
    copy = pickle.loads(pickle.dumps(transform))
    assert copy._decode._decoded.num_bytes == 0
    assert torch.equal(copy(FILES["png"], rng(0)), pixels)
    assert torch.equal(TrainTransform(32, scale=(0.5, 1.0))(FILES["png"], rng(0)), pixels)


def test_several_threads_keep_each_file_once() -> None:
    decoder = ImageDecoder(16, keep_mib=1)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(decoder, [FILES["png"]] * 64))
    assert all(torch.equal(result, results[0]) for result in results)
    assert decoder._decoded.num_bytes == 72 * 72 * 3


def test_negative_memory_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"keep_decoded_mib: expected at least 0 MiB, got -1"):
        DecodedImages(-1)


def _batches(
    index: ShardIndex, num_steps: int, state: Mapping[str, Any] | None = None, **options: Any
) -> tuple[list[tuple[tuple[str, ...], torch.Tensor]], dict[str, Any]]:
    """Keys and images of some steps, over several epochs, and where the stream stands then."""
    mib, workers = options.get("keep_decoded_mib", 0), options.get("num_workers", 0)
    stream = PairStream(
        index,
        tokenizer=ByteTokenizer(),
        batch_size=4,
        num_workers=workers,
        image_transform=TrainTransform(16, scale=(0.3, 1.0), keep_decoded_mib=mib),
    )
    if state is not None:
        stream.load_state_dict(state)
    found: list[tuple[tuple[str, ...], torch.Tensor]] = []
    while len(found) < num_steps:
        for batch in stream:
            stream.commit(batch)
            found.append((batch.keys, batch.images))
            if len(found) == num_steps:
                break
    return found, stream.state_dict()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stream_and_its_resume_are_those_without(tmp_path: Path, num_workers: int) -> None:
    write_shards(tmp_path, (5, 8))
    index = ShardIndex.from_urls(str(tmp_path / "*.tar"))
    plain, end = _batches(index, 10)
    kept = {"keep_decoded_mib": 1, "num_workers": num_workers}
    before, state = _batches(index, 5, **kept)
    after, kept_end = _batches(index, 5, state, **kept)
    assert kept_end == end
    for (keys, images), (kept_keys, kept_images) in zip(plain, before + after, strict=True):
        assert keys == kept_keys
        assert torch.equal(images, kept_images)
