"""What an allowed image outside of its table's folder means for a run, a report and a command."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipkit.cli.main import main
from clipkit.errors import DataError
from clipkit.evaluation import open_dataset
from clipkit.training.datamodule.options import StorageOptions
from clipkit.training.datamodule.sources import open_index
from tests.helpers.factories import image_bytes


@pytest.fixture
def source(tmp_path: Path) -> str:
    """A table with one image inside and one outside of its folder."""
    path = tmp_path / "data" / "table.csv"
    path.parent.mkdir()
    for name in ("data/a.jpg", "outside.jpg"):
        (tmp_path / name).write_bytes(image_bytes())
    path.write_text("image,caption\na.jpg,a dog\n../outside.jpg,a dog\n")
    return str(path)


def test_an_image_outside_is_refused(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shards", "pack", source, str(tmp_path / "out"), "--max-bad-samples", "2"]) == 2
    assert "--allow-outside" in capsys.readouterr().err
    for read in (open_dataset, open_index):
        with pytest.raises(DataError, match="outside"):
            read(source)


def test_it_is_packed_where_it_is_allowed(source: str, tmp_path: Path) -> None:
    assert main(["shards", "pack", source, str(tmp_path / "out"), "--allow-outside"]) == 0
    assert open_index(source, storage=StorageOptions(allow_outside=True)).num_samples == 2
