"""Decoding one crop: every kind of picture, every kind of damage, fast against exact."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import EpsImagePlugin, Image, ImageOps

from clipkit.data.images import decode
from clipkit.data.images.decode import Box, ImageDecoder, central_square, stored_box
from clipkit.data.images.formats import ORIENTATIONS, jpeg_header_end
from clipkit.data.packing.shard_packer import prepare
from clipkit.errors import ConfigError, SampleError
from clipkit.evaluation.report.collect.thumbnails import thumbnail
from tests.helpers.factories import image_bytes
from tests.helpers.images import color, encode, photo


def halves(left: tuple[int, ...], right: tuple[int, ...], mode: str = "RGB") -> Image.Image:
    image = Image.new(mode, (40, 40), left)
    image.paste(right, (20, 0, 40, 40))
    return image


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_common_formats(format: str, fast: bool) -> None:
    data = encode(Image.new("RGB", (50, 30), (200, 40, 90)), format)
    pixels = ImageDecoder(16, fast)(data)
    assert pixels.shape == (3, 16, 16)
    assert pixels.dtype == torch.uint8
    assert np.allclose(color(pixels), (200, 40, 90), atol=3)


def test_the_fast_path_is_close_to_the_exact_one() -> None:
    differences = []
    for seed in range(6):
        data = encode(photo(seed=seed), "JPEG", quality=90)
        for size in (48, 96, 224):
            crop = lambda width, height: Box(30, 20, width * 0.8, height * 0.8)  # noqa: E731
            fast, exact = ImageDecoder(size)(data, crop), ImageDecoder(size, False)(data, crop)
            differences.append((fast.float() - exact.float()).abs().mean().item())
    assert np.mean(differences) <= 2.5
    assert np.max(differences) <= 5.0
    assert np.max(differences) > 0  # else the fast path was not taken


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_whole_pixels_are_resized_as_pillow_does(interpolation: str) -> None:
    """Apart from the edges, where Pillow looks at the pixels outside the crop."""
    data = encode(photo(500, 375), "JPEG", quality=90)
    for box in (Box(10, 20, 450, 340), Box(0, 0, 500, 375), Box(3, 4, 90, 60)):
        crop = lambda width, height, box=box: box  # noqa: E731
        fast = ImageDecoder(224, interpolation=interpolation)(data, crop)
        exact = ImageDecoder(224, False, interpolation=interpolation)(data, crop)
        differences = (fast.int() - exact.int()).abs()
        assert differences.float().mean() < 0.3
        assert differences[:, 8:-8, 8:-8].max() <= 1
        assert fast.is_contiguous()


@pytest.mark.parametrize("crop", [64, 64.5, 200, 400])
def test_a_picture_stays_when_the_next_one_is_decoded(crop: float) -> None:
    """Decoded pixels lie in memory that is used again; what is returned must not."""
    decoder = ImageDecoder(64)
    box = lambda width, height: Box(0, 0, crop, crop)  # noqa: E731
    data = [encode(photo(400, 400, seed), "JPEG") for seed in range(2)]
    first = decoder(data[0], box)
    before = first.clone()
    assert not torch.equal(decoder(data[1], box), before)
    assert torch.equal(first, before)


@pytest.mark.parametrize("orientation", [1, 6])
def test_pictures_of_cameras_take_the_fast_way_unless_they_are_turned(
    monkeypatch: pytest.MonkeyPatch, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photo(), "JPEG", exif=exif)
    ways = []
    plain = simplejpeg.decode_jpeg

    def decode_jpeg(*args: object, **options: object) -> np.ndarray:
        ways.append("fast")
        return plain(*args, **options)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", decode_jpeg)
    ImageDecoder(64)(data)
    assert ways == (["fast"] if orientation == 1 else [])


@pytest.mark.parametrize("padding", [b"", b"\xff" * 3])
def test_exif_behind_other_segments_turns_pictures_for_training_too(padding: bytes) -> None:
    """Colour profiles or notes of 64 KiB and more may stand in front of it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(photo(300, 200), "JPEG", exif=exif)
    note = b"\xff\xe2\xff\xff" + b"n" * 65533
    late = data[:2] + note + padding + note + data[2:]
    assert late.find(b"Exif\0\0") > 2 * 65536
    plain = encode(photo(300, 200), "JPEG")
    for picture in (data, late):
        turned = ImageDecoder(64)(picture)
        exact = ImageDecoder(64, fast=False)(picture)
        assert (turned.float() - exact.float()).abs().mean() < 3
        assert (turned.float() - ImageDecoder(64)(plain).float()).abs().mean() > 3
    # A JPEG inside a segment, such as a preview, does not end the header.
    assert jpeg_header_end(late) == late.rfind(b"\xff\xda\x00")
    assert jpeg_header_end(data[:2] + b"\xff\xd8" + data[2:]) == len(data) + 2


