"""``clipkit export`` to the other libraries, with the model card's own code."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from clipkit.cli.main import main
from clipkit.data import EvalTransform, OpenClipTokenizer
from clipkit.export import read_run
from clipkit.models import load_encoder
from tests.helpers import tiny
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.factories import image_bytes
from tests.helpers.tiny_models import TIMM_VIT, encoder

FILES = {
    "open_clip": {"open_clip_config.json", "open_clip_model.safetensors"},
    "transformers": {"config.json", "model.safetensors", "preprocessor_config.json",
                     "tokenizer.json", "tokenizer_config.json"},
    "sentence_transformers": {"config.json", "model.safetensors", "modules.json", "1_Normalize",
                              "sentence_bert_config.json", "tokenizer.json"},
    "onnx": {"image.onnx", "text.onnx", "preprocessing.json", "tokenizer.json"},
    "safetensors": {"model.safetensors", "clipkit_encoder.json"},
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of four steps."""
    folder = tmp_path_factory.mktemp("run")
    tiny.shards(folder / "data")
    words = [w for w in tiny.words(folder / "data", folder) if "enable_checkpointing" not in w]
    callback = "--trainer.callbacks=clipkit.training.callbacks.SaveCheckpoint"
    assert main(["fit", *words, callback]) == 0
    (folder / "metrics.csv").write_text(
        "step,val/text_to_image/recall_at_1,train/loss\n1,0.25,2\n3,0.5,1\n3,,1\n9,0.75,1\n"
    )
    (folder / "metrics.json").write_text('{"unseen": {"top1": 0.125, "rank_me": 3.0}}')
    return folder


@pytest.fixture(scope="module", params=FILES)
def exported(request, run, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "model"
    assert main(["export", "--model", str(run / "last.ckpt"), "--format", request.param,
                 "--output", str(folder)]) == 0  # fmt: skip
    return request.param, folder


def test_files(exported):
    name, folder = exported
    assert {file.name for file in folder.iterdir()} >= {*FILES[name], "README.md"}
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


@torch.no_grad()
def test_the_code_of_the_card_gives_the_similarities_of_the_encoder(
    exported, run, monkeypatch, capsys
):
    name, folder = exported
    if name == "sentence_transformers":
        pytest.importorskip("sentence_transformers", "6.0")
    encoder = load_encoder(run / "last.ckpt")
    picture = image_bytes("blue", (16, 16))
    prepared = EvalTransform(16)(picture, np.random.default_rng())
    tokens = OpenClipTokenizer(context_length=16)(["a dog", "a cat"])
    expected = encoder.encode_image(prepared[None]) @ encoder.encode_text(tokens).T
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    (folder / "dog.jpg").write_bytes(picture)
    monkeypatch.chdir(folder)
    try:
        exec(compile(code, "README.md", "exec"), {})
    finally:
        (folder / "dog.jpg").unlink()
    printed = [float(x) for x in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", capsys.readouterr().out)]
    np.testing.assert_allclose(printed[:2], expected[0].numpy(), atol=1e-3)


def test_card_says_what_the_run_knows(exported):
    name, folder = exported
    text = (folder / "README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    libraries = {"safetensors": "clipkit", "sentence_transformers": "sentence-transformers"}
    assert head["library_name"] == libraries.get(name, name)
    assert head["pipeline_tag"] == "zero-shot-image-classification"
    assert "license" not in head
    rows = dict(re.findall(r"^\| (.+?) \| (.*) \|$", text, re.MULTILINE))
    assert rows["Steps"] == "4"
    assert rows["Samples seen"] == "16"
    assert rows["Pairs"] == "23"
    assert rows["Loss"] == "1 x ContrastiveLoss"
    assert rows["Optimizer"] == "AdamW, lr 0.001, weight_decay 0.01"
    assert rows["Data"].endswith("data/train/*.tar`")
    assert rows["`val/text_to_image/recall_at_1`"] == "50.0 %"  # not that of step 9
    assert rows["`unseen/top1`"] == "12.5 %"
    assert "rank_me" not in text
    assert "train/loss" not in text


def test_the_hub_finds_the_results_in_the_card(exported):
    results = {
        (result.task_type, result.dataset_name, result.metric_name): result.metric_value
        for result in ModelCard.load(exported[1] / "README.md").data.eval_results
    }
    assert results == {
        ("image-text-retrieval", "val", "text_to_image/recall_at_1"): 0.5,
        ("image-classification", "unseen", "top1"): 0.125,
    }


def test_licence_only_where_given(run, tmp_path):
    words = ["export", "--model", str(run / "last.ckpt"), "--format", "safetensors"]
    assert main([*words, "--output", str(tmp_path / "out"), "--license", "cc-by-4.0"]) == 0
    head = yaml.safe_load((tmp_path / "out/README.md").read_text().split("---\n")[1])
    assert head["license"] == "cc-by-4.0"


def test_figures_of_the_end_are_not_those_of_an_earlier_checkpoint(run, tmp_path):
    for name in ("metrics.csv", "metrics.json"):
        (tmp_path / name).write_text((run / name).read_text())
    stored = torch.load(run / "last.ckpt", weights_only=True)
    torch.save({**stored, "global_step": 2}, tmp_path / "best.ckpt")
    assert read_run(tmp_path / "best.ckpt").metrics == {"val/text_to_image/recall_at_1": 0.25}


def test_a_folder_knows_no_run(run, tmp_path):
    words = ["export", "--format", "safetensors", "--model"]
    assert main([*words, str(run / "last.ckpt"), "--output", str(tmp_path / "a")]) == 0
    assert main([*words, str(tmp_path / "a"), "--output", str(tmp_path / "b")]) == 0
    card = (tmp_path / "b/README.md").read_text()
    assert "## Architecture" in card
    assert "## Training" not in card


def test_towers_without_a_place_in_the_format(tmp_path, capsys):
    path = write_checkpoint(tmp_path / "last.ckpt", encoder(TIMM_VIT))
    words = ["export", "--model", str(path), "--output", str(tmp_path / "out")]
    assert main([*words, "--format", "transformers"]) == 2
    assert "image_tower: transformers' CLIPModel has no" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_vocabulary_that_the_tower_lacks(tmp_path, capsys):
    path = write_checkpoint(tmp_path / "last.ckpt", encoder())
    words = ["export", "--model", str(path), "--output", str(tmp_path / "out")]
    assert main([*words, "--format", "transformers"]) == 2
    assert "has 49408 ids, but the text tower has only 100" in capsys.readouterr().err
