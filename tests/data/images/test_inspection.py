"""One decode gives the pixels of the transform and the perceptual hash."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from clipkit.data import EvalTransform, NaFlexEvalTransform
from clipkit.data.images import inspection, transforms
from clipkit.data.images.formats import open_image
from clipkit.data.images.inspection import inspect_image
from clipkit.data.images.perceptual_hash import image_signature
from clipkit.errors import SampleError
from tests.helpers.evaluation_data import picture


def stored(size: tuple[int, int], kind: str, mode: str = "RGB", **options: object) -> bytes:
    rng = np.random.default_rng(sum(size))
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    out = io.BytesIO()
    coarse.resize(size, Image.Resampling.BICUBIC).convert(mode).save(out, kind, **options)
    return out.getvalue()


def turned(size: tuple[int, int], orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return stored(size, "JPEG", exif=exif)


FILES = {
    "small": (stored((300, 200), "JPEG"), (300, 200)),
    "large": (stored((1100, 900), "JPEG"), (1100, 900)),
    "wide": (stored((1300, 260), "JPEG"), (1300, 260)),
    "grey": (stored((640, 520), "JPEG", "L"), (640, 520)),
    "cmyk": (stored((300, 200), "JPEG", "CMYK"), (300, 200)),
    "turned": (turned((300, 200), 6), (200, 300)),
    "large and turned": (turned((1100, 900), 8), (900, 1100)),
    "mirrored": (turned((300, 200), 2), (300, 200)),
    "png": (picture(3), None),
    "transparent": (stored((60, 40), "PNG", "RGBA"), (60, 40)),
    "palette": (stored((60, 40), "GIF", "P"), (60, 40)),
    "webp": (stored((700, 600), "WEBP"), (700, 600)),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("transform", [EvalTransform(32), NaFlexEvalTransform(8, 16)])
def test_one_decode_gives_what_two_functions_give(name, transform):
    data, size = FILES[name]
    image = inspect_image(data, transform)
    assert torch.equal(image.pixels, transform.of_file(data))
    assert image.signature.tolist() == image_signature(data).tolist()
    if size is not None:
        assert (image.width_pixels, image.height_pixels) == size


@pytest.mark.parametrize(("name", "opened"), [("small", 1), ("png", 1), ("wide", 1), ("large", 2)])
def test_only_large_jpegs_are_decoded_twice(monkeypatch, name, opened):
    calls = []
    for module in (inspection, transforms):
        monkeypatch.setattr(
            module, "open_image", lambda *args: calls.append(args) or open_image(*args)
        )
    inspect_image(FILES[name][0], EvalTransform(32))
    assert len(calls) == opened


@pytest.mark.parametrize(
    "data", [b"", b"no image", FILES["large"][0][:5000], FILES["png"][0][:400]]
)
def test_what_cannot_be_decoded_is_an_error_of_the_sample(data):
    with pytest.raises(SampleError):
        inspect_image(data, EvalTransform(32))