@pytest.mark.real_data
@pytest.mark.parametrize("size", [64, 224])
@pytest.mark.parametrize("whole_pixels", [True, False])
def test_the_fast_path_is_close_to_the_exact_one_on_photos(
    real_data: Path, size: int, whole_pixels: bool
) -> None:
    rng = np.random.default_rng(0)
    differences = []
    for path in sorted((real_data / "photos").glob("*.jpg")):
        share, column, row = rng.uniform(0.4, 1.0), rng.random(), rng.random()

        def crop(width: int, height: int, s=share, x=column, y=row) -> Box:
            box = Box(x * (1 - s) * width, y * (1 - s) * height, s * width, s * height)
            return Box(*map(int, box)) if whole_pixels else box

        data = path.read_bytes()
        fast, exact = ImageDecoder(size)(data, crop), ImageDecoder(size, False)(data, crop)
        differences.append((fast.float() - exact.float()).abs().mean().item())
    assert len(differences) >= 10
    assert np.mean(differences) <= 2.5


def test_a_crop_is_never_decoded_below_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    resize = Image.Image.resize

    def watch(self, size, resample=None, box=None, **options):
        seen.append((box[2] - box[0], box[3] - box[1]))
        return resize(self, size, resample, box=box, **options)

    data = encode(photo(800, 600), "JPEG")
    monkeypatch.setattr(Image.Image, "resize", watch)
    for side in (60, 100, 230, 300, 599):
        ImageDecoder(64)(data, lambda _width, _height, s=side: Box(0.5, 0.5, s, s))  # type: ignore[misc]
    assert all(min(box) >= 64.0 for box in seen[1:])
    assert seen[0] == (60.0, 60.0)  # smaller than wanted: never decoded below its own pixels
    assert seen[-1][0] < 300  # and decoded scaled where it can be


