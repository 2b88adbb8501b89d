"""From a table of dialogue turns to ranked answers, by commands."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml

from clipkit.cli.main import main
from clipkit.errors import ConfigError, DataError
from clipkit.models import load_joint_encoder, save_encoder
from clipkit.training.finetune import TaskOptions, plan_task, task_plan
from tests.helpers import tiny, turns

RECIPE = Path(__file__).parents[2] / "configs" / "experiment" / "task_dialogue.yaml"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A table, with two turns about each image, and models with and without a fusion."""
    folder = tmp_path_factory.mktemp("dialogue")
    names = ["image", "history", "question", "candidates", "correct", "relevance"]
    with (folder / "turns.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for number in range(16):
            members = turns.members(number)
            (folder / f"{number // 2}.jpg").write_bytes(members["jpg"])
            turn = json.loads(members["json"])
            lists = {n: json.dumps(turn[n]) for n in names if isinstance(turn.get(n), list)}
            writer.writerow({"image": f"{number // 2}.jpg", **turn, **lists})
    save_encoder(tiny.encoder(), folder / "dual")
    save_encoder(turns.encoder(), folder / "joint")
    return folder


def run(*words):
    assert main([str(word) for word in words]) == 0


def test_the_recipe_runs_from_a_table_to_a_report(data, tmp_path):
    table, out = data / "turns.csv", tmp_path / "run"
    run(
        "fit", "-c", RECIPE, f"--data.train={table}", f"--data.val={table}",
        "--model.encoder.encoder=clipkit.models.from_checkpoint",
        f"--model.encoder.encoder.path={data / 'dual'}",
        '--model.encoder.fusion.init_args={"width": 16, "depth": 1, "num_heads": 2}',
        "--data.samples.transform.size=16", "--data.batch_size=8", "--data.num_workers=0",
        "--model.schedule.warmup=1", "--trainer.accelerator=cpu", "--trainer.max_steps=4",
        "--trainer.log_every_n_steps=1", f"--trainer.default_root_dir={out}",
    )  # fmt: skip
    logged = (out / "metrics.csv").read_text().splitlines()
    assert any("turns" in name for name in logged[0].split(","))
    run("evaluate", "--model", out / "last.ckpt", "--data", table, "--task", "dialogue",
        "--output", tmp_path / "numbers.json", "--report", tmp_path / "page")  # fmt: skip
    record = json.loads((tmp_path / "numbers.json").read_text())
    assert record["primary_metrics"] == {"dialogue": "mrr"}
    names = {"mrr", "mean_rank", "ndcg", "recall_at_1", "recall_at_5", "recall_at_10"}
    assert record["metrics"].keys() == names
    assert record["intervals"].keys() >= {"mrr", "recall_at_1"}
    page = (tmp_path / "page" / "report.html").read_text()
    assert "turns have the right answer first" in page
    assert "is it number 3 ? yes . which colour is it ?" in page


def test_finetune_plans_and_trains_the_fusion(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(task_plan, "_STEPS", 3)
    monkeypatch.setattr(task_plan, "_LEAST_EPOCHS", 2)
    table, out = data / "turns.csv", tmp_path / "run"
    run("finetune", "--task", "dialogue", "--train", table, "--model", data / "joint",
        "--output", out)  # fmt: skip
    printed = capsys.readouterr().out
    assert "# 16 turns of dialogues\n" in printed
    assert "8 candidates per turn" in printed
    assert f"clipkit evaluate --model {out}/last.ckpt --data DATA --task dialogue" in printed
    config = yaml.safe_load((out / "finetune.yaml").read_text())
    assert config["model"]["encoder"]["class_path"] == "clipkit.models.from_joint_checkpoint"
    assert config["data"]["samples"]["fields"][0]["init_args"] == {"number": 8}
    before, after = (load_joint_encoder(p) for p in (data / "joint", out / "last.ckpt"))
    assert not torch.equal(before.matching.weight, after.matching.weight)
    new = plan_task("dialogue", table, tmp_path / "new", model=str(data / "dual"))
    assert new.config["model"]["encoder"]["class_path"] == "clipkit.models.with_fusion"
    assert "label_heads" not in new.config["model"]["groups"]["factors"]


def test_data_that_are_no_turns_are_refused(data, tmp_path):
    options = {"model": str(data / "dual"), "allow_outside": True}
    table, image = tmp_path / "table.csv", data / "0.jpg"
    header = "image,question,candidates,correct\n"
    for text, message in (
        (f"image,caption\n{image},a dog\n", "got 0 samples with candidates"),
        (f'{header}{image},,"[""a"", ""b""]",0\n', "1 without a question, of 1"),
        (f'{header}{image},q,"[""a"", ""b""]",2\n', "sample 1: json:correct: expected"),
        (f"{header}{image},q,a;b,0\n", "sample 1: json:candidates: expected a JSON list"),
    ):
        table.write_text(text)
        with pytest.raises(DataError, match=message):
            plan_task("dialogue", table, tmp_path / "run", **options)
    few = TaskOptions(per_class=2)
    with pytest.raises(ConfigError, match="got dialogue"):
        plan_task("dialogue", data / "turns.csv", tmp_path / "run", options=few, **options)
