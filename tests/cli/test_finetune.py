"""From a folder of pictures to a fine-tuned model, its curve and its report, by commands."""

from __future__ import annotations

import csv
import json
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from clipkit.cli.main import main
from clipkit.errors import DataError
from clipkit.models import load_encoder, save_encoder
from clipkit.training import PairDataModule, PairOptions
from clipkit.training.finetune import BaseModelInfo, FinetuneData, inspect_data, presets
from clipkit.training.finetune.presets import PRESETS, choose_preset, finetune_config
from tests.helpers import tiny
from tests.helpers.factories import image_bytes, write_shards

SAVE = {"class_path": "clipkit.training.callbacks.SaveCheckpoint"}
COLORS = {"blue": 16, "green": 8, "red": 4}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for split in ("train", "val"):
        for color, count in COLORS.items():
            (root / split / color).mkdir(parents=True)
            for number in range(count):
                picture = image_bytes(color, seed=number + 100 * (split == "val"))
                (root / split / color / f"{number}.jpg").write_bytes(picture)
    return root


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "start"
    save_encoder(tiny.encoder(), folder)
    return folder


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, photos, start) -> Path:
    """The folder of a run."""
    folder = tmp_path_factory.mktemp("runs") / "tuned"
    words = ["finetune", "--train", photos / "train", "--val", photos / "val", "--model", start]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(presets, "PRESETS", (replace(PRESETS[0], epochs=2),))
        assert main([*map(str, words), "--output", str(folder)]) == 0
    return folder


def test_one_yaml_is_the_run(tuned, photos, start, capsys):
    text = (tuned / "finetune.yaml").read_text()
    config = yaml.safe_load(text)
    assert "*id" not in text  # no aliases: every part can be changed where it stands
    assert text.startswith(f"# clipkit fit -c {tuned}/finetune.yaml\n# 28 samples, 3 classes\n")
    assert "# classes: 0 blue, 1 green, 2 red\n" in text
    assert "fewer than 1,000 samples" in text
    assert config["model"]["encoder"]["init_args"]["path"] == str(start)
    weights = config["model"]["loss"]["label"]["init_args"]["class_weights"]
    assert weights[0] < weights[1] < weights[2]
    resolved = yaml.safe_load((tuned / "config.yaml").read_text())
    assert resolved["data"]["train"] == str(photos / "train")
    head = load_encoder(tuned / "best.ckpt").label_head
    assert (head.num_classes, head.class_names) == (3, ("blue", "green", "red"))


def test_printing_runs_nothing(tmp_path, photos, start, capsys):
    words = ["finetune", "--train", photos / "train", "--model", start, "--print", "--output"]
    assert main([*map(str, words), str(tmp_path / "run")]) == 0
    text = capsys.readouterr().out
    assert "val" not in yaml.safe_load(text)["data"]
    assert "validation" not in text
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["finetune.yaml"]


def test_evaluation_on_a_folder_with_a_report(tuned, photos, tmp_path):
    words = ["evaluate", "--model", tuned / "last.ckpt", "--data", photos / "val"]
    options = ["--task", "zero-shot", "--task", "label-head", "--report", tmp_path / "report"]
    output = tmp_path / "numbers.json"
    assert main([*map(str, [*words, *options, "--output", output])]) == 0
    metrics = json.loads(output.read_text())["metrics"]
    recalls = [metrics[f"label-head/recall/{color}"] for color in COLORS]
    assert metrics["label-head/macro_recall"] == pytest.approx(sum(recalls) / 3)
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "report.html",
        "confusion-zero-shot.png",
        "confusion-label-head.png",
    }
    Image.open(tmp_path / "report" / "confusion-label-head.png").verify()
    page = (tmp_path / "report" / "report.html").read_text()
    assert "blue" in page
    assert "predicted as" in page


