"""Thumbnails of image files."""

import io

import numpy as np
import pytest
from PIL import Image

from clipkit.errors import ConfigError, SampleError
from clipkit.search.thumbnails import small_jpeg
from tests.helpers.factories import image_bytes

IMAGE = image_bytes("red")


def test_thumbnails_are_small_upright_and_on_white():
    out = io.BytesIO()
    drawing = Image.new("RGBA", (300, 100), (0, 0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    drawing.save(out, "PNG", exif=exif)
    small = Image.open(io.BytesIO(small_jpeg(out.getvalue(), 60)))
    assert (small.format, small.mode, small.size) == ("JPEG", "RGB", (20, 60))
    assert np.asarray(small).min() > 250


def test_a_small_image_keeps_its_size_and_a_large_one_is_refused():
    assert Image.open(io.BytesIO(small_jpeg(IMAGE, 999))).size == (40, 32)
    with pytest.raises(SampleError, match="above the limit of 100"):
        small_jpeg(IMAGE, 20, max_pixels=100)
    with pytest.raises(SampleError, match=r"(?i)truncated"):
        small_jpeg(IMAGE[:300], 20)
    with pytest.raises(ConfigError, match="size_pixels: expected 1 to 2048"):
        small_jpeg(IMAGE, 0)
