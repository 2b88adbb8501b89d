"""Every kind of source in one suite: the hub, a server, tables, folders of images, shards."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from clipkit.data.packing.packed_cache import pack_to_cache
from clipkit.evaluation import Suite, SuiteEntry, SuiteOptions, run_suite
from clipkit.evaluation.suites.stamps import data_stamp
from clipkit.models import save_encoder
from tests.evaluation.suites.test_runner import few_retries
from tests.helpers.evaluation_data import captions, picture, tiny_encoder, write_layout
from tests.helpers.factories import write_shards
from tests.helpers.servers import Misbehaviour, http_server
from tests.helpers.sound_sets import write_esc50
from tests.helpers.sounds import sound_bytes

NUM = 5


def hub_parquet() -> bytes:
    """As the Hub writes COCO and Flickr30k: images as bytes, captions as lists."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [{"bytes": picture(n), "path": f"{n}.png"} for n in range(NUM)]
    texts = [captions(n) for n in range(NUM)]
    file = io.BytesIO()
    parquet.write_table(pa.table({"image": pa.array(images, kind), "caption": texts}), file)
    return file.getvalue()


def test_all_kinds_give_the_same_recalls(tmp_path, monkeypatch, hub):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPKIT_CACHE", str(tmp_path / "cache"))
    few_retries(monkeypatch)
    save_encoder(tiny_encoder(), tmp_path / "model")
    files = {"default/test/0000.parquet": hub_parquet()}
    hub.data_set("owner/pairs").commit(files, "refs/convert/parquet")
    write_layout(tmp_path / "wds_pairs", (NUM,), classes=(), templates=())
    served = {
        f"/{path.relative_to(tmp_path)}": path.read_bytes()
        for path in (tmp_path / "wds_pairs").rglob("*.*")
    }
    for n in range(NUM):
        folder = tmp_path / "folders" / "test" / ("cat", "dog")[n % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{n}.png").write_bytes(picture(n))
    Path("tables").mkdir()
    (tmp_path / "tables" / "0.parquet").write_bytes(hub_parquet())

    with http_server(served, Misbehaviour()) as url:
        entries = [
            SuiteEntry("hub", "hf://datasets/owner/pairs/default/test", task="retrieval"),
            SuiteEntry("dead", "http://127.0.0.1:9/pairs", task="retrieval"),
            SuiteEntry("server", f"{url}/wds_pairs"),
            SuiteEntry("shards", "wds_pairs/test", task="retrieval"),
            SuiteEntry("parquet", "tables/0.parquet", task="retrieval"),
            SuiteEntry("folders", "folders"),
        ]
        run = run_suite(Suite("all", tuple(entries)), ["model"], "out", SuiteOptions(device="cpu"))

    assert [failure.title for failure in run.failures] == ["model on dead"]
    records = [json.loads(path.read_text()) for path in Path("out").glob("*.json")]
    metrics = {record["dataset"]: record["metrics"] for record in records}
    assert "acc1" in metrics.pop("folders")
    assert set(metrics) == {"hub", "server", "shards", "parquet"}
    assert all(recalls == metrics["hub"] for recalls in metrics.values())


def test_a_split_of_a_set_and_a_pattern_have_the_stamp_of_their_files(tmp_path):
    root = write_esc50(tmp_path / "ESC-50")
    write_shards(tmp_path / "shards", (1, 1))
    names = [f"{root}/fold1", f"{tmp_path}/shards/*.tar", f"{tmp_path}/shards/0000{{0,1}}.tar",
             f"{tmp_path}/shards/00000.tar::{tmp_path}/shards/00001.tar"]  # fmt: skip
    stamps = [data_stamp(name) for name in names]
    assert "" not in stamps
    assert len(set(stamps)) == 2  # the files of a pattern are those of the union
    assert data_stamp(f"{root}/fold2") == stamps[0]
    pack_to_cache(root / "fold1")
    assert [data_stamp(name) for name in names] == stamps
    (root / "audio" / "1-00-A-0.wav").write_bytes(sound_bytes(0.3))
    write_shards(tmp_path / "shards", (1, 2))
    assert not set(stamps) & {data_stamp(name) for name in names}
    for unknown in (
        "https://a.b/0.tar",
        "hf://datasets/a/b/c/d",
        f"{tmp_path}/x/*.tar",
        "s3://a::b",
    ):
        assert data_stamp(unknown) == ""
