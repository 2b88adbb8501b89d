"""A run of ``clipkit fit`` with three modalities, of which any sample may lack any."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from clipkit.cli.main import main
from clipkit.errors import ConfigError
from clipkit.losses import CombinedLoss, ContrastiveLoss, ModalityPairLoss, WeightedTerm
from clipkit.models import MultimodalEncoder, load_encoder, load_multimodal_encoder
from clipkit.optim import WarmupCosine
from clipkit.training import ContrastiveModule
from tests.helpers import modalities, tiny
from tests.helpers.series import write_series

SERIES = "tests.helpers.series"
NUM_STEPS = 8  # 19 samples in batches of 4: the third epoch begins after the eighth step


def part(class_path, **options):
    return {"class_path": class_path, "init_args": options}


def pair(first, second):
    loss = part("clipkit.losses.ContrastiveLoss")
    return part("clipkit.losses.ModalityPairLoss", loss=loss, first=first, second=second)


CONFIG = {
    "model": {
        "encoder": part(
            "clipkit.models.with_towers",
            encoder=part("clipkit.models.from_open_clip", name=tiny.CONFIG),
            towers={"series": part(f"{SERIES}.SeriesTower", norm=True)},
            label_heads={"series": part("clipkit.models.LinearLabelHead", embedding_dim=16,
                                        num_classes=4)},
            pair_scales=["image:series"],
        ),
        "loss": {
            "contrastive": part("clipkit.losses.ContrastiveLoss"),
            "terms": {
                "image_series": {"loss": pair("image", "series"), "weight": 0.5},
                "series_text": {
                    "loss": pair("series", "text"),
                    "weight": part("clipkit.losses.LinearSchedule", start=0.0, end=1.0, length=1.0),
                },
                "labels": {
                    "loss": part(
                        "clipkit.losses.ModalityLabelLoss",
                        loss=part("clipkit.losses.LabelLoss"), modality="series",
                    )
                },
            },
        },
        "micro_batch_size": 3,
    },
    "data": {
        "samples": {
            "transform": part("clipkit.data.OptionalImage",
                              transform=part("clipkit.data.TrainTransform", size=16)),
            "caption": part("clipkit.data.OptionalCaption"),
            "fields": [
                part(f"{SERIES}.Series", on_error="absent"), part("clipkit.data.CaptionMask")
            ],
        },
    },
}  # fmt: skip
WORDS = [
    "--model.optimizer=torch.optim.AdamW",
    "--model.schedule=clipkit.optim.WarmupCosine",
    "--data.batch_size=4",
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    f"--trainer.max_steps={NUM_STEPS}",
    "--trainer.logger=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_series(tmp_path_factory.mktemp("series"), (9, 10))


def fit(shards: Path, run: Path, *more: str, changes: dict | None = None) -> int:
    run.mkdir(exist_ok=True)
    (run / "run.yaml").write_text(yaml.safe_dump(changes or CONFIG))
    saver = part("clipkit.training.callbacks.SaveCheckpoint", keep_every_n_steps=1)
    callbacks = [saver, part("clipkit.training.callbacks.KeyLog", path=str(run / "keys.txt"))]
    return main([
        "fit", "-c", str(run / "run.yaml"), *WORDS, f"--data.train={shards}/train/*.tar",
        f"--trainer.default_root_dir={run}",
        *(f"--trainer.callbacks+={json.dumps(one)}" for one in callbacks), *more,
    ])  # fmt: skip


def weights(path: Path) -> dict[str, torch.Tensor]:
    state = torch.load(path, weights_only=True)["state_dict"]
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def test_resumed_in_the_second_epoch(shards, tmp_path):
    whole = tmp_path / "whole"
    assert fit(shards, whole) == 0
    keys = (whole / "keys.txt").read_text()
    expected = weights(whole / f"step={NUM_STEPS}.ckpt")
    assert any(".series_tower." in name for name in expected)
    step, again = 5, tmp_path / "again"
    again.mkdir()
    (again / "keys.txt").write_text("")
    assert fit(shards, again, f"--ckpt_path={whole}/step={step}.ckpt") == 0
    lines = (again / "keys.txt").read_text().splitlines()
    assert lines == [line for line in keys.splitlines() if int(line.split()[0]) > step]
    got = weights(again / f"step={NUM_STEPS}.ckpt")
    assert got.keys() == expected.keys()
    assert [name for name in got if not torch.equal(got[name], expected[name])] == []

    trained = load_multimodal_encoder(whole / f"step={NUM_STEPS}.ckpt", "encoder.")
    assert set(trained.towers) == {"image", "text", "series"}
    start = load_multimodal_encoder(whole / "step=1.ckpt", "encoder.")
    for name in ("series_tower", "label_heads", "log_pair_scales"):
        first, last = (next(m.get_submodule(name).parameters()) for m in (start, trained))
        assert not torch.equal(first, last), name
    dual = load_encoder(whole / f"step={NUM_STEPS}.ckpt")
    assert dual.label_head is None


def test_towers_that_are_missing_need_no_options(shards, tmp_path):
    """Series and texts alone: no image is read, and the tokenizer is that of the text tower."""
    model = CONFIG["model"]["encoder"]["init_args"]
    text = part("clipkit.models.OpenClipTextTower",
                model={"embed_dim": 16, "text_cfg": tiny.CONFIG["text_cfg"]})  # fmt: skip
    encoder = part("clipkit.models.MultimodalEncoder", towers={"text": text, **model["towers"]})
    fields = CONFIG["data"]["samples"]["fields"]
    samples = {"fields": fields, "caption": part("clipkit.data.OptionalCaption")}
    loss = {"terms": {"series_text": {"loss": pair("series", "text")}}}
    changes = {"model": {"encoder": encoder, "loss": loss}, "data": {"samples": samples}}
    assert fit(shards, tmp_path, "--trainer.max_steps=2", changes=changes) == 0
    encoder = load_multimodal_encoder(tmp_path / "step=2.ckpt")
    assert set(encoder.towers) == {"text", "series"}


def test_a_tower_is_locked_by_its_name(shards, tmp_path, capsys):
    lock = part("clipkit.training.callbacks.LockTower", tower="series_tower")
    assert fit(shards, tmp_path / "run", "--trainer.max_steps=2",
               f"--trainer.callbacks+={json.dumps(lock)}") == 0  # fmt: skip
    first, last = (weights(tmp_path / f"run/step={step}.ckpt") for step in (1, 2))
    for name, value in first.items():
        is_locked = ".series_tower." in name
        if is_locked or name.endswith("image_tower.visual.proj"):
            assert torch.equal(value, last[name]) == is_locked, name
    lock["init_args"]["tower"] = "sound_tower"
    assert fit(shards, tmp_path / "other", f"--trainer.callbacks+={json.dumps(lock)}") != 0
    assert "expected image_tower or text_tower or series_tower" in capsys.readouterr().err


def test_a_tower_that_no_term_reads_stays_as_it_is(shards, tmp_path, caplog):
    """Weight decay alone would change it."""
    loss = {"terms": {"series_text": {"loss": pair("series", "text")}}}
    changes = {**CONFIG, "model": {**CONFIG["model"], "loss": loss}}
    assert fit(shards, tmp_path, "--trainer.max_steps=2", changes=changes) == 0
    first, last = (weights(tmp_path / f"step={step}.ckpt") for step in (1, 2))
    changed = {name.split(".")[1] for name in first if not torch.equal(first[name], last[name])}
    assert {"text_tower", "series_tower"} <= changed
    assert "image_tower" not in changed
    assert "no term with a weight reads the image_tower" in caplog.text


def test_all_modalities_are_predicted_with_masks():
    loss = CombinedLoss(terms={"pair": WeightedTerm(
        ModalityPairLoss(ContrastiveLoss(), "series", "text"))})  # fmt: skip
    batch, encoder = modalities.batch(), modalities.encoder()
    module = ContrastiveModule(encoder, loss, torch.optim.AdamW, WarmupCosine())
    with torch.no_grad():
        found, expected = module.predict_step(batch, 0), encoder(batch)
        masks = {"image_present", "text_present", "series_present"}
        assert set(found) == {"keys", "image", "text", "series"} | masks
        for name in ("image", "text", "series"):
            values, present = expected.of(name)
            assert torch.equal(found[f"{name}_present"], present)
            assert torch.equal(found[name][present], values[present])
            assert not found[name][~present].any()
        towers = {"text": modalities.BagTower(), "series": modalities.SumTower()}
        module.encoder = MultimodalEncoder(towers).double()
        without_captions = module.predict_step(replace(batch, tokens=None), 0)
        assert set(without_captions) == {"keys", "series", "series_present"}
        module.encoder = MultimodalEncoder({"text": modalities.BagTower()}).double()
        with pytest.raises(ConfigError, match="predict: expected an input for one of the towers"):
            module.predict_step(replace(batch, tokens=None), 0)


def test_embeddings_of_all_modalities_are_written(tmp_path):
    from clipkit.training.callbacks import WriteEmbeddings

    rows, mask = torch.eye(3), torch.tensor([True, False, True])
    batches = [{"keys": ("a", "b", "c"), "sound": rows, "sound_present": mask}] * 2
    trainer = SimpleNamespace(default_root_dir=str(tmp_path), global_rank=0)
    WriteEmbeddings().write_on_epoch_end(trainer, None, batches)
    stored = np.load(tmp_path / "embeddings.rank0.npz")
    assert sorted(stored.files) == ["keys", "sound", "sound_present"]
    assert stored["sound"].shape == (6, 3)
    assert stored["sound_present"].tolist() == [True, False, True] * 2


def test_an_objective_that_the_encoder_cannot_serve_is_refused(shards, tmp_path, capsys):
    model = dict(CONFIG["model"])
    model["loss"] = {"terms": {"wrong": {"loss": pair("image", "sound")}}}
    assert fit(shards, tmp_path, changes={**CONFIG, "model": model}) != 0
    assert "'sound'" in capsys.readouterr().err


def test_the_modality_of_the_documentation_trains(shards, tmp_path, monkeypatch):
    """In at most 60 lines of Python, and the configuration below them."""
    page = (Path(__file__).parents[3] / "docs/extending.md").read_text(encoding="utf-8")
    section = page[page.index("## A modality") : page.index("## An augmentation")]
    python = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (configuration,) = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    assert sum(len(code.splitlines()) for code in python) <= 60
    (tmp_path / "my_sensors.py").write_text(python[0])
    monkeypatch.syspath_prepend(tmp_path)
    changes = yaml.safe_load(configuration)
    encoder = changes["model"]["encoder"]["init_args"]
    encoder["encoder"] = part("clipkit.models.from_open_clip", name=tiny.CONFIG)
    encoder["towers"]["sensors"]["init_args"] = {"embedding_dim": 16, "length": 8}
    samples = changes["data"]["samples"]
    samples["fields"][0]["init_args"] = {"length": 8}
    samples |= {name: CONFIG["data"]["samples"][name] for name in ("transform", "caption")}
    assert fit(shards, tmp_path / "run", "--trainer.max_steps=2", changes=changes) == 0
    assert "sensors" in load_multimodal_encoder(tmp_path / "run/step=2.ckpt").towers
