"""timm's models as image towers."""

import json

import pytest
import torch

from clipkit.errors import ConfigError
from clipkit.models import TimmImageTower


@pytest.mark.parametrize("model", ["test_vit", "test_resnet", "test_convnext"])
@pytest.mark.parametrize("projection", ["linear", "mlp"])
def test_any_trunk_at_another_size(model, projection):
    tower = TimmImageTower(model, embedding_dim=24, image_size=64, projection=projection).eval()
    assert tower(torch.randn(2, 3, 64, 64)).shape == (2, 24)
    groups = tower.layer_groups()
    names = [name for group in groups for name in group]
    assert sorted(names) == sorted(name for name, _ in tower.named_parameters())
    assert all(name.startswith("projection.") for name in groups[-1])


def test_features_are_timm_s_own_and_so_is_the_normalisation():
    import timm

    torch.manual_seed(0)
    tower = TimmImageTower("test_resnet", embedding_dim=96, projection="none").eval()
    theirs = timm.create_model("test_resnet", num_classes=0).eval()
    theirs.load_state_dict(tower.trunk.state_dict())
    images = torch.randn(2, 3, 160, 160)
    torch.testing.assert_close(tower(images), theirs(images))
    assert tower.image_size == 160
    assert tower.image_mean == pytest.approx(theirs.default_cfg["mean"])
    assert tower.image_std == pytest.approx(theirs.default_cfg["std"])


def test_config_builds_the_same_tower():
    tower = TimmImageTower("test_vit", embedding_dim=24, image_size=64, projection="mlp").eval()
    again = TimmImageTower(**json.loads(json.dumps(tower.config()))).eval()
    again.load_state_dict(tower.state_dict())
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(again(images), tower(images))


def test_weights_from_a_file_of_the_whole_model(tmp_path):
    import timm

    whole = timm.create_model("test_vit")
    path = tmp_path / "weights.pt"
    torch.save(whole.state_dict(), path)
    tower = TimmImageTower("test_vit", embedding_dim=24, pretrained=str(path))
    for name, value in tower.trunk.state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[name])
    assert tower.config()["pretrained"] is False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "resnet_50"}, "timm has no model 'resnet_50'; did you mean 'resnet50'"),
        ({"pretrained": "nowhere.pt"}, "no file 'nowhere.pt'"),
        ({"projection": "none"}, "'none' needs embedding_dim = 64"),
        ({"projection": "conv"}, "expected 'linear', 'mlp' or 'none'"),
        ({"embedding_dim": 0}, "embedding_dim"),
        ({"model": "mixer_s16_224", "image_size": 64}, "works only at 224 pixels, got 64"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        TimmImageTower(**{"model": "test_vit", "embedding_dim": 24, **options})


def test_weights_that_cannot_be_downloaded_are_refused(monkeypatch):
    from timm.models import _builder

    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(_builder, "load_pretrained", offline)
    with pytest.raises(ConfigError, match=r"OSError: no network; without network, set"):
        TimmImageTower("test_vit", embedding_dim=24, pretrained=True)
