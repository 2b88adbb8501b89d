"""What a model card says of the training."""

from __future__ import annotations

import pytest

from clipkit.export.model_card import training
from clipkit.export.run_facts import RunFacts


def part(name, **options):
    return {"class_path": f"clipkit.losses.{name}", "init_args": options}


CURVE = part("LinearSchedule", start=0.0, end=1.0, length=5)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (
            {"contrastive": part("SigmoidLoss"), "label": None, "label_weight": 0.0},
            "1 x SigmoidLoss",
        ),
        (
            {
                "contrastive": part("ContrastiveLoss"),
                "contrastive_weight": CURVE,
                "terms": {"distillation": {"loss": part("DistillationLoss"), "weight": 0.5}},
            },
            "LinearSchedule x ContrastiveLoss + 0.5 x DistillationLoss",
        ),
        (
            {
                "contrastive": part("ContrastiveLoss"),
                "distillation": part("DistillationLoss"),
                "distillation_weight": 2.0,
            },
            "1 x ContrastiveLoss + 2 x DistillationLoss",
        ),
    ],
)
def test_the_objective_names_all_terms(loss, expected):
    assert dict(training(RunFacts(steps=8, config={"model": {"loss": loss}})))["Loss"] == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"warmup": 0.1}, "warmup 0.1"),
        (
            {"warmup": 2000, "cooldown": {"samples": 4000000}},
            "warmup 2,000, cooldown 4,000,000 samples",
        ),
        ({"warmup_steps": None, "warmup_fraction": 0.05}, "warmup_fraction 0.05"),
    ],
)
def test_the_schedule_names_its_parts(options, expected):
    schedule = {"class_path": "clipkit.optim.WarmupCosine", "init_args": options}
    rows = dict(training(RunFacts(steps=8, config={"model": {"schedule": schedule}})))
    assert rows["Schedule"] == f"WarmupCosine, {expected}"
