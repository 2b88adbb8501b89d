"""Probes of several classes per image: a loop with scikit-learn, hold-out, thresholds, errors."""

from __future__ import annotations

import json
import logging
from functools import partial

import pytest
import torch

from clipkit.errors import ConfigError, DataError
from clipkit.evaluation import EmbedOptions, MultiLabelProbe, ProbeSplits, outcome_metrics
from clipkit.evaluation.probes.hold_out import rows_of_groups
from clipkit.evaluation.probes.logistic import L2_GRID, choose_binary_l2, fit_binary
from clipkit.types import IGNORE_LABEL
from tests.helpers.evaluation_data import picture, tiny_encoder
from tests.helpers.factories import write_shard
from tests.helpers.ranks import run_ranks

NAMES = ("ant", "bee", "cat", "dog")


def classes_of(number):
    """Classes of a sample; some have none, some have no list."""
    return None if number % 11 == 10 else [c for c in range(4) if (number // (c + 1)) % 3 == 0]


def write_split(root, split, numbers, *, names=NAMES, order=range(4)):
    samples = []
    for number in numbers:
        record: dict[str, object] = {"patient": f"p{number // 2}"}
        if (classes := classes_of(number)) is not None:
            record["labels"] = sorted(order[c] for c in classes)
        members = {"png": picture(number), "json": json.dumps(record).encode()}
        samples.append((f"{split}{number}", members))
    write_shard(root / split / "0.tar", samples)
    (root / split / "nshards.txt").write_text("1")
    (root / "classnames.txt").write_text("\n".join(names))
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tags")
    write_split(folder, "train", range(60))
    return write_split(folder, "test", range(60, 90))


@pytest.fixture
def strong_penalties(monkeypatch):
    """Fit only with strong penalties, where a fit takes few iterations."""
    choose = partial(choose_binary_l2, grid=L2_GRID[:2])
    monkeypatch.setattr("clipkit.evaluation.probes.multi_label.choose_binary_l2", choose)


def targets_of(numbers):
    rows = []
    for number in numbers:
        classes = classes_of(number)
        rows.append(
            [IGNORE_LABEL] * 4 if classes is None else [int(c in classes) for c in range(4)]
        )
    return torch.tensor(rows)


def test_metrics_are_those_of_a_loop_with_scikit_learn(root, monkeypatch):
    linear_model = pytest.importorskip("sklearn.linear_model")
    metrics = pytest.importorskip("sklearn.metrics")
    encoder, splits = tiny_encoder(), ProbeSplits(root)
    parts = splits.embed(encoder, EmbedOptions(), require_labels=False)
    train, test = (parts[role].features.double().numpy() for role in ("train", "test"))
    targets, of_test = targets_of(range(60)), targets_of(range(60, 90))
    known = (targets != IGNORE_LABEL).all(1)
    classes = [(row == 1).nonzero().flatten().tolist() for row in targets]
    held = rows_of_groups(classes, parts["train"].groups)
    fitting, comparing = (~held & known).numpy(), (held & known).numpy()

    def scores(l2, features):
        columns = []
        for number in range(4):
            model = linear_model.LogisticRegression(
                C=1 / (l2 * fitting.sum()), tol=1e-10, solver="newton-cholesky"
            ).fit(train[fitting], targets[fitting, number].numpy())
            columns.append(torch.from_numpy(model.decision_function(features)))
        return torch.stack(columns, 1)

    def quality(l2):
        return metrics.average_precision_score(
            targets[comparing].numpy(), scores(l2, train[comparing]).numpy(), average="macro"
        )

    chosen = MultiLabelProbe(splits).run(encoder)["l2"]
    assert quality(chosen) == pytest.approx(max(quality(other) for other in L2_GRID), abs=5e-3)

    l2 = 0.01  # a weak penalty leaves the order of some images to rounding
    monkeypatch.setattr("clipkit.evaluation.probes.multi_label.choose_binary_l2", lambda *_: l2)
    evaluation = MultiLabelProbe(splits).evaluate(encoder)

    rows = (of_test != IGNORE_LABEL).all(1)
    expected = scores(l2, test[rows.numpy()])
    wanted = of_test[rows].numpy()
    assert evaluation.metrics["mean_average_precision"] == pytest.approx(
        metrics.average_precision_score(wanted, expected.numpy(), average="macro"), abs=1e-6
    )
    assert evaluation.metrics["macro_auroc"] == pytest.approx(
        metrics.roc_auc_score(wanted, expected.numpy(), average="macro"), abs=1e-6
    )
    limits = torch.tensor([evaluation.details[f"threshold/{name}"] for name in NAMES])
    taken = (expected >= limits - 1e-5).numpy()
    assert evaluation.metrics["macro_f1"] == pytest.approx(
        metrics.f1_score(wanted, taken, average="macro"), abs=1e-6
    )
    (outcomes,) = evaluation.outcomes
    assert len(outcomes) == int(rows.sum())
    assert outcome_metrics(outcomes) == {k: v for k, v in evaluation.metrics.items() if k != "l2"}


def test_unknown_classes_are_left_out_of_the_fit():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 5, generator=generator)
    targets = torch.randint(0, 2, (40, 2), generator=generator)
    targets[30:, 0] = IGNORE_LABEL

    fitted = fit_binary(features, targets, 0.01)

    alone = fit_binary(features[:30], targets[:30, :1], 0.01)
    torch.testing.assert_close(fitted.weight[:1], alone.weight, atol=1e-5, rtol=0)
    torch.testing.assert_close(fitted.bias[:1], alone.bias, atol=1e-5, rtol=0)


def test_splits_with_other_numbers_of_classes_are_matched_by_name(tmp_path, root, monkeypatch):
    monkeypatch.setattr("clipkit.evaluation.probes.multi_label.choose_binary_l2", lambda *_: 0.01)
    order = [2, 0, 3, 1]  # new number of each class
    names = [NAMES[order.index(number)] for number in range(4)]
    for split, numbers in (("train", range(60)), ("test", range(60, 90))):
        write_split(tmp_path, split, numbers, names=names, order=order)

    other, same = (MultiLabelProbe(folder).run(tiny_encoder()) for folder in (tmp_path, root))

    assert other == pytest.approx(same, abs=1e-5)


def test_groups_are_held_out_and_units_of_intervals(root, strong_penalties):
    splits = ProbeSplits(root, group_field="json:patient")
    (outcomes,) = MultiLabelProbe(splits, thresholds="global").evaluate(tiny_encoder()).outcomes
    assert set(outcomes.groups) <= {f"p{n // 2}" for n in range(60, 90)}


def test_classes_without_names_and_absent_classes(tmp_path, caplog, strong_penalties):
    write_split(tmp_path, "train", range(60), names=())
    write_split(tmp_path, "test", range(60, 90), names=())
    assert "average_precision/3" in MultiLabelProbe(tmp_path).run(tiny_encoder())
    (tmp_path / "classnames.txt").write_text("\n".join((*NAMES, "emu")))
    with caplog.at_level(logging.WARNING):
        metrics = MultiLabelProbe(tmp_path).run(tiny_encoder())
    assert "1 classes apply to no sample that the probe is fitted on: emu" in caplog.text
    assert "average_precision/emu" not in metrics


def test_data_without_lists_and_wrong_options_are_named(tmp_path, root):
    write_split(tmp_path, "train", [10, 21, 32])
    write_split(tmp_path, "test", range(60, 64))
    with pytest.raises(DataError, match="no sample to fit on has a class in json:labels"):
        MultiLabelProbe(tmp_path).run(tiny_encoder())
    write_split(tmp_path, "train", range(9), names=NAMES[:2])
    with pytest.raises(DataError, match=r"has class \d; expected 0 to 1"):
        MultiLabelProbe(tmp_path).run(tiny_encoder())
    with pytest.raises(ConfigError, match="thresholds"):
        MultiLabelProbe(root, thresholds="guessed")


def probe_on_rank(rank: int, world_size: int, root):
    evaluation = MultiLabelProbe(root, options=EmbedOptions(batch_size=7)).evaluate(tiny_encoder())
    return evaluation.metrics, dict(evaluation.details)


def test_two_ranks_measure_what_one_process_measures(root):
    alone = probe_on_rank(0, 1, root)
    first, second = run_ranks(probe_on_rank, 2, root)
    assert first == second
    assert first[0] == pytest.approx(alone[0], abs=1e-6)