def test_only_the_crop_is_shown() -> None:
    data = encode(halves((250, 0, 0), (0, 0, 250)), "PNG")
    assert color(ImageDecoder(8)(data, lambda w, h: Box(0, 0, 16, 40))) == [250, 0, 0]
    assert color(ImageDecoder(8)(data, lambda w, h: Box(24, 0, 16, 40))) == [0, 0, 250]
    assert central_square(40, 60) == (0, 10, 40, 40)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(format: str, orientation: int) -> None:
    image = photo(96, 64, seed=3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(image, format, exif=exif, **options)
    with Image.open(io.BytesIO(data)) as stored:
        upright = ImageOps.exif_transpose(stored).convert("RGB")
    expected = encode(upright, "PNG")

    def crop(width: int, height: int) -> Box:
        assert (width, height) == upright.size
        return Box(width * 0.1, height * 0.2, width * 0.5, height * 0.6)

    for fast in (True, False):
        turned = ImageDecoder(24, fast)(data, crop).float()
        plain = ImageDecoder(24, fast)(expected, crop).float()
        assert (turned - plain).abs().mean() < (1.5 if fast and format == "JPEG" else 0.6)


def test_stored_boxes_of_all_orientations() -> None:
    numbers = np.arange(6 * 4, dtype=np.uint8).reshape(4, 6)
    for turn in ORIENTATIONS.values():
        upright = np.asarray(Image.fromarray(numbers).transpose(turn.method))
        left, top, width, height = stored_box(Box(1, 0, 2, 3), 6, 4, turn)
        stored = set(numbers[top : top + height, left : left + width].ravel().tolist())
        assert stored == set(upright[0:3, 1:3].ravel().tolist())


def test_unreadable_exif_does_not_matter() -> None:
    data = encode(Image.new("RGB", (20, 20), (9, 99, 200)), "JPEG", exif=b"Exif\0\0garbage")
    assert np.allclose(color(ImageDecoder(8)(data)), (9, 99, 200), atol=3)


@pytest.mark.parametrize("mode", ["CMYK", "L", "1", "P", "LA", "RGBA", "YCbCr"])
@pytest.mark.parametrize("fast", [True, False])
def test_modes(mode: str, fast: bool) -> None:
    image = Image.new("RGB", (40, 40), (255, 255, 255)).convert(mode)
    format = "JPEG" if mode in {"CMYK", "YCbCr"} else "PNG"
    pixels = ImageDecoder(8, fast)(encode(image, format))
    assert np.allclose(color(pixels), (255, 255, 255), atol=2)


def test_cmyk_keeps_its_colours() -> None:
    image = halves((0, 220, 220, 30), (200, 100, 0, 10), "CMYK").resize((400, 400))
    expected = image.convert("RGB").resize((8, 8))
    pixels = ImageDecoder(8)(encode(image, "JPEG", quality=95))
    assert np.abs(pixels.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected)).mean() < 4


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_16_bits_are_scaled(format: str) -> None:
    levels = np.full((20, 20), 257 * 100, dtype=np.uint16)
    data = encode(Image.fromarray(levels), format)
    assert color(ImageDecoder(8)(data)) == [100, 100, 100]


def test_transparency_shows_the_background() -> None:
    image = halves((10, 20, 30, 0), (10, 20, 30, 255), "RGBA")
    left = lambda width, height: Box(0, 0, 16, 40)  # noqa: E731
    right = lambda width, height: Box(24, 0, 16, 40)  # noqa: E731
    for data in (encode(image, "PNG"), encode(image, "WEBP", lossless=True, exact=True)):
        assert color(ImageDecoder(8)(data, left)) == [255, 255, 255]
        assert color(ImageDecoder(8, background=(0, 200, 0))(data, left)) == [0, 200, 0]
        assert color(ImageDecoder(8)(data, left, (7, 8, 9))) == [7, 8, 9]
        assert color(ImageDecoder(8, background=None)(data, left)) == [10, 20, 30]
        assert color(ImageDecoder(8)(data, right)) == [10, 20, 30]


