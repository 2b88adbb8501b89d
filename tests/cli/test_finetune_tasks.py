"""From a table of questions or hypotheses to a measured head on a fusion, by commands."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
import yaml

from clipkit.cli.main import main
from clipkit.data import Answers, ShardReader
from clipkit.errors import ConfigError, DataError
from clipkit.models import load_joint_encoder, save_encoder, with_fusion
from clipkit.models.joint.fusion import MergedFusion
from clipkit.training.datamodule.options import PairOptions
from clipkit.training.datamodule.sources import open_data
from clipkit.training.finetune import FinetunePlan, TaskOptions, plan_task, task_plan
from clipkit.training.finetune.run import numbered_names
from tests.helpers.evaluation_data import tiny_encoder
from tests.helpers.questions import joint_encoder, write_labelled, write_questions

PEOPLE = [["red", "red", "blue"], ["two"], ["Red"], ["blue"], ["two"], ["no"], ["red"], ["two"]]
LABELS = ["yes", "no", "maybe", "yes", "yes", "no", "yes", "yes", "yes"]


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    root = tmp_path_factory.mktemp("tables")
    write_questions(root / "questions", PEOPLE)
    write_labelled(root / "labelled", LABELS)
    save_encoder(tiny_encoder(), root / "dual")
    save_encoder(joint_encoder(), root / "joint")
    return root


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(task_plan, "_STEPS", 3)
    monkeypatch.setattr(task_plan, "_LEAST_EPOCHS", 3)


def run(*words):
    assert main([str(word) for word in words]) == 0


def test_questions_from_a_dual_encoder(tables, tmp_path, capsys, caplog):
    table = tables / "questions" / "questions.csv"
    out = tmp_path / "run"
    run("finetune", "--task", "vqa", "--train", table, "--val", table, "--model", tables / "dual",
        "--num-answers", 3, "--output", out)  # fmt: skip
    printed = capsys.readouterr().out
    assert "# 7 samples, 3 answers\n# answers: 0 red, 1 two, 2 blue\n" in printed
    assert "the model has no fusion: a new one of width 64" in printed
    command = f"clipkit evaluate --model {out}/best.ckpt --data {table} --task question-answering"
    assert command in printed
    head = load_joint_encoder(out / "best.ckpt").heads["fused"]
    assert head.class_names == ("red", "two", "blue")
    assert (out / "answers.txt").read_text() == "red\ntwo\nblue\n"
    run(*command.split()[1:], "--output", tmp_path / "numbers.json", "--report", tmp_path / "page")
    record = json.loads((tmp_path / "numbers.json").read_text())
    assert record["primary_metrics"] == {"question-answering": "vqa_accuracy"}
    assert record["class_names"]["model"] == ["red", "two", "blue"]
    assert record["details"] == {"known_answers": 0.875}
    assert "changed since it was packed" not in caplog.text
    assert "ece" in record["intervals"]  # the others may be equal in all images


def test_few_questions_are_selected_by_their_answers(tables, tmp_path):
    table = tables / "questions" / "questions.csv"
    options = TaskOptions(per_class=2, seed=1)
    plan = plan_task("vqa", table, tmp_path, model=str(tables / "joint"), options=options)
    assert (plan.data.num_samples, plan.data.class_counts) == (6, [2, 2, 1, 1])
    assert plan.config["data"]["samples"]["per_class"] == 2
    answers = Answers(list(plan.data.class_names))
    chosen = {}
    for number in (1, 2):
        given = PairOptions(fields=[answers], per_class=number)
        index = open_data(str(table), samples=given, seed=1)
        reader = ShardReader(index)
        members = [reader.read(row).members for row in range(len(index))]
        chosen[number] = {one["txt"]: answers.label_of(one) for one in members}
    assert Counter(chosen[2].values()) == {0: 2, 1: 2, 2: 1, 3: 1}
    assert Counter(chosen[1].values()) == {0: 1, 1: 1, 2: 1, 3: 1}
    assert chosen[1].items() <= chosen[2].items()


def test_entailment_from_a_joint_encoder(tables, tmp_path, capsys):
    table = tables / "labelled" / "labelled.csv"
    out = tmp_path / "run"
    run("finetune", "--task", "entailment", "--train", table, "--model", tables / "joint",
        "--per-class", 2, "--seed", 3, "--output", out)  # fmt: skip
    printed = capsys.readouterr().out
    assert "# 5 samples, 3 classes\n# classes: 0 maybe, 1 no, 2 yes\n" in printed
    assert "the fusion of the model is trained further" in printed
    config = yaml.safe_load((out / "finetune.yaml").read_text())
    assert (config["seed_everything"], config["data"]["seed"]) == (3, 3)
    before, after = (load_joint_encoder(p) for p in (tables / "joint", out / "last.ckpt"))
    assert torch.equal(
        before.image_tower.visual.conv1.weight, after.image_tower.visual.conv1.weight
    )
    assert not torch.equal(before.fusion.summary, after.fusion.summary)
    assert after.heads["fused"].class_names == ("maybe", "no", "yes")
    run("evaluate", "--model", out / "last.ckpt", "--data", table, "--task", "joint-classification",
        "--output", tmp_path / "numbers.json")  # fmt: skip
    metrics = json.loads((tmp_path / "numbers.json").read_text())["metrics"]
    assert metrics.keys() >= {"top1", "mean_per_class_recall", "macro_f1"}


def test_rare_classes_have_larger_weights_and_many_labels_train_towers(
    tables, tmp_path, monkeypatch
):
    table = tables / "labelled" / "labelled.csv"
    plan = plan_task("classification", table, tmp_path, model=str(tables / "dual"))
    term = plan.config["model"]["loss"]["terms"]["answers"]["loss"]
    weights = term["init_args"]["class_weights"]
    assert weights[2] < weights[1] < weights[0]
    locked = [c for c in plan.config["trainer"]["callbacks"] if "LockTower" in c["class_path"]]
    assert [c["init_args"]["unlocked_groups"] for c in locked] == [0, 0]
    monkeypatch.setattr(task_plan, "_FEW", 5)
    plan = plan_task("classification", table, tmp_path, model=str(tables / "dual"))
    factors = plan.config["model"]["groups"]["factors"]
    assert factors["image_tower"] == factors["text_tower"] == 0.1


def test_data_that_are_no_task_are_refused(tables, tmp_path):
    labelled, one = tables / "labelled" / "labelled.csv", tmp_path / "one.csv"
    options = {"output": tmp_path / "run", "model": str(tables / "dual"), "allow_outside": True}
    cases = (
        ("vqa", labelled, "expected at least two different answers, got none; add a column answer"),
        ("vqa", tmp_path / "absent.csv", "no such file or folder"),
        ("entailment", tables / "questions" / "questions.csv", "two classes .* got no classes"),
    )
    for task, table, message in cases:
        with pytest.raises(DataError, match=message):
            plan_task(task, table, **options)
    picture = tables / "labelled" / "0.png"
    for text, task, message in (
        (f"image,question,answer\n{picture},what?,red\n", "vqa", r"got one \('red'\)"),
        (f"image,question,answer\n{picture},,red\n{picture},a,b\n", "vqa", "have no question"),
        (
            f'image,question,answer\n{picture},a,b\n{picture},a,"[true]"\n',
            "vqa",
            r"one\.csv: sample 2: json:answer: expected an answer",
        ),
        (f"image,hypothesis,label\n{picture},a,yes\n", "entailment", "got 1 classes"),
        (f"image,label\n{picture},yes\n", "classification", "two classes"),
        (f"image,caption,labels\n{picture},a,yes;no\n", "classification", "got lists of classes"),
    ):
        one.write_text(text)
        with pytest.raises(DataError, match=message):
            plan_task(task, one, **options)


def test_names_of_classes_stay_in_the_comments(tmp_path):
    names = ["a\nseed_everything: 1\x1b[2J", "b" * 5000]
    plan = FinetunePlan({}, [numbered_names(names)], None, tmp_path)
    assert all(line.startswith("# ") for line in plan.head.splitlines())
    assert "\x1b" not in plan.head
    assert len(plan.head) < 400


def test_options_that_do_not_fit_are_refused(tables, tmp_path, capsys):
    table = tables / "questions" / "questions.csv"
    with pytest.raises(ConfigError, match="per_class: expected the task vqa, entailment"):
        plan_task("dialogue", table, tmp_path, options=TaskOptions(per_class=3))
    with pytest.raises(ConfigError, match=r"task: expected .*, got 'vqq'"):
        plan_task("vqq", table, tmp_path)
    with pytest.raises(ConfigError, match="num_answers: expected at least 2, got 1"):
        TaskOptions(num_answers=1)
    for words, message in (
        (["--per-class", "3"], "--per-class: expected --task with it"),
        (["--task", "vqa", "--template", "a {}"], "--template: expected no --task with it"),
    ):
        assert main(["finetune", "--train", str(table), "--output", str(tmp_path), *words]) == 2
        assert message in capsys.readouterr().err


def test_a_fusion_of_images_and_texts_is_kept_and_its_head_replaced(tables, tmp_path):
    joint = with_fusion(tiny_encoder(), MergedFusion(32, 1, 2))
    save_encoder(joint, tmp_path / "merged")
    table = tables / "questions" / "questions.csv"
    plan = plan_task("vqa", table, tmp_path / "run", model=str(tmp_path / "merged"))
    encoder = plan.config["model"]["encoder"]["init_args"]
    assert encoder["encoder"]["class_path"] == "clipkit.models.from_joint_checkpoint"
    assert encoder["head"]["init_args"] == {"embedding_dim": 32, "num_classes": 4}
