"""What is known of jobs on Ray without a cluster: errors, and what actors receive."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from clipkit.cli.main import main
from clipkit.data.packing.partition.part_packer import PartPlan
from clipkit.data.packing.partition.ray_engine import PackPartsJob, pack_on_ray
from clipkit.distributed.ray_actors import RayCluster, run_on_ray
from clipkit.errors import ConfigError, DataError
from tests.data.packing.partition.test_part_packer import write_table


def test_without_ray_the_line_for_pip_is_named(tmp_path, monkeypatch, capsys):
    table = write_table(tmp_path / "photos", ["0.jpg,one,1"])
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'clipkit\[ray\]'"):
        pack_on_ray(PartPlan(table, tmp_path / "out", 2))
    assert list((tmp_path / "out").iterdir()) == []
    words = ["shards", "pack", str(table), str(tmp_path / "out"), "--engine", "ray"]
    assert main([*words, "--num-parts", "2"]) == 2
    assert "pip install 'clipkit[ray]'" in capsys.readouterr().err


def test_a_machine_that_does_not_see_the_folder_is_an_error(tmp_path):
    table = write_table(tmp_path / "photos", ["0.jpg,one,1"])
    job = PackPartsJob(PartPlan(table, tmp_path / "out", 1), tmp_path / "out" / "marker")
    with pytest.raises(DataError, match=r"out: this machine does not see .* all machines share"):
        job.prepare()
    (tmp_path / "out").mkdir()
    job.marker.touch()
    assert job.prepare()(1) == {
        "shards": [str(tmp_path / "out" / "00000.tar")],
        "num_samples": 1,
        "faults": (),
    }


def test_no_tasks_need_no_cluster(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    job = PackPartsJob(PartPlan("t.csv", tmp_path, 1), tmp_path)
    assert list(run_on_ray(job, [], RayCluster())) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engine", "ray"], "--num-parts: expected the number of parts with --engine ray"),
        (["--engine", "ray", "--num-parts", "0"], "num_parts: expected at least 1, got 0"),
        (["--engine", "ray", "--part", "1/2"], "--part: expected no part with --engine ray"),
        (["--num-parts", "2"], "--num-parts: expected --engine ray with it"),
        (["--address", "auto"], "--address: expected --engine ray with it"),
    ],
)
def test_options_that_do_not_belong_together(words, message, tmp_path, capsys):
    table = write_table(tmp_path / "photos", ["0.jpg,one,1"])
    assert main(["shards", "pack", str(table), str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not os.path.lexists(tmp_path / "out" / "pack.json")


@pytest.mark.parametrize("address", ["127.0.0.1:9", "no-such-host.invalid:6379", "127.0.0.1:99999"])
def test_an_address_that_does_not_answer_is_an_error_at_once(address):
    pytest.importorskip("ray")
    job = PackPartsJob(PartPlan("t.csv", "out", 1), Path("marker"))
    with pytest.raises(ConfigError, match=f"--address: expected the address .* got {address}: "):
        list(run_on_ray(job, [1], RayCluster(address)))
