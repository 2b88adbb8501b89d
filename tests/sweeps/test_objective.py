"""Every part of the objective by configuration: ``clipkit fit``, its logs, and its resuming."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback

from clipkit.cli.main import main
from clipkit.models import from_open_clip
from clipkit.models.checkpoints.encoder import load_encoder, save_encoder
from tests.helpers import tiny
from tests.helpers.factories import COLORS, image_bytes, pair, write_shard

NUM_TRAIN, NUM_VAL = 22, 8
LOSSES, FIELDS = "clipkit.losses", "clipkit.data"


def part(class_path: str, **options: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": options}


def npy(seed: int) -> bytes:
    out = io.BytesIO()
    np.save(out, np.random.default_rng(seed).normal(size=7).astype(np.float16))
    return out.getvalue()


def sample(index: int) -> dict[str, bytes]:
    """A pair with everything that an objective may want to know; some lack a caption or label."""
    facts = {"photo": index // 2, "has": [index % 4], "wrong": [f"not {c}" for c in COLORS]}
    members = pair(index, label=index % 3 > 0)
    members |= {"json": json.dumps(facts).encode(), "t_image.npy": npy(index)}
    members |= {"t_text.npy": npy(1000 + index)}
    if index % 5 == 0:
        members["wrong.jpg"] = image_bytes("blue", seed=index)
    if index % 7 == 6:
        del members["txt"]
    return members


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    for name, first, number in (("train", 0, NUM_TRAIN), ("val", 100, NUM_VAL)):
        samples = [(f"{first + i:06d}", sample(first + i)) for i in range(number)]
        write_shard(folder / name / "00000.tar", samples)
    return folder


def configuration(
    loss: dict[str, Any],
    head: dict[str, Any] | None = None,
    fields: list[dict[str, Any]] | None = None,
    **model: Any,
) -> dict[str, Any]:
    encoder = part("clipkit.models.from_open_clip", name=tiny.CONFIG)
    if head is not None:
        encoder["init_args"]["label_head"] = head
    return {
        "seed_everything": 0,
        "model": {
            "encoder": encoder,
            "loss": loss,
            "optimizer": part("torch.optim.AdamW", lr=3e-3),
            "schedule": part("clipkit.optim.WarmupCosine", warmup=1),
            **model,
        },
        "data": {
            "batch_size": 8,
            "samples": {"fields": fields or [], "caption": part("clipkit.data.OptionalCaption")},
            "validation": {"caption": part("clipkit.data.OptionalCaption")},
        },
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_steps": 4,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "logger": [part("clipkit.training.MetricsCsv", save_dir="auto")],
            "callbacks": [part("clipkit.training.callbacks.SaveCheckpoint", every_n_steps=2)],
        },
    }


def fit(config: dict[str, Any], shards: Path, run: Path, *words: str, val: bool = False) -> None:
    run.mkdir(parents=True, exist_ok=True)
    (run / "given.yaml").write_text(yaml.safe_dump(config))
    data = [f"--data.train={shards}/train/*.tar"]
    data += [f"--data.val={shards}/val/*.tar"] if val else []
    options = [f"--trainer.default_root_dir={run}", *words]
    assert main(["fit", "-c", str(run / "given.yaml"), *data, *options]) == 0


def column(run: Path, name: str) -> list[float]:
    with (run / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_encoder(run / "last.ckpt").state_dict()


def assert_same_weights(one: Path, other: Path, atol: float = 0.0) -> None:
    torch.testing.assert_close(weights(one), weights(other), rtol=0, atol=atol)


LINEAR_HEAD = part("clipkit.models.LinearLabelHead", embedding_dim=16, num_classes=4)
PROTOTYPES = part(
    "clipkit.models.PrototypeLabelHead",
    embedding_dim=16,
    class_names=list(COLORS),
    templates=["{c}", "a {c} square"],
)
LABELLED = {
    "contrastive": part(f"{LOSSES}.ContrastiveLoss"),
    "label": part(f"{LOSSES}.LabelLoss", label_smoothing=0.1, class_weights=[1.0, 2.0, 0.5, 1.0]),
    "contrastive_weight": part(f"{LOSSES}.CosineSchedule", start=1.0, end=0.5, length=6),
    "label_weight": part(f"{LOSSES}.LinearSchedule", start=0.0, end=0.6, length=6),
}


def test_each_term_is_logged_raw_weighted_and_with_its_samples(shards, tmp_path):
    config = configuration(LABELLED, LINEAR_HEAD, [part(f"{FIELDS}.CaptionMask")])
    fit(config, shards, tmp_path, val=True)
    expected = [0.1 * step for step in range(4)]
    raw, weighted = (column(tmp_path, f"train/label{kind}") for kind in ("", "_weighted"))
    assert [w / r for w, r in zip(weighted, raw, strict=True)] == pytest.approx(expected)
    counts = column(tmp_path, "train/label_num_samples")
    assert len(counts) == 4
    assert all(0 < number < 8 for number in counts)  # a third has no label
    assert min(column(tmp_path, "train/contrastive_num_samples")) < 8  # some have no caption
    total = [
        one + two
        for one, two in zip(column(tmp_path, "train/contrastive_weighted"), weighted, strict=True)
    ]
    assert column(tmp_path, "train/loss") == pytest.approx(total, rel=1e-5)
    assert column(tmp_path, "val/contrastive_num_samples")
    assert column(tmp_path, "val/label_weighted")


def test_the_whole_objective_at_once_resumes_exactly(shards, tmp_path):
    """Schedules, groups, negatives, stored teacher, prototypes and learned weights."""
    loss = {
        **LABELLED,
        "terms": {
            "distillation": {
                "loss": part(
                    f"{LOSSES}.DistillationLoss",
                    teacher=part(f"{LOSSES}.StoredTeacher", logit_scale=20.0),
                ),
                "weight": part(f"{LOSSES}.StepSchedule", values=[0.2, 0.7], boundaries=[0.5]),
            }
        },
        "uncertainty": True,
    }
    head = {**PROTOTYPES, "init_args": {**PROTOTYPES["init_args"], "refresh_every": 3}}
    fields = [
        part(f"{FIELDS}.Group", field="json:photo"),
        part(f"{FIELDS}.CaptionMask"),
        part(
            f"{FIELDS}.NegativeCaptions", captions=part(f"{FIELDS}.JsonFields", fields={"wrong": 1})
        ),
        part(f"{FIELDS}.NegativeImages", members=["wrong.jpg"]),
        part(f"{FIELDS}.TeacherEmbeddings", image="t_image.npy", text="t_text.npy"),
    ]
    config = configuration(loss, head, fields, micro_batch_size=3)
    fit(config, shards, tmp_path / "whole", "--trainer.max_steps=6")
    run = tmp_path / "resumed"
    stop = part("tests.sweeps.test_objective.StopAt", step=3)
    stopped = json.loads(json.dumps(config))
    stopped["trainer"]["callbacks"].append(stop)
    fit(stopped, shards, run, "--trainer.max_steps=6")
    assert len(column(run, "train/loss")) == 3
    fit(config, shards, run, "--trainer.max_steps=6", "--ckpt_path=last")
    for name in ("loss", "label_weighted", "distillation_weighted", "contrastive"):
        assert column(run, f"train/{name}") == column(tmp_path / "whole", f"train/{name}")
    assert_same_weights(run, tmp_path / "whole")
    state = torch.load(run / "last.ckpt", weights_only=True)["state_dict"]
    learned = [state[f"loss.log_variances.{name}"] for name in ("contrastive", "label")]
    assert all(float(value.abs()) > 0 for value in learned)
    assert int(state["encoder.label_head.num_steps"]) == 6


class StopAt(Callback):
    """Ends a run early without a change of its schedule's length."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.should_stop = trainer.global_step >= self.step


