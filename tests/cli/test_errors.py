"""What cannot work ends with one clear line, before the first step, through the real command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from clipkit.cli.main import main
from tests.helpers import tiny
from tests.helpers.factories import pair, write_shard


@pytest.fixture
def refused(shards, tmp_path, capsys):
    """Runs ``fit``, which must be refused; returns the line."""

    def run(*words: str) -> str:
        assert main(["fit", *tiny.words(shards, tmp_path / "run", *words)]) == 2
        captured = capsys.readouterr()
        lines = [line for line in captured.err.splitlines() if line.startswith("clipkit: error: ")]
        assert len(lines) == 1, captured.err
        assert "Traceback" not in captured.err
        assert not (tmp_path / "run" / "last.ckpt").exists()
        return lines[0].removeprefix("clipkit: error: ")

    return run


@pytest.fixture(scope="module")
def checkpoint(shards, tmp_path_factory) -> Path:
    """The last checkpoint of a run, which no test changes."""
    run = tmp_path_factory.mktemp("whole")
    saver = '{"class_path":"clipkit.training.callbacks.SaveCheckpoint"}'
    saving = ["--trainer.enable_checkpointing=true", f"--trainer.callbacks+={saver}"]
    assert main(["fit", *tiny.words(shards, run, *saving)]) == 0
    return run / "last.ckpt"


def test_no_shards_match(refused):
    line = refused("--data.train=/nowhere/{00..03}.tar")
    assert "/nowhere/" in line
    assert "no shards match" in line or "no such" in line.lower()


def test_no_training_data(refused):
    assert "data.train: expected data to train on" in refused("--data.train=null")


def test_shards_and_a_mixture(refused, shards):
    source = {"name": "squares", "urls": f"{shards}/train/*.tar", "weight": 1}
    line = refused(f"--data.mixture.sources={json.dumps([source])}")
    assert "either train or mixture" in line


def test_empty_shard(refused, tmp_path):
    write_shard(tmp_path / "empty.tar", [])
    line = refused(f"--data.train={tmp_path}/empty.tar")
    assert "empty.tar" in line


@pytest.mark.parametrize(("member", "what"), [("jpg", "image"), ("txt", "txt")])
def test_samples_without_image_or_caption(refused, tmp_path, member, what):
    samples = [(f"{i:03d}", {k: v for k, v in pair(i).items() if k != member}) for i in range(8)]
    write_shard(tmp_path / "part.tar", samples)
    line = refused(f"--data.train={tmp_path}/part.tar")
    assert "part.tar" in line
    assert what in line


def test_unknown_model_names_close_ones(refused):
    assert "ViT-B-32" in refused("--model.encoder.name=ViT-B-23")


def test_batch_larger_than_the_data(refused):
    line = refused("--data.batch_size=24")
    assert "batch_size" in line
    assert "23" in line


def test_batch_of_nothing(refused):
    assert "batch_size: expected at least 1, got 0" in refused("--data.batch_size=0")


def test_fewer_samples_than_all_ranks_take(refused, monkeypatch):
    """As one of 8 ranks: 8 times 4 pairs a step, of 23."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "8")
    line = refused()
    assert "8 ranks of 4" in line
    assert "23" in line


def test_warmup_longer_than_the_run(refused):
    line = refused("--model.schedule.warmup=9")
    assert "warmup of 9 steps" in line
    assert "4 steps" in line


def test_nothing_ends_the_run(refused):
    line = refused("--trainer.max_steps=-1", "--trainer.max_epochs=-1")
    assert "max_time" in line


def test_checkpoint_of_another_architecture(refused, checkpoint):
    other = {**tiny.CONFIG, "vision_cfg": {**tiny.CONFIG["vision_cfg"], "layers": 2}}
    name = f"--model.encoder.name={json.dumps(other)}"
    line = refused(f"--ckpt_path={checkpoint}", name, "--trainer.max_steps=8")
    assert "another architecture" in line
    assert "resblocks.1" in line


def test_checkpoint_that_is_none(refused, tmp_path):
    torch.save({"weights": torch.zeros(2)}, tmp_path / "some.pt")
    assert "checkpoint" in refused(f"--ckpt_path={tmp_path}/some.pt")


def test_checkpoint_that_is_missing(refused, tmp_path):
    line = refused(f"--ckpt_path={tmp_path}/none.ckpt")
    assert f"{tmp_path}/none.ckpt" in line


