"""Jobs on a local Ray cluster of two actors, of which one is killed: files as of one process."""

from __future__ import annotations

import importlib.util
import ipaddress
import signal
from contextlib import suppress
from dataclasses import replace

import psutil
import pytest

from clipkit.collection.embedding import (
    EmbedPlan,
    embed_collection,
    embed_shard,
    start_collection,
)
from clipkit.collection.ray_engine import embed_on_ray
from clipkit.data.packing.pack import pack
from clipkit.data.packing.partition.part_packer import PartPlan
from clipkit.data.packing.partition.ray_engine import pack_on_ray
from clipkit.data.packing.shard_packer import PackOptions
from clipkit.distributed.ray_actors import RayCluster, run_on_ray
from clipkit.distributed.ray_session import LOCAL_STORE_BYTES, imported_ray
from clipkit.errors import DataError
from clipkit.models import save_encoder
from tests.data.packing.partition.test_part_packer import content, write_table
from tests.helpers.embedding import contents
from tests.helpers.evaluation_data import tiny_encoder, write_layout
from tests.helpers.ray_jobs import BadJob

if importlib.util.find_spec("ray") is None:
    pytest.skip("Ray is not installed", allow_module_level=True)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """A cluster that all tests use, because its start takes ten seconds and more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        ray = imported_ray(is_local=True)
        handler = signal.getsignal(signal.SIGTERM)
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=LOCAL_STORE_BYTES,
        )
        yield
        ray.shutdown()
        signal.signal(signal.SIGTERM, handler)  # Ray leaves its own


def of_cluster() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def kill_busy_actor() -> int:
    """Kill an actor that does a task, and return its process id."""
    for process in of_cluster():
        if "MapWorker" in process.name() or "MapWorker" in " ".join(process.cmdline()):
            process.kill()
            return process.pid
    raise AssertionError("no actor is there")


def test_packing_with_a_killed_actor(tmp_path):
    rows = [f"{n}.jpg,caption {n},{n % 7}" for n in range(90)]
    table = write_table(tmp_path / "photos", rows)
    pack(table, tmp_path / "whole", samples_per_shard=5, image_size=4)
    plan = PartPlan(table, tmp_path / "parts", 9, options=PackOptions(5, image_size=4))
    killed: list[int] = []

    def kill_once(done: int, total: int) -> None:
        assert total == 9
        if not killed:
            killed.append(kill_busy_actor())

    report = pack_on_ray(plan, on_part=kill_once)
    assert report.num_samples == 90
    assert len(killed) == 1
    assert len(set(report.shards)) == len(report.shards) == 18
    for left in (tmp_path / "parts").glob(".*.tmp"):
        left.unlink()  # of the killed process
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_embedding_with_a_killed_actor(tmp_path):
    save_encoder(tiny_encoder(), tmp_path / "model")
    data = write_layout(tmp_path / "set", (12,) * 8)
    whole = EmbedPlan(str(tmp_path / "model"), str(data), tmp_path / "whole", batch_size=4)
    parts = replace(whole, output=tmp_path / "parts")
    opened = whole.open_data()
    encoder, weights = whole.load_encoder("cpu")
    embed_collection(whole, start_collection(whole, encoder, weights, opened), encoder, opened)
    info = start_collection(parts, encoder, weights, opened)
    embed_shard(parts, encoder, opened, 3)  # is not embedded again
    progress: list[tuple[int, int | None]] = []

    def kill_once(done: int, total: int | None) -> None:
        if not progress:
            kill_busy_actor()
        progress.append((done, total))

    report = embed_on_ray(parts, info, "cpu", on_progress=kill_once)
    assert [shard.number for shard in report.shards] == [0, 1, 2, 4, 5, 6, 7]
    assert (report.total("num_images"), report.num_kept, report.num_missing) == (84, 1, 0)
    assert progress == [(12 * number, 84) for number in range(1, 8)]
    for left in (tmp_path / "parts").glob(".*.tmp"):
        left.unlink()  # of the killed process
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_a_task_that_fails_ends_the_job_with_its_message(tmp_path):
    table = write_table(tmp_path / "photos", ["0.jpg,one,1", "1.jpg,two,2"])
    (tmp_path / "photos" / "1.jpg").unlink()
    plan = PartPlan(table, tmp_path / "parts", 2, options=PackOptions(1))
    with pytest.raises(DataError, match=r"1 samples cannot be packed .*\n.*1\.jpg: no such file"):
        pack_on_ray(plan)


def results_of(job: BadJob, num_tasks: int, num_retries: int, found: list[int]) -> None:
    cluster = RayCluster(num_retries=num_retries)
    results = run_on_ray(job, range(num_tasks), cluster, "shard {}".format)
    found.extend(result["done"] for result in results)


def test_a_task_that_kills_its_process_is_given_up_after_the_others():
    found: list[int] = []
    with pytest.raises(DataError, match=r"^shard 1: given up, .* ended 2 times, .* else is done$"):
        results_of(BadJob(killers=(1,)), 4, 1, found)
    assert sorted(found) == [0, 2, 3]


def test_a_job_whose_tasks_all_kill_their_process_ends():
    found: list[int] = []
    with pytest.raises(
        DataError, match=r"^(shard \d+, ){4}shard \d+: given up, .* 1 times, .* job has ended$"
    ):
        results_of(BadJob(killers=tuple(range(50))), 50, 0, found)
    assert found == []


def test_an_unexpected_error_names_the_task_and_shows_where(caplog):
    with pytest.raises(DataError, match=r"^shard 0: .*: RuntimeError: CUDA out of memory$"):
        results_of(BadJob(failing=(0,)), 1, 5, [])
    assert "in task\n" in caplog.text


def test_only_this_machine_reaches_the_cluster():
    connections = []
    for process in of_cluster():
        with suppress(psutil.NoSuchProcess):  # an idle worker may end at any time
            connections += process.net_connections("tcp")
    addresses = [
        connection.laddr.ip.removeprefix("::ffff:")
        for connection in connections
        if connection.status == psutil.CONN_LISTEN
    ]
    assert addresses
    assert [a for a in addresses if not ipaddress.ip_address(a).is_loopback] == []
