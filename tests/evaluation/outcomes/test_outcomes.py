"""Outcomes: metrics follow from them, whatever the weights, and files keep them."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from clipkit.errors import DataError, MetricError
from clipkit.evaluation import Outcomes, load_outcomes, outcome_metrics, save_outcomes
from clipkit.evaluation.outcomes.classification import classification_outcomes
from clipkit.evaluation.outcomes.metrics import sample_metrics
from clipkit.evaluation.outcomes.outcomes import distinct_keys
from clipkit.evaluation.outcomes.worst_group import worst_group_outcomes
from clipkit.metrics.functional import classification_accuracy
from clipkit.metrics.per_class import chosen_classes, class_scores, confusion_matrix


def classified(num_images=60, num_classes=7):
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(num_images, num_classes, generator=generator).mul(2).round()  # with ties
    labels = torch.randint(num_classes, (num_images,), generator=generator)
    keys = [f"image {n}" for n in range(num_images)]
    names = [f"class {n}" for n in range(num_classes)]
    return scores, labels, classification_outcomes(scores, labels, keys, names)


def expected_metrics(scores, labels):
    by_class = class_scores(confusion_matrix(chosen_classes(scores, labels), labels, 7)).macro()
    accuracy = classification_accuracy(scores, labels)
    return {
        **accuracy,
        "balanced_accuracy": accuracy["mean_per_class_recall"],
        **{name: by_class[name] for name in ("macro_precision", "macro_f1")},
    }


def test_classification_outcomes_give_the_metrics_of_the_scores():
    scores, labels, outcomes = classified()
    assert outcome_metrics(outcomes) == pytest.approx(expected_metrics(scores, labels))


def test_weights_are_numbers_of_draws():
    scores, labels, outcomes = classified()
    draws = torch.randint(len(labels), (len(labels),), generator=torch.Generator().manual_seed(0))
    weights = torch.bincount(draws, minlength=len(labels))
    drawn = expected_metrics(scores[draws], labels[draws])
    assert outcome_metrics(outcomes, weights) == pytest.approx(drawn)


def test_samples_are_computed_together_as_one_by_one(monkeypatch):
    monkeypatch.setattr("clipkit.evaluation.outcomes.metrics._NUMBERS_AT_ONCE", 21)  # of 7 classes
    _, _, classes = classified()
    names = tuple(map(str, range(60)))
    confidence = torch.rand(60, generator=torch.Generator().manual_seed(1))
    values = torch.arange(60.0).where(torch.arange(60) % 7 > 0, torch.nan)
    hits = torch.arange(60) % 4
    parts = (
        replace(classes, columns={**classes.columns, "confidence": confidence}),
        Outcomes("means", names, names, {"acc": values}),
        Outcomes("retrieval", names, names, {"recall_at_1": hits == 0, "rank": hits}, "a/"),
        Outcomes("rsum", names, names, {"hits": hits, "queries": hits + 1}),
        worst_group_outcomes({"acc": values.nan_to_num()}, ["x", "y", "z"] * 20, classes),
    )
    weights = torch.randint(3, (4, 60), generator=torch.Generator().manual_seed(2))
    weights[1], weights[2, 7:] = 0, 0
    for part in parts[:4]:
        drawn = [torch.arange(60).repeat_interleave(row) for row in weights]
        together = sample_metrics(part, weights)
        for number in (0, 2, 3):
            rows = drawn[number]
            columns = {name: column[rows] for name, column in part.columns.items()}
            keys = tuple(map(str, range(len(rows))))
            repeated = replace(part, keys=keys, groups=keys, columns=columns)
            found = {name: float(values[number]) for name, values in together.items()}
            assert found == pytest.approx(outcome_metrics(repeated))
        assert all(torch.isnan(values[1]) for values in together.values())
    singly = [outcome_metrics(parts[4], row) for row in weights[[0, 3]]]
    for name, values in sample_metrics(parts[4], weights[[0, 3]]).items():
        assert values.tolist() == [row[name] for row in singly]


def test_means_leave_out_units_without_a_value():
    columns = {"acc": torch.tensor([1.0, float("nan"), 0.0])}
    outcomes = Outcomes("means", ("a", "b", "c"), ("a", "b", "c"), columns, prefix="pairs/")
    assert outcome_metrics(outcomes) == {"pairs/acc": 0.5}
    assert np.isnan(outcome_metrics(outcomes, torch.tensor([0, 1, 0]))["pairs/acc"])


def test_files_keep_outcomes(tmp_path):
    _, _, first = classified()
    second = Outcomes("means", ("ä", "b"), ("x", "x"), {"acc": torch.tensor([1.0, 0.0])}, "pairs/")
    save_outcomes(tmp_path / "o.npz", [first, second])
    assert [path.name for path in tmp_path.iterdir()] == ["o.npz"]
    for before, after in zip((first, second), load_outcomes(tmp_path / "o.npz"), strict=True):
        for name in ("kind", "keys", "groups", "prefix", "class_names"):
            assert getattr(before, name) == getattr(after, name)
        assert list(before.columns) == list(after.columns)
        for name, column in before.columns.items():
            assert torch.equal(column, after.columns[name])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"text", pickle.dumps({"header": 1})])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "o.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"o\.npz: expected outcomes") as caught:
        load_outcomes(path)
    assert "pickle" not in str(caught.value)


def test_pickled_members_are_refused(tmp_path):
    np.savez(tmp_path / "o.npz", header=np.array({"format": 1}, dtype=object))
    with pytest.raises(DataError, match="expected outcomes"):
        load_outcomes(tmp_path / "o.npz")
    np.savez(tmp_path / "o.npz", header=np.array('["a"]'))
    with pytest.raises(DataError, match="expected outcomes"):
        load_outcomes(tmp_path / "o.npz")


def test_wrong_outcomes_are_refused():
    with pytest.raises(MetricError, match="one per key"):
        Outcomes("means", ("a",), ("a",), {"acc": torch.zeros(2)})
    with pytest.raises(MetricError, match="distinct keys"):
        Outcomes("means", ("a", "a"), ("a", "b"), {"acc": torch.zeros(2)})
    with pytest.raises(MetricError, match="one of the kinds"):
        outcome_metrics(Outcomes("sums", ("a",), ("a",), {"acc": torch.zeros(1)}))
    with pytest.raises(MetricError, match="at least one unit"):
        outcome_metrics(Outcomes("means", (), (), {"acc": torch.zeros(0)}))


def test_keys_that_occur_twice_become_distinct():
    assert distinct_keys(["a", "a", "a#2", "b", "a"]) == ("a", "a#3", "a#2", "b", "a#4")


def test_classes_that_do_not_occur_are_in_no_mean():
    scores = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [3.0, 0.0, 1.0]])
    outcomes = classification_outcomes(
        scores, torch.tensor([0, 0, 0]), ["a", "b", "c"], ["x", "y", "z"]
    )
    metrics = outcome_metrics(outcomes)
    assert metrics["balanced_accuracy"] == pytest.approx(2 / 3)
    assert metrics["macro_precision"] == 1
    assert metrics["macro_f1"] == pytest.approx(0.8)
    weighted = outcome_metrics(outcomes, torch.tensor([0.0, 1.0, 0.0]))
    assert weighted["macro_precision"] == weighted["macro_f1"] == 0
