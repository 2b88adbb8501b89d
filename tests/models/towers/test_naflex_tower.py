"""A tower of patches: padding changes nothing, and timm computes the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.data.naflex_transforms import patchify_image
from torch import Tensor

from clipkit.data import NaFlexTrainTransform, ShardIndex
from clipkit.errors import ConfigError
from clipkit.losses import CombinedLoss, ContrastiveLoss, embed_in_micro_batches
from clipkit.models import (
    DualEncoder,
    TimmImageTower,
    TimmNaFlexTower,
    describe,
    load_encoder,
    save_encoder,
)
from clipkit.models.inputs import transform_of
from clipkit.models.towers.naflex_tower import has_exact_rotary_positions
from clipkit.patches import to_patches
from clipkit.types import Batch
from tests.helpers import naflex, tiny
from tests.helpers.streams import make

ROTARY = "eva02_tiny_patch14_224"
MODELS = ["test_vit", "test_vit2", "test_vit3"]
"""Pooled by class token, by mean and by attention."""
if has_exact_rotary_positions():
    MODELS.append(ROTARY)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_embeddings_do_not_depend_on_the_padding(model: str, dtype: torch.dtype | None) -> None:
    encoder, pixels = naflex.encoder(model=model).eval(), naflex.images()
    patches, grids = to_patches(pixels, naflex.PATCH_SIZE)
    assert grids.prod(1).min() < grids.prod(1).max()
    longer = torch.nn.functional.pad(patches, (0, 0, 0, 5), value=255)
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype is not None):
        joined = encoder.encode_image(patches, grids)
        padded = encoder.encode_image(longer, grids)
        alone = torch.cat(
            [encoder.encode_image(*to_patches([image], naflex.PATCH_SIZE)) for image in pixels]
        )
    tolerance = 1e-5 if dtype is None else 0.03
    torch.testing.assert_close(joined, alone, atol=tolerance, rtol=0)
    torch.testing.assert_close(padded, alone, atol=tolerance, rtol=0)


@pytest.mark.parametrize("model", MODELS)
def test_features_are_those_of_timm_s_naflex_path(model: str) -> None:
    tower = naflex.encoder(model=model).eval()
    theirs = timm.create_model(model, num_classes=0, use_naflex=True, patch_size=naflex.PATCH_SIZE)
    theirs.eval().load_state_dict(tower.image_tower.trunk.state_dict())
    mean, std = (
        torch.tensor(tower.image_tower.__dict__[name]) for name in ("image_mean", "image_std")
    )
    longest = 20
    parts = []
    for image in naflex.images():
        pixels = (image / 255 - mean[:, None, None]) / std[:, None, None]
        patches, places, valid = patchify_image(pixels, (naflex.PATCH_SIZE,) * 2)
        missing = longest - len(patches)
        parts.append(
            (
                torch.nn.functional.pad(patches, (0, 0, 0, missing)),
                torch.nn.functional.pad(places, (0, 0, 0, missing)),
                torch.nn.functional.pad(valid, (0, missing)),
            )
        )
    patches, places, valid = (torch.stack(part) for part in zip(*parts, strict=True))
    with torch.no_grad():
        features = theirs({"patches": patches, "patch_coord": places, "patch_valid": valid})
        wanted = torch.nn.functional.normalize(tower.image_tower.projection(features), dim=1)
        ours = tower.encode_image(naflex.batch().images, naflex.batch().grids)
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=0)


def test_a_square_is_embedded_as_by_the_plain_vision_transformer(tmp_path: Path) -> None:
    """With the weights of that transformer, from a file."""
    torch.manual_seed(0)
    plain = timm.create_model("test_vit").eval()
    torch.save(plain.state_dict(), tmp_path / "weights.pt")
    tower = TimmNaFlexTower("test_vit", 24, 100, pretrained=str(tmp_path / "weights.pt")).eval()
    assert tower.image_size == 160  # test_vit's own size
    pixels = torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8)
    patches, grids = to_patches(list(pixels), 16)
    normalised = pixels / 255 * 2 - 1
    with torch.no_grad():
        wanted = tower.projection(
            plain.forward_head(plain.forward_features(normalised), pre_logits=True)
        )
        torch.testing.assert_close(
            tower(patches / 255 * 2 - 1, grids), wanted, atol=1e-5, rtol=1e-4
        )
        torch.testing.assert_close(tower(normalised), wanted, atol=1e-5, rtol=1e-4)


def gradients(encoder: DualEncoder, pairs: Batch, micro_batch_size: int = 100) -> dict[str, Tensor]:
    encoder.zero_grad()
    embeddings = embed_in_micro_batches(encoder, pairs, micro_batch_size)
    CombinedLoss(ContrastiveLoss())(embeddings, pairs)["loss"].backward()
    return {n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None}


def test_gradients_do_not_depend_on_padding_or_micro_batches() -> None:
    encoder, pairs = naflex.encoder().double().train(), naflex.batch()
    wanted = gradients(encoder, pairs)
    assert len(wanted) == len(list(encoder.parameters()))
    longer = torch.nn.functional.pad(pairs.images, (0, 0, 0, 6), value=9)
    for pixels, size in ((longer, 100), (pairs.images, 3), (longer, 2)):
        again = gradients(encoder, replace(pairs, images=pixels), size)
        for name, value in wanted.items():
            torch.testing.assert_close(again[name], value, atol=1e-6, rtol=1e-6, msg=name)


def test_gradients_are_those_of_images_one_by_one() -> None:
    """Without the padding of a batch: each image alone, their embeddings joined."""
    encoder, pairs = naflex.encoder().double().train(), naflex.batch()
    wanted = gradients(encoder, pairs)
    encoder.zero_grad()
    text = encoder.encode_text(pairs.tokens)
    image = torch.cat(
        [encoder.encode_image(*to_patches([one], naflex.PATCH_SIZE)) for one in naflex.images()]
    )
    embeddings = replace(encoder(pairs), image=image, text=text)
    CombinedLoss(ContrastiveLoss())(embeddings, pairs)["loss"].backward()
    for name, parameter in encoder.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-6, rtol=1e-6, msg=name)


def test_the_batch_moves_with_its_grids() -> None:
    moved = naflex.batch().to("meta")
    assert moved.grids is not None
    assert moved.grids.is_meta


def test_files_and_encode(tmp_path: Path) -> None:
    encoder = naflex.encoder(enlarge=False).eval()
    described = json.loads(json.dumps(describe(encoder.image_tower)))
    assert described["class_path"] == "clipkit.models.TimmNaFlexTower"
    again = TimmNaFlexTower(**described["init_args"])
    assert again.budget == encoder.image_tower.budget
    groups = [name for group in again.layer_groups() for name in group]
    assert sorted(groups) == sorted(name for name, _ in again.named_parameters())
    paths = []
    for index in range(7):
        paths.append(tmp_path / f"{index}.jpg")
        paths[-1].write_bytes(naflex.image(index))
    save_encoder(encoder, tmp_path / "encoder")
    loaded = load_encoder(tmp_path / "encoder")
    first, second = encoder.encode(images=paths).images, loaded.encode(images=paths).images
    assert torch.equal(first, second)
    transform = transform_of(encoder.image_tower)
    alone = encoder.encode_image(*to_patches([transform.of_file(paths[3].read_bytes())], 8))
    torch.testing.assert_close(first[3:4], alone.detach(), atol=1e-5, rtol=0)


def test_a_stream_of_any_shapes_trains(tmp_path: Path) -> None:
    encoder = naflex.encoder().train()
    index = ShardIndex.from_urls(naflex.shards(tmp_path))
    transform = NaFlexTrainTransform(naflex.PATCH_SIZE, naflex.MAX_TOKENS)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    for pairs in make(index, image_transform=transform):
        pairs.tokens = tiny.batch(size=len(pairs)).tokens
        loss = CombinedLoss(ContrastiveLoss())(encoder(pairs), pairs)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert np.isfinite(loss.item())


def test_rotary_positions_that_depend_on_padding_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timm, "__version__", "1.0.30")
    with pytest.raises(ConfigError, match=r"before timm 1\.0\.31, got timm 1\.0\.30"):
        TimmNaFlexTower(ROTARY, 16)


def test_refusals() -> None:
    other = tiny.encoder()
    with pytest.raises(ConfigError, match=r"OpenClipImageTower reads images of one shape"):
        other(naflex.batch())
    other = DualEncoder(TimmImageTower("test_vit", 16, 16), other.text_tower)
    with pytest.raises(ConfigError, match=r"TimmImageTower reads images of one shape"):
        other.encode_image(naflex.batch().images, naflex.batch().grids)
    for model in ("test_resnet", "swin_tiny_patch4_window7_224"):
        with pytest.raises(
            ConfigError, match=r"cannot use '.*' for patches of images of any shape"
        ):
            TimmNaFlexTower(model, 16)
    with pytest.raises(ConfigError, match=r"timm has no model 'test_vut'; did you mean"):
        TimmNaFlexTower("test_vut", 16)
    with pytest.raises(ConfigError, match=r"there is no file 'nothing\.pt'"):
        TimmNaFlexTower("test_vit", 16, pretrained="nothing.pt")
    with pytest.raises(ConfigError, match=r"max_tokens: expected at least 1, got 0"):
        TimmNaFlexTower("test_vit", 16, max_tokens=0)
