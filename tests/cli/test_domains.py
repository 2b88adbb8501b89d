"""The recipes of domains run from a table to figures, and their traps are real."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from clipkit.cli.main import main
from clipkit.data import Series
from clipkit.evaluation import (
    LabelHeadClassification,
    PerClass,
    Retrieval,
    RetrievalOptions,
    open_dataset,
)
from clipkit.models import load_encoder, load_joint_encoder, load_towers
from tests.helpers import domains, tiny

RECIPES = Path(__file__).parents[2] / "configs" / "experiment"
ENCODER = {**tiny.CONFIG, "vision_cfg": {**tiny.CONFIG["vision_cfg"], "layers": 2}}
MERGED = RetrievalOptions(merge_captions=True)
UNLIKE = ["--image-distance", "none", "--caption-similarity", "none"]


def build(table: Path, out: Path, *words: str) -> Path:
    """Split a table as the page of domains does."""
    words = ("--test-size", "0.25", "--samples-per-shard", "8", *UNLIKE, *words)
    assert main(["evaluate", "build", str(table), str(out), *words]) == 0
    return out


def fit(name: str, data: Path, run: Path, *words: str) -> Path:
    """Train a recipe for a few steps, and return its checkpoint."""
    common = [
        f"--data.train={data}/train",
        f"--data.val={data}/test",
        "--model.schedule.warmup=1",
        "--data.batch_size=8",
        "--data.num_workers=0",
        "--trainer.accelerator=cpu",
        "--trainer.max_steps=4",
        "--trainer.log_every_n_steps=1",
        f"--trainer.default_root_dir={run}",
    ]
    recipe = str(RECIPES / f"domain_{name}.yaml")
    assert main(["fit", "-c", recipe, *common, *words]) == 0
    stored = torch.load(run / "last.ckpt", weights_only=True)["state_dict"]
    assert all(v.isfinite().all() for v in stored.values() if isinstance(v, torch.Tensor))
    return run / "last.ckpt"


OPEN_CLIP = [f"--model.encoder.name={json.dumps(ENCODER)}", "--model.encoder.pretrained=null"]


def test_reports_of_patients_run_from_a_table_to_figures(tmp_path):
    table = domains.radiographs(tmp_path / "studies")
    columns = ("--caption-columns", "findings", "impression")
    held_out = build(table, tmp_path / "radiology", *columns, "--group", "json:patient")
    data = build(held_out, tmp_path / "fit", "--source-split", "train", "--group", "json:patient")
    parts = [held_out / "test", data / "test", data / "train"]
    patients = [domains.values(part, "json:patient") for part in parts]
    assert sum(map(len, patients)) == len(set().union(*patients)) == 10
    size = f"--data.samples.transform.size={ENCODER['vision_cfg']['image_size']}"
    model = fit("radiology", data, tmp_path / "run", *OPEN_CLIP, size)
    apart = Retrieval(held_out).run(load_encoder(model))
    together = Retrieval(held_out, correct=MERGED).run(load_encoder(model))
    # both images of a study have its report: only together, either of them is right
    assert together["text_to_image/mean_rank"] < apart["text_to_image/mean_rank"]


def test_a_split_by_image_leaks_patients(tmp_path):
    """What the page warns of, on the same table."""
    table = domains.radiographs(tmp_path / "studies")
    columns = ("--caption-columns", "findings", "impression")
    data = build(table, tmp_path / "leaky", *columns)
    both = [domains.values(data / part, "json:patient") for part in ("train", "test")]
    assert len(both[0] & both[1]) >= 2


def test_products_run_from_a_table_to_figures(tmp_path):
    table = domains.products(tmp_path / "shop")
    data = build(table, tmp_path / "products", "--group", "json:product")
    parts = [domains.values(data / part, "json:product") for part in ("train", "test")]
    assert not parts[0] & parts[1]
    model = fit("products", data, tmp_path / "run", *OPEN_CLIP)
    by_category = replace(MERGED, group_field="json:class_name")
    metrics = Retrieval(data, correct=by_category).run(load_encoder(model))
    groups = {name.split("/")[2] for name in metrics if name.startswith("text_to_image/group/")}
    assert groups == set(domains.CATEGORIES)
    assert "text_to_image/worst_group/recall_at_1" in metrics


def small_sensors() -> str:
    """The towers of the recipe at small size."""
    recipe = yaml.safe_load((RECIPES / "domain_sensors.yaml").read_text())
    parts = recipe["model"]["encoder"]["init_args"]["encoder"]["init_args"]
    small = {"model": "test_vit", "pretrained": False, "image_size": 32, "embedding_dim": 16}
    parts["towers"]["image"]["init_args"] = small
    parts["towers"]["series"]["init_args"] |= {"embedding_dim": 16, "width": 8, "num_blocks": 2}
    parts["label_heads"]["series"]["init_args"]["embedding_dim"] = 16
    return json.dumps(parts)


@pytest.fixture(scope="module")
def sensors(tmp_path_factory) -> tuple[Path, Path]:
    """A split by machine, and the checkpoint of a run on it."""
    folder = tmp_path_factory.mktemp("sensors")
    table = domains.machines(folder / "machines")
    data = build(table, folder / "data", "--group", "json:machine", "--stratify", "none")
    flags = [
        f"--model.encoder.encoder.init_args={small_sensors()}",
        '--model.encoder.fusion.init_args={"width": 16, "depth": 1, "num_heads": 2}',
        "--model.loss.terms.state.loss.loss.class_counts=[18, 9, 5]",
    ]
    return data, fit("sensors", data, folder / "run", *flags)


def test_sensors_run_from_a_table_to_figures(sensors):
    data, model = sensors
    parts = [domains.values(data / part, "json:machine") for part in ("train", "test")]
    assert not parts[0] & parts[1]
    assert set(load_joint_encoder(model).fused_names) == {"image", "series"}
    series = Series(num_features=3, num_frames=256, field="json:current")
    classifier = LabelHeadClassification(open_dataset(data, modality=series))
    metrics = PerClass(classifier).run(load_towers(model).encoder)
    assert {"macro_f1", "ece", "mean_per_class_recall", "recall/2"} <= metrics.keys()
    assert not any(math.isnan(value) for value in metrics.values())