MORE_OBJECTIVES = {
    "unicl": ({"contrastive": part(f"{LOSSES}.LabelAwareContrastiveLoss")}, None, []),
    "prototypes": (
        {
            "contrastive": part(f"{LOSSES}.ContrastiveLoss"),
            "label": part(f"{LOSSES}.LabelLoss"),
            "label_weight": 0.5,
        },
        PROTOTYPES,
        [],
    ),
    "cosine head": (
        {
            "contrastive": part(f"{LOSSES}.ContrastiveLoss"),
            "label": part(f"{LOSSES}.LabelLoss"),
            "label_weight": 0.5,
        },
        part("clipkit.models.CosineLabelHead", embedding_dim=16, num_classes=4),
        [],
    ),
    "multi-label": (
        {
            "contrastive": part(f"{LOSSES}.ContrastiveLoss"),
            "label": part(f"{LOSSES}.MultiLabelLoss", positive_weights=[1.0, 2.0, 1.0, 1.0]),
            "label_weight": 0.5,
        },
        LINEAR_HEAD,
        [part(f"{FIELDS}.MultiLabels", num_classes=4, positives="json:has")],
    ),
    "global": (
        {
            "contrastive": part(
                f"{LOSSES}.GlobalContrastiveLoss",
                num_samples=NUM_TRAIN,
                gamma=part(f"{LOSSES}.LinearSchedule", start=1.0, end=0.3, length=6),
            )
        },
        None,
        [],
    ),
}


