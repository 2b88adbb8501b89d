"""Studies from Python: spaces, continued studies, retries, pruning."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from clipkit.errors import ConfigError
from clipkit.training.callbacks import OptunaPruning
from clipkit.tuning import StudySettings, option_path, read_space, tune, with_values
from clipkit.tuning.page import best_so_far, heights, render_page
from clipkit.tuning.space import bounds, decoded
from clipkit.tuning.study import num_finished, open_study
from clipkit.tuning.summary import write_best, write_summary
from clipkit.tuning.trials import run_trials
from tests.helpers import tiny
from tests.helpers.html import parse
from tests.helpers.quick_sqlite import _no_waiting_for_databases  # noqa: F401

CONFIG = {
    "trainer": {"callbacks": None, "default_root_dir": None},
    "model": {"optimizer": {"class_path": "AdamW", "init_args": {"lr": 0.1, "betas": [0, 1]}}},
    "data": {"batch_size": 4},
}
SPACE = {
    "model.optimizer.lr": FloatDistribution(1e-4, 1e-1, log=True),
    "data.batch_size": CategoricalDistribution((2, 4, 8)),
}
SETTINGS = StudySettings(CONFIG, SPACE, "val/loss", "minimize")


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_space_of_every_type(tmp_path):
    space = read_space(
        write(
            tmp_path / "space.yaml",
            "a.lr: {type: float, low: 1e-4, high: 1e-1, log: true}\n"  # YAML reads 1e-4 as text
            "a.steps: {type: int, low: 10, high: 50, step: 10}\n"
            "a.betas: {type: categorical, choices: [[0.9, 0.98], null, x]}\n",
        )
    )
    assert space["a.lr"] == FloatDistribution(1e-4, 1e-1, log=True)
    assert space["a.steps"] == IntDistribution(10, 50, step=10)
    assert bounds(space["a.steps"]) == [10, 50]
    assert bounds(space["a.betas"]) == [[0.9, 0.98], None, "x"]
    study = optuna.create_study()
    study.enqueue_trial({"a.betas": "[0.9, 0.98]", "a.steps": 20, "a.lr": 0.01})
    values = {name: decoded(value) for name, value in study.ask(space).params.items()}
    assert values == {"a.lr": 0.01, "a.steps": 20, "a.betas": [0.9, 0.98]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {type: flaot, low: 0, high: 1}", "did you mean 'float'"),
        ("a: {type: float, low: 0, hihg: 1}", "did you mean 'high'"),
        ("a: {type: float, low: 2, high: 1}", "low=2.0, high=1.0"),
        ("a: {type: float, low: 0, high: 1, log: true}", "low=0.0, high=1.0"),
        ("a: {type: int, low: 0.5, high: 3}", "expected an integer, got 0.5"),
        ("a: {type: float, low: x, high: 3}", "low: expected a number, got 'x'"),
        ("a: {type: categorical, choices: []}", "one or more"),
        ("a: 3", "expected {type: float"),
        ("[1, 2]", "expected options and their ranges"),
        ("a: {type: float", "line 1: not YAML"),
    ],
)
def test_spaces_that_make_no_sense(text, message, tmp_path):
    with pytest.raises(ConfigError) as caught:
        read_space(write(tmp_path / "space.yaml", text))
    assert message in str(caught.value)
    assert "space.yaml" in str(caught.value)


def test_options_are_found_with_and_without_init_args():
    path = ("model", "optimizer", "init_args", "lr")
    assert option_path("model.optimizer.lr", CONFIG, "s") == path
    assert option_path("model.optimizer.init_args.lr", CONFIG, "s") == path
    changed = with_values(CONFIG, {path: 0.5})
    assert changed["model"]["optimizer"]["init_args"]["lr"] == 0.5
    assert CONFIG["model"]["optimizer"]["init_args"]["lr"] == 0.1
    with pytest.raises(ConfigError, match=r"'model.optimiser.lr'; .*model\.optimizer\.lr"):
        option_path("model.optimiser.lr", CONFIG, "s")


class Runs:
    """Stands in for the processes of trials: writes what ``OptunaPruning`` would."""

    def __init__(self, *statuses: int, value=None) -> None:
        self.statuses, self.value = list(statuses), value
        self.configs: list[dict] = []

    def __call__(self, path: Path) -> int:
        config = yaml.safe_load(path.read_text())
        self.configs.append(config)
        status = self.statuses.pop(0) if self.statuses else 0
        if status == 0:
            lr = config["model"]["optimizer"]["init_args"]["lr"]
            value = lr if self.value is None else self.value(lr)
            result = {"metric": "val/loss", "value": value, "step": 3, "pruned": False}
            (path.parent / "trial.json").write_text(json.dumps(result))
        else:
            (path.parent / "log.txt").write_text("Traceback\nclipkit: error: no such shards\n")
        return status


def search(output, runs, trials=3, settings=SETTINGS):
    study = open_study(output, settings)
    run_trials(study, output, settings, runs, num_trials=trials, on_trial=lambda study: None)
    return study


def test_trials_get_their_values_and_the_best_is_written(tmp_path):
    runs = Runs()
    study = search(tmp_path, runs, trials=4)
    assert num_finished(study) == 4
    rates = [c["model"]["optimizer"]["init_args"]["lr"] for c in runs.configs]
    assert len(set(rates)) == 4
    assert all(1e-4 <= rate <= 1e-1 for rate in rates)
    assert {c["data"]["batch_size"] for c in runs.configs} <= {2, 4, 8}
    (reporter,) = runs.configs[0]["trainer"]["callbacks"]
    assert reporter["class_path"].endswith("OptunaPruning")
    assert runs.configs[2]["trainer"]["default_root_dir"] == str(tmp_path / "trials/0002")
    write_best(study, tmp_path, SETTINGS)
    best = yaml.safe_load((tmp_path / "best.yaml").read_text())
    assert best["model"]["optimizer"]["init_args"]["lr"] == min(rates)
    assert best["trainer"] == CONFIG["trainer"]
    summary = write_summary(study, tmp_path, SETTINGS)
    assert json.loads((tmp_path / "study.json").read_text()) == summary
    assert summary["trials"][summary["best"]]["value"] == min(rates)


def test_a_study_goes_on_with_other_values(tmp_path):
    first = Runs()
    search(tmp_path, first, trials=2)
    second = Runs()
    study = search(tmp_path, second, trials=5)
    assert len(second.configs) == 3
    rates = [t.params["model.optimizer.lr"] for t in study.trials]
    assert len(set(rates)) == 5


def test_a_trial_that_was_killed_with_the_study_is_tried_again(tmp_path):
    study = open_study(tmp_path, SETTINGS)
    lost = study.ask(SPACE)
    runs = Runs()
    study = search(tmp_path, runs, trials=1)
    assert study.trials[0].state.name == "FAIL"
    assert study.trials[1].params == lost.params
    assert study.trials[1].user_attrs["retry_of"] == 0
    assert (
        runs.configs[0]["model"]["optimizer"]["init_args"]["lr"]
        == lost.params["model.optimizer.lr"]
    )


def test_a_killed_run_is_tried_once_more(tmp_path):
    study = search(tmp_path, Runs(0, -signal.SIGKILL, -signal.SIGKILL), trials=2)
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE", "FAIL", "FAIL", "COMPLETE"]
    assert study.trials[1].params == study.trials[2].params != study.trials[3].params
    assert study.trials[1].user_attrs["error"] == "killed by signal 9"


def test_a_run_that_stopped_for_a_signal_is_tried_again(tmp_path):
    """It leaves by itself with 128 + SIGTERM, and what it measured so far does not count."""
    study = search(tmp_path, Runs(0, 128 + signal.SIGTERM), trials=2)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert study.trials[1].params == study.trials[2].params
    assert study.trials[1].user_attrs["error"] == "killed by signal 15"


def test_a_configuration_that_cannot_run_ends_the_search_at_once(tmp_path):
    runs = Runs(2, 2)
    with pytest.raises(ConfigError, match=r"trial 0: clipkit: error: no such shards \(see .*log"):
        search(tmp_path, runs)
    assert len(runs.configs) == 1


def test_failures_in_a_row_end_the_search(tmp_path):
    runs = Runs(0, 1, 1, 1)
    with pytest.raises(ConfigError, match="trial 3"):
        search(tmp_path, runs, trials=9)
    study = search(tmp_path, Runs(1, value=lambda lr: None if lr < 0 else lr), trials=2)
    assert num_finished(study) == 2


def test_a_search_writes_its_results_and_continues(tmp_path):
    seen = []
    first = tune(SETTINGS, tmp_path, num_trials=1, launch=Runs(), on_trial=seen.append)
    assert [summary["best"] for summary in seen] == [0]
    assert json.loads((tmp_path / "study.json").read_text()) == first
    runs = Runs()
    assert len(tune(SETTINGS, tmp_path, num_trials=3, launch=runs)["trials"]) == 3
    assert len(runs.configs) == 2
    assert {"study.html", "best.yaml"} <= {path.name for path in tmp_path.iterdir()}


def test_bounds_are_checked_before_the_first_trial(tmp_path):
    def check(config):
        if config["data"]["batch_size"] == 8:
            raise ConfigError("data.batch_size: too large")

    runs = Runs()
    with pytest.raises(ConfigError, match=r"space: data.batch_size: 8: data.batch_size: too large"):
        tune(SETTINGS, tmp_path, check=check, launch=runs)
    assert runs.configs == []
    with pytest.raises(ConfigError, match="trials: expected at least 1, got 0"):
        tune(SETTINGS, tmp_path, num_trials=0)


def test_two_searches_in_one_folder_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("clipkit.tuning.search._LOCK_SECONDS", 0)
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another process works on"):
            tune(SETTINGS, tmp_path, launch=Runs())


def test_another_study_in_the_folder_is_refused(tmp_path):
    search(tmp_path, Runs(), trials=1)
    other = StudySettings(CONFIG, SPACE, "val/recall", "minimize")
    with pytest.raises(ConfigError, match="another metric"):
        open_study(tmp_path, other)
    fewer = {"data.batch_size": CategoricalDistribution((2, 4))}
    narrower = StudySettings(CONFIG, fewer, "val/loss", "minimize")
    with pytest.raises(ConfigError, match="another space"):
        open_study(tmp_path, narrower)


def test_page_shows_history_options_and_every_trial(tmp_path):
    study = search(tmp_path, Runs(0, 1), trials=3)
    hostile = "<script>alert(1)</script> {{ 7 * 7 }}"
    summary = write_summary(study, tmp_path, SETTINGS) | {"metric": hostile}
    for trial in summary["trials"]:
        trial["values"][f"model.{hostile}"] = hostile
        trial["error"] = f"Error: {hostile}"
    page = render_page(summary)
    parsed = parse(page)
    assert parsed.ids == ["main", "history", "options", "trials", "tip"]
    assert "http-equiv" in page
    assert "src=" not in page
    assert parsed.tags.count("script") == 1
    assert (
        parsed.tags.count("polyline") == 3 + 2
    )  # one for each completed trial, two of the history
    trials = page.partition('<section id="trials"')[2]
    assert trials.count('scope="row"') == 4
    assert 'tr class="best"' in page
    assert f"Study of {hostile}" in parsed.text
    assert hostile in parsed.text
    assert f"Error: {hostile}" in parsed.text  # not in an attribute that needs a mouse
    assert "title" not in parsed.names
    empty = {"metric": "m", "direction": "minimize", "best": None, "trials": []}
    assert parse(render_page(empty)).ids == ["main", "trials", "tip"]


def test_places_on_axes():
    assert best_so_far([3.0, 1.0, 2.0], "maximize") == [3.0, 3.0, 3.0]
    assert heights([1, 2, 3]) == [0.0, 0.5, 1.0]
    assert heights([1e-4, 1e-2, 1e-3]) == [0.0, 1.0, 0.5]
    assert heights([None, "x", None]) == [0.0, 1.0, 0.0]
    assert heights([2.0, 2.0]) == [0.5, 0.5]


@pytest.fixture(scope="module")
def good_study(tmp_path_factory):
    """A study whose next trial can only be worse than the others."""
    folder = tmp_path_factory.mktemp("study")
    study = open_study(folder, SETTINGS)
    for _ in range(6):
        trial = study.ask()
        for step in range(10):
            trial.report(0.0, step)
        study.tell(trial, 0.0)
    study.ask()
    return folder


@pytest.fixture
def pruning_study(good_study, tmp_path):
    """A copy of that study."""
    shutil.copy(good_study / "study.sqlite3", tmp_path)
    return tmp_path


def test_a_run_without_prospects_ends_early(pruning_study, tmp_path):
    tiny.shards(tmp_path / "data")
    report = OptunaPruning(
        f"sqlite:///{pruning_study}/study.sqlite3", "clipkit", 6, "train/loss", "median"
    )
    trainer = tiny.trainer(tmp_path, report, max_steps=8)
    trainer.fit(tiny.module(), datamodule=tiny.data(tmp_path / "data"))
    assert trainer.global_step < 8
    result = json.loads((tmp_path / "trial.json").read_text())
    assert result["pruned"]
    assert result["value"] > 0


def test_a_metric_that_is_never_logged_is_named(pruning_study, tmp_path):
    tiny.shards(tmp_path / "data")
    report = OptunaPruning(f"sqlite:///{pruning_study}/study.sqlite3", "clipkit", 6, "val/los")
    trainer = tiny.trainer(tmp_path, report, max_steps=1)
    with pytest.raises(ConfigError, match=r"'val/los' was never logged; logged: .*train/loss"):
        trainer.fit(tiny.module(), datamodule=tiny.data(tmp_path / "data"))


def test_a_run_whose_study_gave_it_up_ends(pruning_study, tmp_path):
    open_study(tmp_path, SETTINGS)  # marks the running trial as killed
    tiny.shards(tmp_path / "data")
    report = OptunaPruning(f"sqlite:///{pruning_study}/study.sqlite3", "clipkit", 6, "train/loss")
    trainer = tiny.trainer(tmp_path, report, max_steps=2)
    with pytest.raises(Exception, match="pruned by its study"):
        trainer.fit(tiny.module(), datamodule=tiny.data(tmp_path / "data"))
