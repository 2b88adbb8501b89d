"""What is known of embedding on Ray without a cluster: errors, and what actors do."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace

import pytest

from clipkit.cli.main import main
from clipkit.collection.embedding import start_collection
from clipkit.collection.ray_engine import EmbedJob, embed_on_ray
from clipkit.errors import ConfigError, DataError
from clipkit.models import save_encoder
from tests.helpers.embedding import contents, embed, encoder, plan_of
from tests.helpers.evaluation_data import write_layout


@pytest.fixture
def model(tmp_path):
    save_encoder(encoder(), tmp_path / "model")
    return str(tmp_path / "model")


def test_an_actor_writes_the_files_of_the_command(tmp_path, model, monkeypatch):
    data = write_layout(tmp_path / "set", (3, 2))
    embed(data, tmp_path / "whole")
    plan = replace(plan_of(data, tmp_path / "out"), model=model)
    start_collection(plan, encoder(), None, plan.open_data())
    task = EmbedJob(plan, "cpu").prepare()
    counts = {"num_images": 2, "num_texts": 3, "num_bad": 0, "num_sounds": 0}
    assert task(1) == {"number": 1, "failure": "", **counts}
    task(0)
    expected, found = contents(tmp_path / "whole"), contents(tmp_path / "out")
    assert {name: found[name] for name in found if name != "collection.json"} == {
        name: expected[name] for name in expected if name != "collection.json"
    }


def test_an_actor_refuses_what_it_does_not_see_or_is_another(tmp_path, model):
    data = write_layout(tmp_path / "set", (3, 2))
    plan = replace(plan_of(data, tmp_path / "out"), model=model)
    with pytest.raises(DataError, match=r"out: this machine sees no collection\.json there; exp"):
        EmbedJob(plan, "cpu").prepare()
    start_collection(plan, encoder(), None, plan.open_data())
    other = replace(plan, data=str(write_layout(tmp_path / "other", (3, 3))))
    with pytest.raises(ConfigError, match="was embedded otherwise: shard"):
        EmbedJob(other, "cpu").prepare()


def test_without_ray_the_line_for_pip_is_named(tmp_path, model, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    data = write_layout(tmp_path / "set", (3, 2))
    words = ["embed", str(data), "--model", model, "--output", str(tmp_path / "out")]
    assert main([*words, "--engine", "ray"]) == 2
    assert "pip install 'clipkit[ray]'" in capsys.readouterr().err
    embed(data, tmp_path / "complete")
    plan = replace(plan_of(data, tmp_path / "complete"), model=model)
    info = start_collection(plan, encoder(), None, plan.open_data())
    report = embed_on_ray(plan, info, "cpu")  # nothing is missing, so Ray is not needed
    assert (report.shards, report.num_kept, report.num_missing) == ((), 2, 0)


def test_a_disk_that_is_too_small_is_refused_before_a_cluster_is_sought(
    tmp_path, model, monkeypatch
):
    plan = plan_of(write_layout(tmp_path / "set", (3, 2)), tmp_path / "out")
    info = start_collection(plan, encoder(), None, plan.open_data())
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"--output: .*out needs at least .* for 5 samples"):
        embed_on_ray(plan, info, "cpu")


@pytest.mark.parametrize(
    ("words", "ranks", "message"),
    [
        (["--engine", "ray", "--part", "1/2"], "1", "--part: expected no part with --engine ray"),
        (["--address", "auto"], "1", "--address: expected --engine ray with it"),
        (["--engine", "ray"], "2", "--engine ray: expected one process, got 2 ranks"),
    ],
)
def test_options_that_do_not_belong_together(
    words, ranks, message, tmp_path, model, monkeypatch, capsys
):
    monkeypatch.setenv("WORLD_SIZE", ranks)
    monkeypatch.setenv("RANK", "0")
    data = write_layout(tmp_path / "set", (3,))
    main_words = ["embed", str(data), "--model", model, "--output", str(tmp_path / "out")]
    assert main([*main_words, *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
