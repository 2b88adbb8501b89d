"""Answers and classes of images with texts against loops, torchmetrics, and over ranks."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassRecall,
)

from clipkit.errors import ConfigError, DataError
from clipkit.evaluation import (
    EmbedOptions,
    JointClassification,
    PerClass,
    QuestionAnswering,
    make_evaluator,
    open_dataset,
)
from clipkit.evaluation.report.evaluated import evaluate_with_report
from clipkit.models import CrossAttentionFusion, with_fusion
from clipkit.models.inputs import tokenizer_of, transform_of
from tests.helpers.evaluation_data import tiny_encoder
from tests.helpers.questions import (
    ANSWERS,
    PEOPLE,
    joint_encoder,
    write_labelled,
    write_questions,
)
from tests.helpers.ranks import run_ranks

LABELS = ("yes", "no", "no", "maybe", "yes", "yes", "no")


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    return write_questions(tmp_path_factory.mktemp("questions"))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return write_labelled(tmp_path_factory.mktemp("labelled"), LABELS)


@torch.no_grad()
def logits_one_by_one(joint, path):
    """One image and one text at a time."""
    joint.eval()
    data, transform = open_dataset(path), transform_of(joint.image_tower)
    tokenizer, rows = tokenizer_of(joint.text_tower), []
    for number in range(len(data)):
        sample = data.sample(number)
        image = joint.read_image(transform(sample.image, np.random.default_rng(0))[None]).tokens
        text = joint.read_text(tokenizer([sample.captions[0]])).tokens
        pooled = joint.fuse({"image": image, "text": text}).pooled
        rows.append(joint.heads["fused"](pooled)[0])
    return torch.stack(rows)


def test_answers_are_those_of_a_loop(questions):
    joint = joint_encoder()
    chosen = [ANSWERS[n] for n in logits_one_by_one(joint, questions).argmax(1).tolist()]
    people = [[" ".join(a.lower().split()) for a in answers] for answers in PEOPLE]
    values = []
    for answer, given in zip(chosen, people, strict=True):
        if len(given) < 4:
            values.append(given.count(answer) / len(given))
            continue
        sets = [given[:i] + given[i + 1 :] for i in range(len(given))]
        values.append(np.mean([min(1, one.count(answer) / 3) for one in sets]))
    right = [
        answer == Counter(given).most_common(1)[0][0]
        for answer, given in zip(chosen, people, strict=True)
    ]
    got = QuestionAnswering(questions, options=EmbedOptions(4)).evaluate(joint)
    assert got.metrics["vqa_accuracy"] == pytest.approx(np.mean(values))
    assert got.metrics["top1"] == pytest.approx(np.mean(right))
    assert got.details == {"known_answers": pytest.approx(5 / 6)}
    assert got.outcomes[0].class_names[-1] == "(another answer)"


def test_classes_are_those_of_a_loop_and_of_torchmetrics(labelled):
    joint = joint_encoder(["maybe", "no", "yes"])
    logits = logits_one_by_one(joint, labelled)
    names = sorted(set(LABELS))
    labels = torch.tensor([names.index(label) for label in LABELS])
    evaluator = JointClassification(labelled, options=EmbedOptions(3))
    predictions = evaluator.predict(joint)
    torch.testing.assert_close(predictions.scores, logits, atol=1e-5, rtol=0)
    assert torch.equal(predictions.labels, labels)
    got = PerClass(evaluator).run(joint)
    for name, metric in (
        ("top1", MulticlassAccuracy(3, average="micro")),
        ("macro_recall", MulticlassRecall(3, average="macro")),
        ("macro_f1", MulticlassF1Score(3, average="macro")),
    ):
        assert got[name] == pytest.approx(float(metric(logits, labels)), abs=1e-6), name


def test_classes_are_matched_by_name(labelled):
    joint = joint_encoder(["yes", "unused", "no", "maybe"])
    predictions = JointClassification(labelled).predict(joint)
    names = [predictions.class_names[n] for n in predictions.labels.tolist()]
    assert names == list(LABELS)


def _on_rank(rank, world_size, questions, labelled):
    answered = QuestionAnswering(questions, options=EmbedOptions(2)).evaluate(joint_encoder())
    evaluator = JointClassification(labelled)
    classified = evaluator.evaluate(joint_encoder(["maybe", "no", "yes"]))
    with pytest.raises(DataError, match="does not know 1 of the classes that occur: 'maybe'"):
        evaluator.run(joint_encoder(["no", "yes"]))  # the only one is a sample of one rank
    parts = (*answered.outcomes, *classified.outcomes)
    return answered.metrics, classified.metrics, [part.groups for part in parts]


def test_two_ranks_give_what_one_gives(questions, labelled):
    expected = _on_rank(0, 1, questions, labelled)
    for answered, classified, groups in run_ranks(_on_rank, 2, questions, labelled):
        assert answered == pytest.approx(expected[0], abs=1e-6)
        assert classified == pytest.approx(expected[1], abs=1e-6)
        assert groups == expected[2]


def test_intervals_draw_complete_images(questions, labelled):
    """Rows of a table that name the same file are one group."""
    (*of_questions, of_texts) = _on_rank(0, 1, questions, labelled)[2]
    for groups, rows in ((of_questions[0], 6), (of_questions[1], 6), (of_texts, 7)):
        images = [groups.index(name) for name in groups]
        assert images == [row - row % 2 for row in range(rows)]


def test_the_page_shows_questions_with_answers(questions, labelled, tmp_path):
    joint = joint_encoder()
    evaluators = {"question-answering": make_evaluator("question-answering", questions)}
    metrics = evaluate_with_report(joint, evaluators, tmp_path, title="Questions")
    page = (tmp_path / "report.html").read_text()
    assert "what is it, 3?" in page
    assert "(another answer)" in page
    assert "recall/red" in metrics["question-answering"]
    assert (tmp_path / "confusion-question-answering.png").is_file()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (tiny_encoder, "fusion of images and texts, got DualEncoder"),
        (lambda: with_fusion(tiny_encoder(), CrossAttentionFusion(16, 1, 2)),
         "expected an encoder with a label head on its fusion, got none"),
        (lambda: joint_encoder(["", ""]), "whose classes are answers, got one without names"),
    ],
)  # fmt: skip
def test_encoders_that_do_not_fit_are_refused(questions, make, message):
    with pytest.raises(ConfigError, match=message):
        QuestionAnswering(questions).run(make())


def test_data_that_do_not_fit_are_refused(labelled, tmp_path):
    joint = joint_encoder()
    with pytest.raises(DataError, match="0: no answer in json:answers and json:answer"):
        QuestionAnswering(labelled).run(joint)
    with pytest.raises(DataError, match="does not know 3 of the classes that occur: 'maybe'"):
        JointClassification(labelled).run(joint_encoder(["a", "b", "c"]))
    table = write_labelled(tmp_path, ["a", "b"])
    table.write_text(table.read_text().replace("it is a thing of kind 1", ""))
    with pytest.raises(DataError, match="needs a text with each image"):
        JointClassification(table).run(joint_encoder(["a", "b"]))