def test_data_that_lack_a_class_are_measured_by_name(tuned, photos, tmp_path):
    for color in ("green", "red"):
        shutil.copytree(photos / "val" / color, tmp_path / "val" / color)
    output = tmp_path / "numbers.json"
    words = ["evaluate", "--model", tuned / "last.ckpt", "--task", "label-head", "--report"]
    found = []
    for data in (photos / "val", tmp_path / "val"):
        options = [tmp_path / "report", "--data", data, "--output", output]
        assert main([*map(str, [*words, *options])]) == 0
        found.append(json.loads(output.read_text()))
    whole, part = (record["metrics"] for record in found)
    for color in ("green", "red"):
        assert part[f"recall/{color}"] == whole[f"recall/{color}"]
    assert found[1]["class_names"] == {"data": ["green", "red"], "model": [*COLORS]}


def test_the_curve_between_start_and_end(tuned, photos, start, tmp_path):
    data = str(photos / "val")
    words = ["--measure", f"zero-shot={data}", "--points", "3", "--keep", "0.5"]
    models = ["--start", str(start), "--end", str(tuned / "last.ckpt")]
    assert main(["interpolate", *models, *words, "--output", str(tmp_path)]) == 0
    curve = json.loads((tmp_path / "curve.json").read_text())["curve"]
    assert [point["alpha"] for point in curve] == [0, 0.5, 1]
    ET.parse(tmp_path / "curve.svg")
    output = tmp_path / "half.json"
    words = ["--model", str(tmp_path / "model"), "--data", data, "--output", str(output)]
    assert main(["evaluate", "--task", "zero-shot", *words]) == 0
    kept = json.loads(output.read_text())["metrics"]["top1"]
    assert kept == curve[1]["metrics"][f"zero-shot={data}/top1"]


def test_several_classes_a_picture_from_a_table(photos, start, tmp_path, capsys, monkeypatch):
    """Colours, and whether a colour is warm; two rows of three have two classes."""
    monkeypatch.setattr(presets, "PRESETS", (replace(PRESETS[0], epochs=6, learning_rate=1e-2),))
    cells = {"blue": "blue", "green": "green", "red": '["red", "warm"]'}
    for split in ("train", "val"):
        with (tmp_path / f"{split}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["image", "labels"])
            for path in sorted((photos / split).rglob("*.jpg")):
                table.writerow([path, cells[path.parent.name]])
    run, output = tmp_path / "run", tmp_path / "numbers.json"
    words = ["--train", tmp_path / "train.csv", "--val", tmp_path / "val.csv", "--model", start]
    words = [*words, "--output", run]
    assert main([*map(str, ["finetune", *words])]) == 2  # the images are in another folder
    assert "--allow-outside" in capsys.readouterr().err
    assert main([*map(str, ["finetune", *words, "--allow-outside"])]) == 0
    text = (run / "finetune.yaml").read_text()
    said = capsys.readouterr().out
    assert (
        f"clipkit evaluate --model {run}/best.ckpt --data {tmp_path}/val.csv --task multi" in said
    )
    assert "# 28 samples, 4 classes\n" in text
    assert "the text tower is not used" in text
    words = ["--model", run / "last.ckpt", "--data", tmp_path / "val.csv", "--output", output]
    assert main([*map(str, ["evaluate", "--task", "multi-label", *words, "--allow-outside"])]) == 0
    metrics = json.loads(output.read_text())["metrics"]
    single = [metrics[f"average_precision/{name}"] for name in ("blue", "green", "red", "warm")]
    assert metrics["mean_average_precision"] == pytest.approx(sum(single) / 4)
    assert single[2] == single[3] > 0.5  # far above the share of red, 4 of 28


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to do"),
        (["--measure", "juggling=x"], "expected TASK=DATA"),
        (["--keep", "2"], "keep: expected 0 to 1"),
        (["--measure", "retrieval=x", "--points", "1"], "points: expected at least 2"),
    ],
)
def test_interpolate_says_what_cannot_work(words, message, tmp_path, capsys):
    line = ["interpolate", "--start", "a", "--end", "b", "--output", str(tmp_path / "out"), *words]
    assert main(line) == 2
    assert message in capsys.readouterr().err