def test_checkpoint_that_was_cut(refused, checkpoint, tmp_path):
    data = checkpoint.read_bytes()
    (tmp_path / "half.ckpt").write_bytes(data[: len(data) // 2])
    assert "half.ckpt" in refused(f"--ckpt_path={tmp_path}/half.ckpt")


def test_checkpoint_of_other_data(refused, shards, checkpoint, tmp_path):
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    shutil.copy(shards / "train" / "00001.tar", fewer)
    line = refused(
        f"--ckpt_path={checkpoint}",
        f"--data.train={fewer}/*.tar",
        "--trainer.max_steps=8",
    )
    assert "23 samples" in line
    assert "14 samples" in line


def test_tokenizer_of_a_longer_context(refused):
    words = ["--data.tokenizer=clipkit.data.OpenClipTokenizer"]
    line = refused(*words, "--data.tokenizer.context_length=77")
    assert "77" in line
    assert "16" in line


def test_tokenizer_with_more_tokens_than_the_tower(refused):
    small = {**tiny.CONFIG, "text_cfg": {**tiny.CONFIG["text_cfg"], "vocab_size": 100}}
    line = refused(f"--model.encoder.name={json.dumps(small)}")
    assert "49408" in line
    assert "100" in line


def test_transform_of_another_size(refused):
    words = ["--data.samples.transform=clipkit.data.TrainTransform"]
    line = refused(*words, "--data.samples.transform.size=32")
    assert "32 pixels" in line
    assert "expects 16" in line


def test_sigmoid_loss_without_a_bias(refused):
    line = refused("--model.loss.contrastive=clipkit.losses.SigmoidLoss")
    assert "logit_bias -10" in line


def test_softmax_loss_with_a_bias(refused):
    config = json.dumps({**tiny.CONFIG, "init_logit_bias": -10})
    assert "logit_bias" in refused(f"--model.encoder.name={config}")


def test_label_loss_without_a_head(refused):
    line = refused("--model.loss.label=clipkit.losses.LabelLoss", "--model.loss.label_weight=1")
    assert "label_head" in line


def test_monitor_of_an_unknown_metric(refused, shards):
    callback = {
        "class_path": "clipkit.training.callbacks.SaveCheckpoint",
        "init_args": {"monitor": "val/los"},
    }
    line = refused(
        f"--data.val={shards}/val/*.tar",
        "--trainer.enable_checkpointing=true",
        "--trainer.num_sanity_val_steps=1",
        f"--trainer.callbacks+={json.dumps(callback)}",
        "--trainer.val_check_interval=2",
    )
    assert "val/los" in line
    assert "val/loss" in line


def refused_file(tmp_path: Path, refused, content: object) -> str:
    path = tmp_path / "mistake.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return refused("-c", str(path))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"modle": {"schedule": None}}, "did you mean 'model"),
        ({"data": {"batch_sise": 4}}, "did you mean 'data.batch_size'"),
        ({"trainer": {"max_epohcs": 4}}, "did you mean 'trainer.max_epochs'"),
        ({"data": {"batch_size": "four"}}, "data.batch_size: expected int, got four"),
        ("model: {loss: [", "mistake.yaml: line 1: not YAML"),
        ("- model\n- data\n", "mistake.yaml: expected a mapping with sections"),
        ("model", "mistake.yaml: expected a mapping with sections"),
        (
            "data:\n  seed: 1\n  seed: 2",
            "mistake.yaml: line 3: not YAML: the key 'seed' occurs twice",
        ),
        ("data: [1]", "data: expected options by name, got [1]"),
        ("trainer: null", "trainer: expected options by name, got None"),
        ("seed_everything: -5", "seed_everything: expected 0 to 4294967295, got -5"),
        ("trainer: {default_root_dir: ''}", "trainer.default_root_dir: expected a folder, got an"),
        ("ckpt_path: ''", "ckpt_path: expected a checkpoint, last or best, got an empty text"),
        ("# nothing", "mistake.yaml: expected a mapping with sections"),
        ("1: 2", "mistake.yaml: expected names of sections, got the key 1"),
        ("data: !!int x", "mistake.yaml: not YAML"),
        ("a\0b: 1", "mistake.yaml: not YAML: "),
        ("[" * 1000, "mistake.yaml: nested too deeply"),
        (
            "model: &m {loss: *m}",
            "mistake.yaml: an alias (*name) is inside the value that it names",
        ),
        (
            {"model": {"loss": {"contrastive": {"class_path": "clipkit.losses.ContrastiveLos"}}}},
            "did you mean 'ContrastiveLoss'",
        ),
        (
            {
                "model": {
                    "schedule": {
                        "class_path": "clipkit.optim.WarmupCosine",
                        "init_args": {"warmup_step": 2},
                    }
                }
            },
            "clipkit.optim.WarmupCosine has no option 'warmup_step'; did you mean 'warmup'",
        ),
        (
            {
                "trainer": {
                    "callbacks": [
                        {
                            "class_path": "clipkit.training.callbacks.ZeroShotEvaluation",
                            "init_args": {
                                "evaluators": {
                                    "photos": {
                                        "class_path": "clipkit.evaluation.Retrieval",
                                        "init_args": {"data": "photos", "limit": 3},
                                    }
                                }
                            },
                        }
                    ]
                }
            },
            "Retrieval has no option 'limit'; did you mean 'options.limit'?",
        ),
    ],
    ids=[
        "section",
        "option",
        "trainer",
        "type",
        "syntax",
        "list",
        "text",
        "twice",
        "section of a list",
        "section of null",
        "seed",
        "empty folder",
        "empty checkpoint",
        "nothing",
        "number",
        "tag",
        "NUL",
        "deep",
        "alias",
        "class",
        "class option",
        "nested option",
    ],
)
def test_mistakes_in_yaml(refused, tmp_path, content, expected):
    assert expected in refused_file(tmp_path, refused, content)


def test_missing_file(refused):
    assert "/nowhere/x.yaml" in refused("-c", "/nowhere/x.yaml")


def test_files_that_are_no_yaml(refused, tmp_path):
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    (tmp_path / "some.ckpt").write_bytes(bytes(range(256)))
    for name in ("loop.yaml", "some.ckpt", "", "x" * 300, "a\0b"):
        assert "expected" in refused("-c", f"{tmp_path}/{name}")


def test_validate_without_validation_data(shards, tmp_path, capsys):
    assert main(["validate", *tiny.words(shards, tmp_path)[:-6]]) == 2
    assert "data.val: validate needs" in capsys.readouterr().err
