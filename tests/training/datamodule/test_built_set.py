"""A built evaluation set as training and validation data."""

from __future__ import annotations

from pathlib import Path

from clipkit.cli.main import main
from clipkit.evaluation.building import SplitOptions, build_evaluation_set
from tests.helpers import tiny
from tests.helpers.planted_copies import write_table


def test_fit_trains_on_the_training_split(tmp_path: Path):
    table = write_table(tmp_path / "source", 24, 2)
    build_evaluation_set(table, tmp_path / "own", split=SplitOptions(test_size=8))
    words = tiny.words(tmp_path / "unused", tmp_path / "run")
    words = [word for word in words if not word.startswith("--data.train")]
    own = [f"--data.train={tmp_path}/own/train", f"--data.val={tmp_path}/own/test"]
    assert (
        main(["fit", *words, *own, "--trainer.max_steps=2", "--trainer.val_check_interval=2"]) == 0
    )