def test_lightnings_early_stopping_watches_what_is_logged(tmp_path):
    shards = tiny.shards(tmp_path)
    stop = {
        "class_path": "lightning.pytorch.callbacks.EarlyStopping",
        # no validation can be better by that much than the first
        "init_args": {"monitor": "val/loss", "mode": "min", "patience": 2, "min_delta": 100.0},
    }
    words = tiny.words(shards, tmp_path / "run", f"--trainer.callbacks={json.dumps([stop, SAVE])}")
    words = [word for word in words if "max_steps" not in word and "checkpointing" not in word]
    more = [f"--data.val={shards}/val/*.tar", "--trainer.max_epochs=10"]
    assert main(["fit", *words, *more, "--trainer.num_sanity_val_steps=0"]) == 0
    stored = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert stored["global_step"] == 3 * 5  # the first validation, and two that were no better


def test_classes_are_shown_equally_often(photos, tmp_path):
    module = tiny.module(labels=True)
    data = PairDataModule(
        train=str(photos / "train"), batch_size=6, samples=PairOptions(balance_classes=True)
    )
    trainer = tiny.trainer(tmp_path, max_epochs=1)
    trainer.fit(module, data)
    counts = {key: value for key, value in data.train_stream.counters().items() if "/" in key}
    assert counts == {f"samples/{color}": 8 for color in COLORS}


def test_a_mixture_has_weights_of_its_own(photos, tmp_path, capsys):
    sources = json.dumps([{"name": "a", "urls": str(photos / "train"), "weight": 1}])
    words = [w for w in tiny.words(photos, tmp_path) if not w.startswith("--data.train")]
    flags = [f"--data.mixture.sources={sources}", "--data.samples.per_class=2"]
    assert main(["fit", *words, *flags]) == 2
    assert "use weights of the sources instead" in capsys.readouterr().err


def test_presets_cover_all_sizes_with_a_reason():
    bounds = [preset.below for preset in PRESETS]
    assert bounds == [1_000, 20_000, 200_000, None]
    for number, expected in ((1, 0), (999, 0), (1_000, 1), (20_000, 2), (10**7, 3)):
        assert choose_preset(number) is PRESETS[expected]
    encoder = {"class_path": "clipkit.models.from_open_clip", "init_args": {"name": "ViT-B-32"}}
    groups = {"image_tower": 14, "text_tower": 3}
    start = BaseModelInfo(encoder, 512, 224, "bicubic", groups)
    config, reasons = finetune_config(FinetuneData("pairs", None, 5_000), start, "run", ["{}"])
    assert "label" not in config["model"]["loss"]
    assert config["data"]["batch_size"] == 256
    assert any("1,000 to 20,000" in reason for reason in reasons)
    assert config["data"]["samples"]["transform"]["init_args"]["scale"] == [0.6, 1.0]
    options = [e["init_args"] for e in config["trainer"]["callbacks"] if "init_args" in e]
    locks = {args["tower"]: args["unlocked_groups"] for args in options if "tower" in args}
    assert locks == {"image_tower": 4, "text_tower": 3}  # no more than a tower has


def test_captions_and_classes_are_told_apart(tmp_path):
    write_shards(tmp_path / "shards", (9,))
    found = inspect_data(str(tmp_path / "shards"), None)
    assert (found.num_samples, list(found.class_counts)) == (9, [3, 2, 2, 2])
    assert found.has_captions
    (tmp_path / "t.csv").write_text("file,label\na.jpg,0\nb.jpg,1\n")
    (tmp_path / "far.csv").write_text("file,label,caption\na.jpg,1048576,one\n")
    with pytest.raises(DataError, match="class number 1048576: expected less than 1048576"):
        inspect_data(str(tmp_path / "far.csv"), None)
    with pytest.raises(DataError, match="2 of 2 samples have neither a caption nor"):
        inspect_data(str(tmp_path / "t.csv"), None)
