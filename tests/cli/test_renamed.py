"""Names of earlier versions in configurations, on the command line and in Python."""

from __future__ import annotations

import inspect
import json

import pytest

from clipkit import optim, training
from clipkit.cli.fit.renamed import with_new_names, with_new_options
from clipkit.data import PairStream, ShardIndex, WebDatasetSource
from clipkit.errors import ConfigError
from clipkit.training import PairDataModule, callbacks
from clipkit.training.datamodule.options import RENAMED
from tests.helpers.factories import write_shards
from tests.helpers.fakes import ByteTokenizer

SOURCES = [{"name": "a", "urls": "a.tar", "weight": 1.0}]


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_key_takes_its_place_and_is_named(old, caplog):
    assert with_new_names({"fit": {"data": {"train": "x", old: 3}}}) == {
        "fit": {"data": {"train": "x", **nested(RENAMED[old], 3)}}
    }
    assert with_new_options([f"--data.{old}=3", f"--data.{old}", "4", "-c", "x.yaml"]) == [
        f"--data.{RENAMED[old]}=3", f"--data.{RENAMED[old]}", "4", "-c", "x.yaml",
    ]  # fmt: skip
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == f"data.{old} is now called data.{RENAMED[old]}; please rename it"
    assert len(lines) == 3


def nested(name, value):
    group, _, option = name.partition(".")
    return {group: {option: value}}


def test_a_list_of_sources_is_nested():
    old = {"data": {"mixture": SOURCES, "mixture_stages": None, "mixture_epoch_samples": 8}}
    mixture = {"sources": SOURCES, "stages": [], "epoch_samples": 8}
    assert with_new_names(old) == {"data": {"mixture": mixture}}
    assert with_new_names({"data": {"mixture": mixture}}) == {"data": {"mixture": mixture}}
    text = json.dumps(SOURCES)
    words = with_new_options([f"--data.mixture={text}", "--data.mixture+={}", "--data.fields=null"])
    assert words == [
        f"--data.mixture.sources={text}", "--data.mixture.sources+={}", "--data.samples.fields=[]",
    ]  # fmt: skip


def test_parts_of_an_option_and_new_names_stay():
    words = ["--data.train_transform.init_args.size", "16", "--data.fields+=Group"]
    assert with_new_options(words) == [
        "--data.samples.transform.init_args.size", "16", "--data.samples.fields+=Group",
    ]  # fmt: skip
    new = ["--data.mixture.sources=[]", "--data.cached=1", "--model.fields=2", "--data.order", "{}"]
    assert with_new_options(new) == new


@pytest.mark.parametrize("old", callbacks.RENAMED)
def test_old_callbacks_are_read_and_named(old, caplog):
    new = f"clipkit.training.callbacks.{callbacks.RENAMED[old]}"
    assert with_new_names({"class_path": f"clipkit.training.callbacks.{old}"})["class_path"] == new
    assert f"{old} is now called {new}" in caplog.text
    with pytest.raises(ImportError, match=f"{old} is now called {callbacks.RENAMED[old]}"):
        getattr(callbacks, old)


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [(optim, "WeightAverage", "EmaWeights"), (training, "MixedSource", "MixtureSource")],
)
def test_old_imports_name_the_new_ones(module, old, new):
    with pytest.raises(ImportError, match=f"{old} is now called {new}"):
        getattr(module, old)
    assert not hasattr(module, "Nothing")


def test_old_keywords_in_python_name_the_new_ones(tmp_path):
    with pytest.raises(ConfigError, match=r"PairDataModule: val_batch_size .* validation\.batch"):
        PairDataModule(val_batch_size=3)  # type: ignore[call-arg]
    write_shards(tmp_path, [4])
    with pytest.raises(ConfigError, match=r"PairStream: shuffle .*OrderOptions\(shuffle=\.\.\.\)"):
        PairStream(  # type: ignore[call-arg]
            ShardIndex.from_urls(tmp_path), tokenizer=ByteTokenizer(), batch_size=2, shuffle=False
        )


@pytest.mark.parametrize("kind", [PairStream, WebDatasetSource, PairDataModule])
def test_constructors_have_at_most_twelve_arguments(kind):
    assert len(inspect.signature(kind).parameters) <= 12
    assert not {"kwargs", "options"} & inspect.signature(kind).parameters.keys()


@pytest.mark.parametrize("order", [{"shuffle": False}, {"tail": "keep"}])
def test_training_is_shuffled(order):
    from clipkit.data import OrderOptions

    with pytest.raises(ConfigError, match=r"data\.order: training needs shuffle=true"):
        PairDataModule(order=OrderOptions(**order))


@pytest.mark.parametrize(
    ("before", "today"),
    [
        ({"warmup_steps": None, "warmup_fraction": 0.1}, {"warmup": 0.1}),
        ({"warmup_steps": 9, "warmup_fraction": 0.1}, {"warmup": 9}),
        ({"cooldown_steps": None, "cooldown_fraction": 0.2}, {"cooldown": 0.2}),
        (
            {"start": 0.0, "end": 1.0, "num_steps": 5, "first_step": 2},
            {"start": 0.0, "end": 1.0, "length": 5, "begin": 2},
        ),
        ({"groups": 1, "step": None, "fraction": 0.5}, {"groups": 1, "begin": 0.5}),
        ({"step": 3, "weights": {"a": 1.0}}, {"weights": {"a": 1.0}, "begin": 3}),
        (
            {"batch_size": 2, "until_samples": 10},
            {"batch_size": 2, "until": {"samples": 10}},
        ),
        (
            {"contrastive": {}, "distillation": {"class_path": "D"}, "distillation_weight": 0.5},
            {
                "contrastive": {},
                "terms": {"distillation": {"loss": {"class_path": "D"}, "weight": 0.5}},
            },
        ),
        (
            {"contrastive": {}, "distillation": None, "distillation_weight": 0.0},
            {"contrastive": {}},
        ),
        ({"num_steps": 5}, {"num_steps": 5}),
    ],
)
def test_moments_and_terms_of_0_1(before, today):
    assert with_new_names(before) == today


def test_a_place_of_the_objective_that_is_gone_names_the_new_one():
    with pytest.raises(ConfigError, match=r"write --model.loss.terms='{distillation: {loss:"):
        with_new_options(["--model.loss.distillation.init_args.tile_size=8"])