def test_transparent_palettes() -> None:
    image = Image.new("P", (20, 20), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    data = encode(image, "PNG", transparency=1)
    assert color(ImageDecoder(8, background=(1, 2, 3))(data)) == [1, 2, 3]
    assert color(ImageDecoder(8, background=None)(data)) == [0, 255, 0]


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation(format: str) -> None:
    frames = [Image.new("RGB", (20, 20), value) for value in ((255, 0, 0), (0, 0, 255))]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert color(ImageDecoder(8)(data)) == [255, 0, 0]


def png_of_size(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


JPEG = encode(photo(200, 150), "JPEG")
PNG = encode(photo(80, 60), "PNG")

BROKEN = {
    "no bytes": (b"", r"empty \(0 bytes\)"),
    "text": (b"<html>404 not found</html>", "not an image of a known format; starts b'<html>"),
    "half a JPEG": (JPEG[: len(JPEG) // 2], "truncated"),
    "a JPEG without its end": (JPEG[:-200], "truncated"),
    "a JPEG's first bytes": (JPEG[:30], "image header cannot be read|truncated|not an image"),
    "half a PNG": (PNG[: len(PNG) // 2], "truncated"),
    "half a WebP": (encode(photo(80, 60), "WEBP")[:900], "cannot be read|truncated|not an image"),
    "a PNG with a flipped byte": (PNG[:300] + b"\xff" + PNG[301:], "truncated or damaged"),
    "no width": (png_of_size(0, 10), "no pixels: 0 x 10|not an image|cannot be read"),
    "no height": (png_of_size(10, 0), "no pixels: 10 x 0|not an image|cannot be read"),
    "a bomb": (png_of_size(30_000, 30_000), "limit|exceeds"),
    "floats": (encode(Image.new("F", (8, 8)), "TIFF"), "32-bit floats"),
}


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("name", BROKEN)
def test_broken_pictures_are_named(name: str, fast: bool) -> None:
    data, reason = BROKEN[name]
    with pytest.raises(SampleError, match=reason):
        ImageDecoder(32, fast)(data)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_large_pictures_are_refused_before_they_are_decoded(
    format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encode(Image.new("RGB", (100, 100)), format)
    monkeypatch.setattr(decode, "to_rgb", lambda *_: pytest.fail("it was decoded"))
    monkeypatch.setattr("simplejpeg.decode_jpeg", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(SampleError, match="100 x 100 pixels is above the limit of 9999"):
        ImageDecoder(8, max_pixels=9_999)(data)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_random_damage_never_raises_anything_else() -> None:
    rng = np.random.default_rng(0)
    sources = [
        encode(photo(60, 40), name) for name in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
    ]
    decoder, failures = ImageDecoder(16), 0
    for round_number in range(240):
        data = bytearray(sources[round_number % len(sources)])
        for _ in range(rng.integers(1, 8)):
            data[rng.integers(min(len(data), 400))] = rng.integers(256)
        try:
            assert decoder(bytes(data)).shape == (3, 16, 16)
        except SampleError:
            failures += 1
    assert 20 < failures < 240


def test_damage_that_readers_forgive_is_forgiven() -> None:
    # Two bytes too many before the end marker: a warning to libjpeg, an error to simplejpeg.
    data = JPEG[:-2] + b"\x00\x00" + JPEG[-2:]
    assert torch.equal(ImageDecoder(150)(data), ImageDecoder(150)(JPEG))


def test_memory_errors_are_not_a_samples_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(self: Image.Image) -> None:
        raise MemoryError

    data = image_bytes(format="PNG")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", exhausted)
    with pytest.raises(MemoryError):
        ImageDecoder(8)(data)


def test_bad_options() -> None:
    with pytest.raises(ConfigError, match="size: expected"):
        ImageDecoder(0)
    with pytest.raises(ConfigError, match="interpolation: expected one of"):
        ImageDecoder(8, interpolation="nearest")
    with pytest.raises(ConfigError, match="max_pixels: expected between 1 and"):
        ImageDecoder(8, max_pixels=10**12)
    with pytest.raises(SampleError, match="has no pixels"):
        ImageDecoder(8)(JPEG, lambda width, height: Box(0, 0, 0, 5))


def iptc(data: bytes) -> bytes:
    """An IPTC file of 20 x 20 grey pixels that holds another file."""
    size = b"\0\x14"
    fields = [(3, 60, b"\1\0"), (3, 20, size), (3, 30, size), (3, 120, b"\5"), (8, 10, data)]
    heads = [bytes([0x1C, *tag]) + len(value).to_bytes(2, "big") for *tag, value in fields]
    return b"".join(head + value for head, (_, _, value) in zip(heads, fields, strict=True))


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("wrap", [bytes, iptc])
def test_files_that_are_programs_are_not_run(
    fast: bool, wrap: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostScript is refused by name, also inside of another file."""

    def run(*args: object, **options: object) -> None:
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run)
    data = wrap(encode(Image.new("L", (20, 20)), "EPS"))
    with pytest.raises(AssertionError, match="Ghostscript"):
        Image.open(io.BytesIO(data)).load()
    with pytest.raises(SampleError, match="files are programs"):
        ImageDecoder(8, fast)(data)
    with pytest.raises(SampleError, match="files are programs"):
        thumbnail(data, 8)
    with pytest.raises(SampleError, match="files are programs"):
        prepare({"jpg": data}, 8)
