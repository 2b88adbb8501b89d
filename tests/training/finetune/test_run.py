"""Fine-tuning from Python, without the command line."""

from __future__ import annotations

import pytest
import yaml

from clipkit.errors import ClipkitError, ConfigError
from clipkit.models import load_encoder, save_encoder
from clipkit.training.finetune import finetune, plan_finetune
from tests.helpers import naflex, tiny
from tests.helpers.factories import image_bytes
from tests.helpers.launched_here import launch_here


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for color in ("blue", "red"):
        (root / color).mkdir()
        for number in range(8):
            (root / color / f"{number}.jpg").write_bytes(image_bytes(color, seed=number))
    return root


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_encoder(tiny.encoder(), folder)
    return str(folder)


def test_plan_runs_and_its_folder_is_protected(photos, base, tmp_path, monkeypatch):
    launch_here(monkeypatch)
    plan = plan_finetune(photos, tmp_path / "run", model=base)
    assert not plan.folder.exists()
    assert plan.reasons[0] == "16 samples, 2 classes"
    plan.config["trainer"]["max_epochs"] = 1
    weights = finetune(plan)
    assert load_encoder(weights).label_head.class_names == ("blue", "red")
    assert yaml.safe_load(plan.path.read_text()) == plan.config
    with pytest.raises(ConfigError, match="contains a run"):
        plan_finetune(photos, tmp_path / "run", model=base)
    plan_finetune(photos, tmp_path / "run", model=base, overwrite=True)


def test_a_model_of_images_of_any_shape(photos, tmp_path, monkeypatch):
    launch_here(monkeypatch)
    save_encoder(naflex.encoder(), tmp_path / "base")
    plan = plan_finetune(photos, tmp_path / "run", model=str(tmp_path / "base"))
    transform = plan.config["data"]["samples"]["transform"]
    assert transform["class_path"] == "clipkit.data.NaFlexTrainTransform"
    assert transform["init_args"]["max_tokens"] == naflex.MAX_TOKENS
    plan.config["trainer"]["max_epochs"] = 1
    assert load_encoder(finetune(plan)).image_tower.budget.max_tokens == naflex.MAX_TOKENS


def test_failed_run_is_an_error(photos, base, tmp_path, monkeypatch):
    plan = plan_finetune(photos, tmp_path / "run", model=base)
    monkeypatch.setattr("clipkit.training.finetune.run.launch_fit", lambda *_: 2)
    with pytest.raises(ClipkitError, match=r"finetune\.yaml: exit status 2"):
        finetune(plan)
