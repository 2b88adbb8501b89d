"""Files for clip-retrieval, read as its documentation says that it reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipkit.cli.main import main
from clipkit.collection import Collection, read_info, write_info
from clipkit.errors import ConfigError
from clipkit.search.export.clip_retrieval import export_clip_retrieval
from tests.helpers.collections import set_column, set_errors, write_collection


def read_as_clip_retrieval(folder: Path, kind: str) -> np.ndarray:
    """All embeddings of a folder, in the order of the names of the files."""
    return np.concatenate([np.load(path) for path in sorted(folder.glob(f"{kind}/*.npy"))])


def read_metadata(folder: Path) -> pd.DataFrame:
    return pd.concat(pd.read_parquet(path) for path in sorted(folder.glob("metadata/*.parquet")))


def test_rows_of_all_files_are_one_sample(tmp_path):
    counts = (2, 3, 1, 2, 1, 1, 1, 1, 1, 1, 1)  # numbers of two digits
    folder = write_collection(tmp_path / "collection", counts)
    set_errors(folder, "00001", {1})
    collection = Collection(folder)
    progress: list[tuple[int, int | None]] = []
    count = export_clip_retrieval(collection, tmp_path / "out", lambda *n: progress.append(n))
    assert count == 14
    assert progress[-1] == (15, 15)
    kept = np.delete(np.arange(15), 3)
    images = read_as_clip_retrieval(tmp_path / "out", "img_emb")
    texts = read_as_clip_retrieval(tmp_path / "out", "text_emb")
    assert images.dtype == texts.dtype == np.float16
    np.testing.assert_array_equal(images, collection.images(kept))
    every = np.concatenate([np.asarray(files.texts()) for files in collection.shards])
    np.testing.assert_array_equal(texts, every[2 * kept])
    metadata = read_metadata(tmp_path / "out")
    assert list(metadata.columns) == ["image_path", "caption", "label"]
    keys = collection.table(["key"], kept).column("key").to_pylist()
    assert metadata["image_path"].tolist() == keys
    assert metadata["caption"].tolist() == [f"{key} caption 0" for key in keys]
    names = sorted(path.name for path in (tmp_path / "out").rglob("*_0*") if path.is_file())
    assert names[:2] == ["img_emb_00.npy", "img_emb_01.npy"]
    assert "metadata_09.parquet" in names


def test_samples_without_captions_and_further_columns(tmp_path):
    folder = write_collection(tmp_path / "collection", (2,), captions_per_image=1)
    set_column(folder, "00000", "captions", [["one"], []])
    texts = np.load(folder / "00000.texts.f16.npy")[:1]
    np.save(folder / "00000.texts.f16.npy", texts)
    table = pd.read_parquet(folder / "00000.parquet")
    table["json:author"], table["json:caption"] = ["Ann", None], ["own", "other"]
    table.to_parquet(folder / "00000.parquet")
    info = read_info(folder)
    columns = ("json:author", "json:caption")
    object.__setattr__(info, "columns", columns)
    object.__setattr__(info, "column_types", dict.fromkeys(columns, "string"))
    write_info(info, folder)
    assert export_clip_retrieval(Collection(folder), tmp_path / "out") == 2
    metadata = read_metadata(tmp_path / "out")
    assert metadata["caption"].tolist() == ["one", ""]
    assert metadata["author"].fillna("").tolist() == ["Ann", ""]
    assert metadata["json:caption"].tolist() == ["own", "other"]
    found = read_as_clip_retrieval(tmp_path / "out", "text_emb")
    np.testing.assert_array_equal(found, [texts[0], np.zeros(8)])


def test_the_command(tmp_path, capsys):
    folder = write_collection(tmp_path / "collection", captions_per_image=0)
    words = ["search", "export", str(folder), "--format", "clip-retrieval"]
    assert main([*words, "--output", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"8 of 8 samples: {tmp_path / 'out'}\n"
    assert not (tmp_path / "out" / "text_emb").exists()
    assert main([*words, "--output", str(tmp_path / "out")]) == 2
    assert "--output: expected a new or empty folder" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="expected a new or empty folder"):
        export_clip_retrieval(Collection(folder), folder)
    assert main(words) == 2
    assert "--output: expected with --format clip-retrieval" in capsys.readouterr().err
    assert main([*words, "--output", str(tmp_path / "new"), "--url", "http://localhost"]) == 2
    assert "--url: expected without --format clip-retrieval" in capsys.readouterr().err


def test_damage_leaves_nothing(tmp_path):
    folder = write_collection(tmp_path / "collection")
    (folder / "00001.images.f16.npy").write_bytes(b"x")
    with pytest.raises(Exception, match=r"00001\.images"):
        export_clip_retrieval(Collection(folder), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["collection"]
