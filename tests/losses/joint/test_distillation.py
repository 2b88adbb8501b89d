"""Distillation of a fusion against loops over single pairs, captions and samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from clipkit.errors import ConfigError
from clipkit.losses import (
    CombinedLoss,
    ContrastiveLoss,
    DistillationLoss,
    EncoderTeacher,
    FusedStateDistillationLoss,
    LinearSchedule,
    MaskedWordDistillationLoss,
    MatchingDistillationLoss,
    MomentumTeacher,
    StoredTeacher,
    WeightedTerm,
    follow_student,
    update_teachers,
)
from clipkit.models import TcnFusion, TcnTower, with_fusion, with_towers
from clipkit.types import TeacherBatch
from clipkit.when import Progress
from tests.helpers import joint, joint_teachers, tiny_models


@pytest.mark.parametrize("micro_batch_size", [None, 4])
def test_values_and_gradients_are_those_of_loops(micro_batch_size):
    model, batch, teacher = joint.encoder(), joint.batch(), joint_teachers.larger()
    loss = joint_teachers.objective(micro_batch_size, EncoderTeacher(teacher))
    values = loss(model(batch), batch)
    values["loss"].backward()
    got, projection = joint.gradients(model), loss.states.projection
    of_projection = projection.weight.grad.clone()
    model.zero_grad()
    projection.zero_grad()
    expected = joint_teachers.naive_terms(model, teacher, batch, projection)
    sum(joint_teachers.WEIGHTS[name] * value for name, value in expected.items()).backward()
    for name, value in expected.items():
        assert values[name].item() == pytest.approx(value.item(), rel=1e-9), name
        assert value > 1e-4
    torch.testing.assert_close(of_projection, projection.weight.grad)
    reference = joint.gradients(model)
    assert got.keys() >= reference.keys()
    for name, gradient in got.items():  # of parts that no term uses, zeros
        np.testing.assert_allclose(gradient, reference.get(name, 0), atol=1e-9, err_msg=name)
    assert joint.gradients(teacher) == {}
    assert values["matching_num_samples"] == values["states_num_samples"] == 13
    assert values["words_num_samples"] == len(joint.naive_masking(batch)[1])


def test_a_perfect_student_has_no_loss_and_no_gradient():
    model, batch = joint.encoder(), joint.batch()
    given = joint_teachers.terms(width=8)
    given["states"] = FusedStateDistillationLoss()
    terms = {name: WeightedTerm(loss) for name, loss in given.items()}
    loss = CombinedLoss(terms=terms, teacher=joint_teachers.momentum_of(model))
    values = loss(model(batch), batch)
    values["loss"].backward()
    assert all(abs(values[name].item()) < 1e-12 for name in terms)
    for name, value in joint.gradients(model).items():
        np.testing.assert_allclose(value, 0, atol=1e-12, err_msg=name)


def test_sure_teachers_and_students_have_finite_divergences():
    model, batch, teacher = joint.encoder(), joint.batch(), joint.encoder()
    for one, bias in ((model, 200.0), (teacher, -200.0)):
        torch.nn.init.constant_(one.matching.bias, bias)
    loss = MatchingDistillationLoss()
    loss.of_teacher = teacher(batch)
    value = loss(model(batch), batch)
    value.backward()
    assert value.item() == pytest.approx(200, abs=2)
    assert np.isfinite(joint.gradients(model)["matching.weight"]).all()


def test_an_average_follows_the_weights_as_its_formula():
    model = joint.encoder()
    loss = CombinedLoss(
        terms={"states": WeightedTerm(FusedStateDistillationLoss())},
        teacher=MomentumTeacher(decay=0.75),
    )
    follow_student(loss, model)
    follow_student(loss, joint_teachers.larger())  # the second time it goes on
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(3):
        with torch.no_grad():
            for value in model.parameters():
                value.add_(step + 1.0)
        update_teachers(loss, model, torch.tensor(float(step == 1)))
        for name, value in model.state_dict().items():
            if step != 1 and value.is_floating_point():
                expected[name] = 0.75 * expected[name] + 0.25 * value
    average = loss.teacher.encoder
    assert loss.train().teacher.training
    assert not average.training
    assert not any(value.requires_grad for value in average.parameters())
    assert {n for n in loss.state_dict() if n.startswith("teacher.encoder.fusion")}
    for name, averaged in average.state_dict().items():
        torch.testing.assert_close(averaged, expected[name], msg=name)
    with pytest.raises(ConfigError, match=r"expected the \d+ weights of the encoder"):
        update_teachers(loss, joint_teachers.larger())


def test_weights_with_two_names_are_averaged_once():
    shared = torch.nn.Linear(2, 2)
    model = torch.nn.ModuleDict({"a": shared, "b": torch.nn.Linear(2, 2)})
    model["b"].weight = shared.weight
    teacher = MomentumTeacher(decay=0.5)
    teacher.follow(model)
    start = shared.weight.detach().clone()
    shared.weight.data.add_(1)
    teacher.update(model)
    torch.testing.assert_close(teacher.encoder["a"].weight, start + 0.5)
    assert teacher.encoder["b"].weight is teacher.encoder["a"].weight


def test_the_teacher_runs_once_and_weights_follow_schedules(monkeypatch):
    model, batch, calls = joint.encoder(), joint.batch(4), []
    loss = joint_teachers.objective()
    forward = EncoderTeacher.forward

    def counted(self, batch):
        calls.append(1)
        return forward(self, batch)

    monkeypatch.setattr(EncoderTeacher, "forward", counted)
    assert loss(model(batch), batch)["loss"] > 0
    assert len(calls) == 1
    assert all(getattr(term, "of_teacher", None) is None for term in loss.children())
    schedule = WeightedTerm(MatchingDistillationLoss(), LinearSchedule(0.0, 1.0, length=10))
    loss = CombinedLoss(terms={"matching": schedule}, teacher=joint_teachers.momentum_of(model))
    loss.teacher.encoder.matching.bias.data += 1
    loss.progress = Progress(5, 10)
    values = loss(model(batch), batch)
    assert values["matching_weighted"] == pytest.approx(values["matching"].item() / 2)


@pytest.mark.parametrize("name", ["matching", "words", "states"])
def test_a_batch_without_samples_is_zero(name):
    model, batch = joint.encoder(), joint.batch(2)
    out, loss = model(batch), joint_teachers.terms()[name].double()
    loss.of_teacher = joint_teachers.larger()(batch)
    value = loss.term(out, replace(batch, pair_mask=torch.tensor([False, False])))
    assert (value.value, value.num_samples) == (0, 0)
    value.value.backward()


def test_similarities_of_a_dual_encoder_follow_its_own_average():
    model, batch = tiny_models.encoder(), replace(joint.batch(4), pair_mask=None)
    loss = CombinedLoss(
        ContrastiveLoss(),
        terms={"momentum": WeightedTerm(DistillationLoss(MomentumTeacher(0.9)))},
    )
    follow_student(loss, model)
    assert loss(model(batch), batch)["momentum"] == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.02)
    assert loss(model(batch), batch)["momentum"] > 1e-6


def _series_fusion():
    towers = {
        name: TcnTower(24, input_shape=(4, 10), width=8, num_blocks=1, mean=0, std=1)
        for name in ("motion", "series")
    }
    fusion = TcnFusion(8, 1, modalities=("motion", "series"))
    return with_fusion(with_towers(tiny_models.encoder(), towers), fusion)


def _run(loss, source, **changes):
    batch = replace(joint.batch(4), **changes)
    terms = {"term": WeightedTerm(loss)}
    CombinedLoss(terms=terms, teacher=source)(joint.encoder()(batch), batch)


def _words(seed=0):
    return MaskedWordDistillationLoss(joint.MASK, joint.SPECIAL, 0.4, seed=seed)


OWN_TOKENS = TeacherBatch(tokens=torch.ones(4, 3, dtype=torch.int64))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CombinedLoss(terms={"a": WeightedTerm(_words())}),
         "expected a teacher, which the terms a read, got none"),
        (lambda: CombinedLoss(terms={"a": WeightedTerm(DistillationLoss())}), "expected a teacher"),
        (lambda: CombinedLoss(ContrastiveLoss(), teacher=MomentumTeacher()),
         "expected a term that reads the teacher, got none"),
        (lambda: MomentumTeacher(1.0), "expected 0 up to but not 1, got 1.0"),
        (lambda: _run(_words(), MomentumTeacher()), "expected an encoder to follow, got none"),
        (lambda: _words().term(joint.encoder()(joint.batch(4)), joint.batch(4)),
         "expected a teacher, got none"),
        (lambda: DistillationLoss().term(joint.encoder()(joint.batch(4)), joint.batch(4)),
         "expected a teacher, got none"),
        (lambda: _run(_words(), EncoderTeacher(tiny_models.encoder())),
         "MaskedWordDistillationLoss, teacher: expected an encoder with a fusion"),
        (lambda: _run(_words(), StoredTeacher(), teacher=TeacherBatch(torch.ones(4, 2),
         torch.ones(4, 2))), "expected an encoder with a fusion"),
        (lambda: _run(_words(), EncoderTeacher(joint.encoder(words=False))),
         "expected a teacher with a word_head of 100 words .* got 0 words"),
        (lambda: _run(_words(), EncoderTeacher(joint.encoder(query="image"))), "of image"),
        (lambda: _run(_words(), EncoderTeacher(joint.encoder()), teacher=OWN_TOKENS),
         "expected a teacher that reads the student's tokens"),
        (lambda: _run(FusedStateDistillationLoss(), EncoderTeacher(joint_teachers.larger())),
         r"widths: expected those of .* \[8, 12\], got None"),
        (lambda: _run(FusedStateDistillationLoss((12, 8)), EncoderTeacher(joint.encoder())),
         r"\[8, 8\], got \[12, 8\]"),
        (lambda: FusedStateDistillationLoss((0, 8)), "expected at least 1, got 0"),
        (lambda: MatchingDistillationLoss("text", "text"), "got 'text' twice"),
        (lambda: MatchingDistillationLoss().check(_series_fusion().example_embeddings()),
         r"expected modalities that are fused \(motion, series\), got 'image'"),
    ],
)  # fmt: skip
def test_teachers_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
