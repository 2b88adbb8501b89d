"""Records of evaluations with made-up outcomes."""

import json

import torch

from clipkit.evaluation import save_outcomes
from clipkit.evaluation.comparison.records import outcomes_path
from clipkit.evaluation.outcomes.classification import classification_outcomes

CLASSES = ("cat", "dog", "fish", "frog", "horse", "ship")


def classified(accuracy, seed=0, num_images=200, groups=None, names=CLASSES):
    """Return outcomes of a classifier that is right with a probability; images are the same."""
    generator = torch.Generator().manual_seed(1000 + seed)
    labels = torch.arange(num_images) % len(names)
    right = torch.rand(num_images, generator=generator) < accuracy
    wrong = (labels + torch.randint(1, len(names), (num_images,), generator=generator)) % len(names)
    scores = torch.rand(num_images, len(names), generator=generator) / 2
    scores[torch.arange(num_images), torch.where(right, labels, wrong)] = 1
    keys = [f"image {n}" for n in range(num_images)]
    return classification_outcomes(scores, labels, keys, names, groups)


def write_record(path, outcomes, **values):
    """Write a record as ``clipkit evaluate --output`` does."""
    record = {
        "model": path.stem, "data": "data/animals", "tasks": ["zero-shot"], "metrics": {},
        "primary_metrics": {"zero-shot": "top1"}, "templates": {"zero-shot": ["a {}"]},
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record | values))
    if outcomes is not None:
        parts = outcomes if isinstance(outcomes, list) else [outcomes]
        save_outcomes(outcomes_path(path), parts)
    return path


def write_suite_record(folder, model, dataset, outcomes, **values):
    """Write a record in the schema of CLIP_benchmark, as suites do."""
    record = {
        "dataset": dataset, "model": model, "pretrained": "weights", "metrics": {"acc1": 0.5},
        "task": "zeroshot_classification", "language": "en",
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    record |= values
    path = folder / f"{dataset.replace('/', '-')}_{model}_{record['language']}.json"
    path.write_text(json.dumps(record))
    save_outcomes(outcomes_path(path), [outcomes])
    return path