@pytest.mark.parametrize("name", MORE_OBJECTIVES)
def test_objective_learns_and_resumes(name, shards, tmp_path):
    loss, head, fields = MORE_OBJECTIVES[name]
    config = configuration(loss, head, fields)
    fit(config, shards, tmp_path / "whole", "--trainer.max_steps=5")
    stopped = json.loads(json.dumps(config))
    stopped["trainer"]["callbacks"].append(part("tests.sweeps.test_objective.StopAt", step=3))
    run = tmp_path / "run"
    fit(stopped, shards, run, "--trainer.max_steps=5")
    fit(config, shards, run, "--trainer.max_steps=5", "--ckpt_path=last")
    assert column(run, "train/loss") == column(tmp_path / "whole", "train/loss")
    assert len(column(run, "train/loss")) == 5
    assert_same_weights(run, tmp_path / "whole")
    if name == "global":
        state = torch.load(run / "last.ckpt", weights_only=True)["state_dict"]
        averages = state["loss.contrastive._extra_state"]["log_averages"]
        assert int(averages.isfinite().all(0).sum()) > 16  # of two epochs and more


@pytest.mark.parametrize("name", ["contrastive", "sigmoid"])
def test_micro_batches_take_the_same_steps(name, shards, tmp_path):
    loss = {"contrastive": part(f"{LOSSES}.ContrastiveLoss")} | {
        key: LABELLED[key] for key in ("label", "label_weight")
    }
    config = configuration(loss, LINEAR_HEAD)
    if name == "sigmoid":
        loss["contrastive"] = part(f"{LOSSES}.SigmoidLoss")
        towers = {
            f"{side}_tower": part(f"clipkit.models.OpenClip{side.title()}Tower", model=tiny.CONFIG)
            for side in ("image", "text")
        }
        config["model"]["encoder"] = part(
            "clipkit.models.DualEncoder",
            **towers,
            label_head=LINEAR_HEAD,
            logit_scale=10.0,
            logit_bias=-10.0,
        )
    for run, words in (("plain", []), ("micro", ["--model.micro_batch_size=3"])):
        fit(config, shards, tmp_path / run, *words)
    for term in ("loss", "label", "gradient_norm"):
        got, expected = (column(tmp_path / run, f"train/{term}") for run in ("micro", "plain"))
        assert got == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("frozen", [True, False])
def test_the_scale_is_frozen_or_scheduled(frozen, shards, tmp_path):
    config = configuration({"contrastive": part(f"{LOSSES}.ContrastiveLoss")})
    scale = 20.0 if frozen else part(f"{LOSSES}.LinearSchedule", start=10.0, end=40.0, length=6)
    callback = part("clipkit.training.callbacks.SetLogitScale", scale=scale)
    config["trainer"]["callbacks"].append(callback)
    fit(config, shards, tmp_path)
    fit(config, shards, tmp_path, "--trainer.max_steps=6", "--ckpt_path=last")
    expected = [20.0] * 6 if frozen else [10.0, 15.0, 20.0, 25.0, 30.0, 35.0]
    assert column(tmp_path, "train/logit_scale") == pytest.approx(expected, rel=1e-5)


