"""kill -9 at random moments, then a resume: nothing is lost, nothing comes twice.

``tools/bench_kill.py`` does the same with more kills and samples, and counts.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import bench_kill

NUM_KILLS = 5
NUM_SAMPLES = 1200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    bench_kill.make_shards(folder, NUM_SAMPLES)
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What an undisturbed run is trained on."""
    out = tmp_path_factory.mktemp("whole")
    bench_kill.run_loop(folder, out, bench_kill.Topology(1, 8))
    epochs = bench_kill.trained_keys(out)
    assert [len(set(keys)) for keys in epochs] == [NUM_SAMPLES] * bench_kill.NUM_EPOCHS
    return [key for keys in epochs for key in keys]


@pytest.mark.parametrize("name", bench_kill.SCENARIOS)
def test_killed_runs_end_as_if_nothing_had_happened(
    folder: Path, tmp_path: Path, whole: list[str], name: str
) -> None:
    topologies = bench_kill.SCENARIOS[name]
    kills = bench_kill.run_killed(folder, tmp_path, topologies, NUM_KILLS, seed=5)
    result = bench_kill.judge(name, tmp_path, NUM_SAMPLES, kills, whole)
    assert result["kills"] == NUM_KILLS
    assert (result["lost"], result["repeated"]) == (0, 0)
    if name == "other batch":
        # Batches are cut elsewhere; an epoch ends where fewer samples are left than a step takes.
        # How many depends on the moments of the kills; none, where the last batches come out even.
        dropped = result["dropped_at_epoch_ends"]
        assert dropped < 12 * bench_kill.NUM_EPOCHS
        assert result["samples_trained_on"] + dropped == len(whole)
    else:
        assert result["same_order_as_undisturbed"] is True
        assert result["samples_trained_on"] == len(whole)


def test_what_is_counted_as_lost_or_repeated(
    folder: Path, tmp_path: Path, whole: list[str]
) -> None:
    """The judge is no rubber stamp: a log that skips one sample and repeats another is told."""
    bench_kill.run_loop(folder, tmp_path, bench_kill.Topology(1, 8))
    log = tmp_path / "keys.log"
    lines = log.read_text().splitlines()
    words = lines[3].split()
    lines[3] = " ".join([*words[:-1], words[-2]])
    log.write_text("\n".join(lines) + "\n")
    result = bench_kill.judge("forged", tmp_path, NUM_SAMPLES, 0, whole)
    assert (result["lost"], result["repeated"]) == (1, 1)
    assert result["same_order_as_undisturbed"] is False
