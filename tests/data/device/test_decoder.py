"""Images that the device decodes: the same order and crops, and bad files as always."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from clipkit.data import (
    DeviceDecodedTransform,
    DeviceDecoder,
    HorizontalFlip,
    NegativeImages,
    ShardIndex,
    TrainTransform,
)
from clipkit.data.images.device_decoded import device_jpeg_size
from clipkit.data.order.image_sizes import ImageSizeStage
from clipkit.data.samples.collate import collate
from clipkit.data.samples.joining import PadIds
from clipkit.errors import ConfigError, DataError
from clipkit.types import Batch, Sample
from tests.helpers.factories import write_shard
from tests.helpers.images import encode, photo
from tests.helpers.streams import ids, make

SIZE = 48
CROP = {"size": SIZE, "scale": (0.4, 1.0)}


def turned(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(image, "JPEG", exif=exif)


def files() -> dict[str, bytes]:
    """One file of each kind; the last one is damaged."""
    image = photo(300, 200)
    return {
        "jpg": encode(image, "JPEG", quality=95),
        "progressive": encode(photo(500, 400, seed=1), "JPEG", quality=95, progressive=True),
        "grey": encode(photo(200, 260, seed=2).convert("L"), "JPEG", quality=95),
        "turned": turned(image),
        "cmyk": encode(image.convert("CMYK"), "JPEG"),
        "png": encode(image, "PNG"),
        "webp": encode(image, "WEBP"),
        "truncated": encode(photo(300, 200, seed=3), "JPEG", quality=95)[:2000],
    }


ON_DEVICE = ("jpg", "progressive", "grey")


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> ShardIndex:
    samples = [(key, {"jpg": data, "txt": b"words"}) for key, data in files().items()]
    path = write_shard(tmp_path_factory.mktemp("shards") / "0.tar", samples)
    return ShardIndex.from_urls([str(path)])


class Decoder:
    """Pillow in the place of nvJPEG, which takes none or all of some files."""

    def __init__(self, refuses: bytes | None = None) -> None:
        self.refuses = refuses
        self.calls: list[int] = []

    def __call__(self, parts: list[torch.Tensor]) -> list[torch.Tensor]:
        data = [part.numpy().tobytes() for part in parts]
        if self.refuses in data:
            raise RuntimeError("nvjpegDecode failed")
        pixels = [np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in data]
        self.calls.append(sum(one.size for one in pixels))
        return [torch.from_numpy(one.copy()).permute(2, 0, 1) for one in pixels]


def batches(index, transform, decoder=None, num_workers=0) -> list[Batch]:
    one = make(index, image_transform=transform, max_bad_fraction=1.0, num_workers=num_workers)
    return [batch if decoder is None else decoder(batch) for batch in one]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_order_crops_and_replacements_are_those_of_workers(index, num_workers):
    crop = TrainTransform(**CROP, fast=False)
    expected = batches(index, crop)
    encoded = DeviceDecodedTransform(crop)
    decoder = DeviceDecoder("cpu", decode=(decode := Decoder()))
    found = batches(index, encoded, decoder, num_workers)
    assert [ids(batch) for batch in found] == [ids(batch) for batch in expected]
    assert decode.calls
    keys = [key for batch in found for key in batch.keys]
    assert "truncated" not in keys
    for batch, other in zip(found, expected, strict=True):
        assert batch.encoded is None
        assert batch.images.shape == other.images.shape
        for key, pixels, exact in zip(batch.keys, batch.images, other.images, strict=True):
            error = (pixels.float() - exact.float()).abs().mean()
            assert error < (1.0 if key in ON_DEVICE else 1e-6), key


def test_which_files_the_device_decodes():
    for key, data in files().items():
        assert (device_jpeg_size(data, 10**6) is not None) == (key in ON_DEVICE), key
    jpeg = files()["jpg"]
    assert device_jpeg_size(jpeg, 10**6) == (300, 200)
    assert device_jpeg_size(jpeg.replace(b"\xff\xc0", b"\xff\xc9", 1), 10**6) is None, "arithmetic"
    for end in range(0, 700, 7):
        assert device_jpeg_size(jpeg[:end], 10**6) is None
    for data in (b"", b"\xff\xd8", b"\xff\xd8\xff\xff\xff\xff", b"\xff\xd8\xff\xe0\x00\x00" * 9):
        assert device_jpeg_size(data, 10**6) is None


def test_memory_for_decoded_images_is_bounded(tmp_path):
    samples = [
        (f"{i}", {"jpg": encode(photo(400, 300, seed=i), "JPEG"), "txt": b"words"})
        for i in range(8)
    ]
    index = ShardIndex.from_urls([str(write_shard(tmp_path / "0.tar", samples))])
    decoder = DeviceDecoder("cpu", max_decoded_mib=1, decode=(decode := Decoder()))
    whole = DeviceDecoder("cpu", decode=Decoder())
    transform = DeviceDecodedTransform(TrainTransform(**CROP))
    [batch, *_] = make(index, 8, image_transform=transform)
    assert torch.equal(decoder(batch).images, whole(batch).images)
    assert len(decode.calls) == 4
    assert max(decode.calls) <= 2**20
    large = DeviceDecodedTransform(TrainTransform(**CROP), max_decoded_mib=1)
    data = encode(photo(800, 600), "JPEG")
    assert large.encode(data, np.random.default_rng(0)).crop[1] == 0, "left to the workers"


def test_a_file_that_the_device_refuses_is_decoded_here(index, caplog):
    crop = TrainTransform(**CROP)
    [batch, *_] = make(index, 8, image_transform=DeviceDecodedTransform(crop), max_bad_fraction=1.0)
    good = DeviceDecoder("cpu", decode=Decoder())(batch)
    caplog.clear()
    found = DeviceDecoder("cpu", decode=Decoder(refuses=files()["jpg"]))(batch)
    assert (good.images.float() - found.images.float()).abs().mean() < 1
    assert {record.message for record in caplog.records} == {
        "sample 'jpg': the device cannot decode its JPEG, decoding here"
    }


def test_a_file_that_nothing_decodes_is_named():
    broken = files()["jpg"]
    scan = broken.index(b"\xff\xda")  # its first component gets tables that do not exist
    broken = broken[: scan + 6] + b"\x33" + broken[scan + 7 :]
    transform = DeviceDecodedTransform(TrainTransform(**CROP))
    image = transform.encode(broken, np.random.default_rng(0))
    empty = torch.empty((3, 0, 0), dtype=torch.uint8)
    batch = collate(
        [Sample("a.b", empty, torch.ones(1, dtype=torch.int64), encoded=image)], PadIds()
    )
    with pytest.raises(DataError, match=r"'a\.b'.*TrainTransform"):
        DeviceDecoder("cpu", decode=Decoder(refuses=broken))(batch)


def test_stages_have_the_same_crops(index):
    transform = DeviceDecodedTransform(TrainTransform(**CROP))
    crops = []
    for stages in ((), (ImageSizeStage(24, (1, 0)),)):
        one = make(index, image_transform=transform, max_bad_fraction=1.0)
        one.set_image_sizes(stages)
        crops.append(torch.cat([batch.encoded.crops for batch in one]))
    assert torch.equal(crops[0][:, 1:], crops[1][:, 1:])
    assert set(crops[1][:, 0].tolist()) == {24}


def test_what_is_refused():
    with pytest.raises(ConfigError, match=r"expected no augmentations.*HorizontalFlip"):
        DeviceDecodedTransform(TrainTransform(32, augmentations=[HorizontalFlip()]))
    with pytest.raises(ConfigError, match="keep_decoded_mib: expected 0"):
        DeviceDecodedTransform(TrainTransform(32, keep_decoded_mib=4))
    with pytest.raises(ConfigError, match=r"max_decoded_mib: expected at least 1, got 0"):
        DeviceDecodedTransform(TrainTransform(32), max_decoded_mib=0)
    with pytest.raises(ConfigError, match="expected a CUDA device, got cpu; decode by workers"):
        DeviceDecoder("cpu")


def test_a_torchvision_that_cannot_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def without_nvjpeg(files, mode, device):
        raise RuntimeError("not compiled with nvJPEG support")

    monkeypatch.setattr("torchvision.io.decode_jpeg", without_nvjpeg)
    with pytest.raises(ConfigError, match=r"decodes no JPEGs on CUDA \(not compiled with nvJPEG"):
        DeviceDecoder("cuda")
    monkeypatch.delattr("torchvision.io.decode_jpeg")
    with pytest.raises(ConfigError, match="this torchvision decodes no JPEGs on CUDA"):
        DeviceDecoder("cuda")


def test_hard_negatives_are_refused(index):
    with pytest.raises(ConfigError, match="NegativeImages are decoded by workers"):
        make(
            index,
            image_transform=DeviceDecodedTransform(TrainTransform(**CROP)),
            fields=[NegativeImages(["negative.jpg"])],
        )
