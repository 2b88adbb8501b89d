"""timm's models as towers for spectrograms."""

from __future__ import annotations

import pytest
import timm
import torch

from clipkit.errors import ConfigError
from clipkit.models import TimmSoundTower
from tests.helpers.sound_towers import mel

MELS, FRAMES = 48, 70


def tower(model="test_vit", embedding_dim=24, num_mels=MELS, num_frames=FRAMES, **options):
    torch.manual_seed(0)
    return TimmSoundTower(model, embedding_dim, mel(num_mels, num_frames), **options).eval()


def sounds(num_mels=MELS, num_frames=FRAMES):
    return torch.randn(3, num_mels, num_frames, generator=torch.Generator().manual_seed(1)) - 4


@pytest.mark.parametrize("model", ["test_vit", "test_vit2", "test_resnet", "test_convnext"])
@pytest.mark.parametrize("size", [(32, 64), (80, 33), (128, 100)])
@torch.no_grad()
def test_features_are_those_of_timm(model, size):
    """A spectrogram is an image of one channel, with mel bands as rows, in complete patches."""
    sound = tower(model, 24, *size, mean=-4.0, std=2.0)
    padded = [-(-length // 16) * 16 for length in size] if "vit" in model else list(size)
    options = {"img_size": padded} if "vit" in model else {}
    own = timm.create_model(model, num_classes=0, in_chans=1, **options).eval()
    own.load_state_dict(sound.trunk.state_dict())
    images = torch.zeros(3, 1, *padded)
    images[:, 0, : size[0], : size[1]] = (sounds(*size) + 4.0) / 2.0
    expected = own(images) @ sound.projection.weight.T
    torch.testing.assert_close(sound(sounds(*size)), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_each_mel_band_is_normalised_by_its_own_statistics():
    deviations = [float(band + 1) for band in range(MELS)]
    fixed = tower(mean=[-4.0] * MELS, std=deviations)
    one = tower(mean=0.0, std=1.0)
    one.load_state_dict(fixed.state_dict())
    divided = (sounds() + 4.0) / torch.tensor(deviations)[:, None]
    torch.testing.assert_close(fixed(sounds()), one(divided))


@torch.no_grad()
def test_learned_normalisation_is_that_of_the_batches():
    learned = tower().train()
    one = tower(mean=0.0, std=1.0).train()
    one.trunk.load_state_dict(learned.trunk.state_dict())
    one.projection.load_state_dict(learned.projection.state_dict())
    values = sounds() * torch.arange(1, MELS + 1)[:, None]
    mean = values.mean(dim=(0, 2), keepdim=True)
    variance = values.var(dim=(0, 2), keepdim=True, correction=0)
    expected = one((values - mean) / (variance + 1e-5).sqrt())
    torch.testing.assert_close(learned(values), expected, rtol=1e-4, atol=1e-5)
    norm = learned.normalization.norm
    torch.testing.assert_close(norm.running_mean, 0.1 * mean.flatten())


def test_weights_for_colour_images_from_a_file(tmp_path):
    from timm.layers import resample_abs_pos_embed

    whole = timm.create_model("test_vit")
    torch.save(whole.state_dict(), tmp_path / "weights.pt")
    sound = tower(pretrained=str(tmp_path / "weights.pt"))
    own, given = sound.trunk.state_dict(), whole.state_dict()
    changed = {"patch_embed.proj.weight", "pos_embed"}
    for name in set(own) - changed:
        assert torch.equal(own[name], given[name])
    summed = given["patch_embed.proj.weight"].sum(dim=1, keepdim=True)
    torch.testing.assert_close(own["patch_embed.proj.weight"], summed)
    grid = [3, 5]  # 48 by 70 in patches of 16
    positions = resample_abs_pos_embed(given["pos_embed"], grid)
    torch.testing.assert_close(own["pos_embed"], positions)
    assert sound.config()["pretrained"] is False


@pytest.mark.parametrize("model", ["test_vit", "test_resnet"])
def test_weights_for_spectrograms_from_a_file(tmp_path, model):
    options = {"img_size": (48, 80)} if model == "test_vit" else {}
    whole = timm.create_model(model, in_chans=1, **options)
    torch.save(whole.state_dict(), tmp_path / "weights.pt")
    own = tower(model, pretrained=str(tmp_path / "weights.pt")).trunk.state_dict()
    given = whole.state_dict()
    assert [name for name in own if not torch.equal(own[name], given[name])] == []


def test_patches_are_dropped_in_training_only():
    sound = tower(mean=0.0, std=1.0, patch_dropout=0.5)
    assert torch.equal(sound(sounds()), sound(sounds()))
    sound.train()
    assert not torch.equal(sound(sounds()), sound(sounds()))
    assert sound.config()["patch_dropout"] == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "resnet_50"}, "timm has no model 'resnet_50'; did you mean 'resnet50'"),
        ({"pretrained": "nowhere.pt"}, "no file 'nowhere.pt'"),
        ({"projection": "none"}, "'none' needs embedding_dim = 64"),
        ({"mel": {"num_mels": 0}}, "mel.num_mels: expected 1 to 2048, got 0"),
        ({"mel": {"bands": 64}}, "mel: no option 'bands'"),
        ({"mean": 1.0}, "std: expected both mean and std"),
        ({"std": 1.0}, "mean: expected both mean and std"),
        ({"mean": 0.0, "std": [1.0, 2.0]}, "std: expected one number, or 48, one per feature"),
        ({"mean": 0.0, "std": 0.0}, "std: expected numbers above 0, got 0.0"),
        ({"mean": 0.0, "std": float("nan")}, "std: expected numbers above 0, got nan"),
        ({"model": "test_resnet", "patch_dropout": 0.5}, "cannot leave out patches"),
        ({"model": "naflexvit_base_patch16_gap"}, "reads patches of images of any shape"),
        ({"patch_dropout": 1.0}, "patch_dropout: expected 0 up to but not 1"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        TimmSoundTower(**{"model": "test_vit", "embedding_dim": 24, "mel": mel(48, 70), **options})
