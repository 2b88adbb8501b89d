"""``DualEncoder.encode``: texts and images as they are."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image, ImageOps

from clipkit.errors import ConfigError, DataError
from clipkit.export import export_encoder
from clipkit.models import from_open_clip, load_encoder, lock
from tests.helpers.factories import image_bytes
from tests.helpers.tiny_models import TEXT, VIT, config

CLIP = {"model_cfg": config(VIT, {**TEXT, "vocab_size": 49408})}
TEXTS = ["a dog", "two cats, and a very long caption that is truncated at sixteen tokens, always"]


@pytest.fixture(scope="module")
def ours():
    torch.manual_seed(0)
    return from_open_clip(CLIP)


@pytest.fixture
def paths(tmp_path):
    """Photos of several shapes, one of them with an orientation."""
    paths = []
    for number, (color, size) in enumerate([("red", (40, 60)), ("green", (90, 33))]):
        path = tmp_path / f"{color}.jpg"
        path.write_bytes(image_bytes(color, size, seed=number))
        paths.append(path)
    image = Image.open(paths[1])
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    return [*paths, tmp_path / "turned.jpg"]


def test_as_open_clip_does(ours, paths, tmp_path):
    export_encoder(ours, tmp_path / "export")
    theirs, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}/export")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path}/export")
    with torch.no_grad():
        text = theirs.eval().encode_text(tokenizer(TEXTS), normalize=True)
        pixels = [preprocess(Image.open(path)) for path in paths[:2]]
        image = theirs.encode_image(torch.stack(pixels), normalize=True)
    for encoder in (ours, load_encoder(tmp_path / "export")):
        texts, images = encoder.encode(TEXTS, paths[:2])
        torch.testing.assert_close(texts, text, atol=1e-5, rtol=0)
        torch.testing.assert_close(images, image, atol=1e-5, rtol=0)


def test_paths_and_images_of_pillow_are_the_same(ours, paths):
    images = ours.encode(images=paths).images
    opened = [Image.open(path) for path in paths]
    texts = [str(path) for path in paths]
    converted = [Image.open(path).convert("RGB") for path in paths]  # which keeps the orientation
    for inputs in (opened, texts, converted, tuple(opened)):
        torch.testing.assert_close(ours.encode(images=inputs).images, images, atol=0, rtol=0)
    upright = ImageOps.exif_transpose(Image.open(paths[2]))
    turned = ours.encode(images=[upright]).images
    torch.testing.assert_close(turned, images[2:], atol=1e-6, rtol=0)
    assert not torch.allclose(images[1], images[2])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "I;16"])
def test_every_kind_of_image(ours, mode, tmp_path):
    photo = Image.open(io.BytesIO(image_bytes()))
    if mode == "I;16":
        grey = np.asarray(photo.convert("L")).astype(np.uint16) * 257
        image, expected = Image.fromarray(grey), photo.convert("L")
    else:
        image = expected = photo.convert(mode)
    before = image.tobytes()
    embedded = ours.encode(images=[image, expected.convert("RGB")]).images
    torch.testing.assert_close(embedded[0], embedded[1], atol=1e-6, rtol=0)
    assert image.tobytes() == before


def test_batches_do_not_change_the_result(ours, paths):
    texts, images = ours.encode(TEXTS * 5, paths * 3)
    for batch_size in (1, 4):
        more = ours.encode(TEXTS * 5, paths * 3, batch_size=batch_size)
        torch.testing.assert_close(more.texts, texts, atol=1e-6, rtol=0)
        torch.testing.assert_close(more.images, images, atol=1e-6, rtol=0)
    assert texts.shape == (10, 24)
    assert images.shape == (9, 24)


def test_no_input_gives_no_rows(ours):
    texts, images = ours.encode()
    assert texts.shape == images.shape == (0, 24)
    assert len(ours.encode([""]).texts) == 1  # an empty text is a text


def test_the_encoder_stays_as_it_was(paths):
    encoder = from_open_clip(CLIP, patch_dropout=0.5)  # which training draws numbers for
    lock(encoder.text_tower)
    encoder.train()
    state = torch.get_rng_state()
    texts, images = encoder.encode(TEXTS, paths)
    torch.testing.assert_close(images, encoder.encode(images=paths).images, atol=0, rtol=0)
    assert not texts.requires_grad
    assert encoder.training
    assert encoder.image_tower.training
    assert not encoder.text_tower.training  # a locked tower
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_float32_of_unit_norm_whatever_the_weights(dtype, paths):
    encoder = from_open_clip(CLIP).to(dtype)
    for embedded in encoder.encode(TEXTS, paths):
        assert embedded.dtype == torch.float32
        torch.testing.assert_close(embedded.norm(dim=-1), torch.ones(len(embedded)))


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (("a dog",), ConfigError, "texts: expected a list of texts, got the text 'a dog'"),
        (([b"a dog"],), ConfigError, r"texts\[0\]: expected a text, got bytes"),
        (((), "dog.jpg"), ConfigError, "images: expected a list of images, got one str"),
        (((), Image.new("RGB", (9, 9))), ConfigError, "images: .*got one Image"),
        (((), [np.zeros((9, 9, 3))]), ConfigError, r"images\[0\]: .* got ndarray"),
        (((), ["none.jpg"]), DataError, r"images\[0\]: none.jpg: cannot be read: No such file"),
        (((), [Path(__file__)]), DataError, r"test_encode.py: not an image"),
        (((), [Path(__file__).parent]), DataError, r"images\[0\]: .*Is a directory"),
        (((), [Image.new("F", (9, 9))]), DataError, r"images\[0\]: image of 32-bit floats"),
        (((), [Image.new("RGB", (0, 9))]), DataError, r"images\[0\]: image has no pixels"),
        (((), (), 0), ConfigError, "batch_size: expected at least 1, got 0"),
    ],
)
def test_errors_name_the_argument(ours, words, error, message):
    with pytest.raises(error, match=message):
        ours.encode(*words)


def test_a_damaged_image_is_named(ours, paths):
    paths[1].write_bytes(paths[1].read_bytes()[:-400])
    with pytest.raises(DataError, match=r"images\[1\]: .*green.jpg: image is truncated"):
        ours.encode(images=paths)