def test_a_teacher_with_its_own_size_and_tokenizer(shards, tmp_path):
    """The teacher is an encoder of an earlier run; it is no part of the checkpoint.

    The configuration is spelled as in 0.1, when the objective had three places.
    """
    torch.manual_seed(3)
    wide = {**tiny.CONFIG, "embed_dim": 24}
    wide["vision_cfg"] = {**tiny.CONFIG["vision_cfg"], "image_size": 24}
    save_encoder(from_open_clip(wide), tmp_path / "teacher")
    loss = {
        "contrastive": part(f"{LOSSES}.ContrastiveLoss"),
        "distillation": part(
            f"{LOSSES}.DistillationLoss",
            teacher=part(
                f"{LOSSES}.EncoderTeacher",
                encoder=part("clipkit.models.load_encoder", path=str(tmp_path / "teacher")),
            ),
        ),
        "distillation_weight": 1.0,
    }
    inputs = part(
        f"{FIELDS}.TeacherInputs",
        image_transform=part(f"{FIELDS}.TrainTransform", size=24),
        tokenizer=part(f"{FIELDS}.OpenClipTokenizer", context_length=14),
    )
    config = configuration(loss, None, [inputs])
    fit(config, shards, tmp_path / "run")
    values = column(tmp_path / "run", "train/distillation")
    assert len(values) == 4
    assert all(math.isfinite(value) and value > 0 for value in values)
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["state_dict"]
    assert not any("teacher" in name for name in state)


def test_a_fusion_is_distilled_from_its_own_average(shards, tmp_path):
    words = {"mask_id": 49405, "special_ids": [0, 49406, 49407], "probability": 0.5}
    schedule = part(f"{LOSSES}.LinearSchedule", start=0.0, end=0.4, length=2)
    matching = part(f"{LOSSES}.MatchingDistillationLoss")
    loss = {
        "contrastive": part(f"{LOSSES}.ContrastiveLoss"),
        "teacher": part(f"{LOSSES}.MomentumTeacher", decay=0.5),
        "terms": {
            "matching": {"loss": part(f"{LOSSES}.MatchingLoss")},
            "words": {"loss": part(f"{LOSSES}.MaskedWordLoss", **words)},
            "matching_teacher": {"loss": matching, "weight": schedule},
            "word_teacher": {"loss": part(f"{LOSSES}.MaskedWordDistillationLoss", **words)},
            "state_teacher": {"loss": part(f"{LOSSES}.FusedStateDistillationLoss", widths=[8, 8])},
            "similarities": {"loss": part(f"{LOSSES}.DistillationLoss"), "weight": 0.4},
        },
    }
    config = configuration(loss)
    config["model"]["encoder"] = part(
        "clipkit.models.with_fusion",
        encoder=config["model"]["encoder"],
        fusion=part("clipkit.models.CrossAttentionFusion", width=8, depth=1, num_heads=2),
        word_head=part("clipkit.models.WordHead", width=8, vocab_size=49408),
    )
    config["trainer"]["callbacks"].append(part("clipkit.training.callbacks.StepGuard"))
    fit(config, shards, tmp_path, "--trainer.max_steps=3")
    assert column(tmp_path, "train/word_teacher")[0] == pytest.approx(0, abs=1e-6)
    for name in ("matching_teacher", "word_teacher", "state_teacher", "similarities"):
        assert all(map(math.isfinite, column(tmp_path, f"train/{name}")))
        assert column(tmp_path, f"train/{name}")[-1] > 0
    weighted = column(tmp_path, "train/matching_teacher_weighted")[-1]
    assert weighted == pytest.approx(0.4 * column(tmp_path, "train/matching_teacher")[-1])
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert "loss.teacher.encoder.fusion.summary" in state


def test_adding_up_small_batches_is_said_aloud(shards, tmp_path, caplog):
    config = configuration({"contrastive": part(f"{LOSSES}.ContrastiveLoss")})
    fit(config, shards, tmp_path, "--trainer.accumulate_grad_batches=2", "--trainer.max_steps=2")
    assert "micro_batch_size" in caplog.text
