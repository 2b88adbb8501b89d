"""The same numbers as CLIP_benchmark's, for the same open_clip model on the same files."""

from __future__ import annotations

import copy
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from clip_benchmark.datasets.sugar_crepe import SugarCrepe
from clip_benchmark.metrics import (
    image_caption_selection,
    zeroshot_classification,
    zeroshot_retrieval,
)
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score
from torch.utils.data import DataLoader, Dataset

from clipkit.evaluation import PairChoice, Retrieval, ZeroShotClassification, ZeroShotMultiLabel
from clipkit.models import from_open_clip
from tests.evaluation.evaluators.test_multi_label import write_split
from tests.helpers.evaluation_data import CLASSES, OPEN_CLIP, picture, write_layout
from tests.helpers.open_clip_names import named_config

NAME = "clipkit-peer"


class TarFiles(Dataset):
    """The samples of a split, read with nothing but tarfile; what CLIP_benchmark is given.

    Its own reader of this layout does not run with webdataset 1.
    """

    def __init__(self, split: Path, transform, kind: str) -> None:
        self.classes = list(CLASSES)
        self._transform = transform
        self._kind = kind
        self._samples: dict[str, dict[str, bytes]] = {}
        for shard in sorted(split.glob("*.tar")):
            with tarfile.open(shard) as tar:
                for member in tar:
                    key, _, extension = member.name.partition(".")
                    file = tar.extractfile(member)
                    self._samples.setdefault(key, {})[extension] = file.read()
        self._keys = list(self._samples)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int):
        members = self._samples[self._keys[index]]
        data = next(members[name] for name in ("webp", "png", "jpg") if name in members)
        image = self._transform(Image.open(io.BytesIO(data)))
        if self._kind == "txt":
            return image, members["txt"].decode().splitlines()
        if self._kind == "npy":
            return image, torch.from_numpy(np.load(io.BytesIO(members["npy"])))
        return image, int(members["cls"])


def with_texts(batch):
    return torch.stack([image for image, _ in batch]), [texts for _, texts in batch]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    templates = ("a {c} picture", "{c}", "something {c}, in rectangles")
    folder = tmp_path_factory.mktemp("data") / "set"
    return write_layout(folder, (23, 19), templates=templates)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """One set of random weights as open_clip's model and as clipkit's encoder."""
    folder = tmp_path_factory.mktemp("model")
    (folder / f"{NAME}.json").write_text(json.dumps(OPEN_CLIP))
    torch.manual_seed(3)
    with named_config(folder / f"{NAME}.json"):
        model, _, transform = open_clip.create_model_and_transforms(NAME)
        tokenizer = open_clip.get_tokenizer(NAME)
    torch.save(model.state_dict(), folder / "weights.pt")
    encoder = from_open_clip(OPEN_CLIP, pretrained=str(folder / "weights.pt"))
    return model.eval(), transform, tokenizer, encoder


def test_recalls_are_equal(models, root):
    model, transform, tokenizer, encoder = models
    loader = DataLoader(TarFiles(root / "test", transform, "txt"), 8, collate_fn=with_texts)

    theirs = zeroshot_retrieval.evaluate(
        model, loader, tokenizer, "cpu", amp=False, recall_k_list=[1, 5, 10]
    )
    ours = Retrieval(root).run(encoder)

    for k in (1, 5, 10):
        assert ours[f"image_to_text/recall_at_{k}"] == pytest.approx(
            theirs[f"text_retrieval_recall@{k}"], abs=1e-6
        )
        assert ours[f"text_to_image/recall_at_{k}"] == pytest.approx(
            theirs[f"image_retrieval_recall@{k}"], abs=1e-6
        )
    assert 0 < ours["text_to_image/recall_at_10"] < 1


def test_accuracies_are_equal(models, root, monkeypatch):
    # CLIP_benchmark's own top-k turns an array of one number into a float, which recent numpy
    # refuses; scikit-learn counts the same.
    def accuracy(scores, labels, topk):
        return [top_k_accuracy_score(labels, scores, k=k, labels=range(6)) for k in topk]

    monkeypatch.setattr(zeroshot_classification, "accuracy", accuracy)
    model, transform, tokenizer, encoder = models
    loader = DataLoader(TarFiles(root / "test", transform, "cls"), 8)
    templates = (root / "zeroshot_classification_templates.txt").read_text().splitlines()

    theirs = zeroshot_classification.evaluate(
        model, loader, tokenizer, list(CLASSES), templates, "cpu", amp=False
    )
    ours = ZeroShotClassification(root).run(encoder)

    expected = {
        "top1": pytest.approx(theirs["acc1"], abs=1e-6),
        "top5": pytest.approx(theirs["acc5"], abs=1e-6),
        "mean_per_class_recall": pytest.approx(theirs["mean_per_class_recall"], abs=1e-6),
    }
    assert {name: ours[name] for name in expected} == expected
    assert 0 < ours["top1"] < 1


@pytest.mark.parametrize("names", [CLASSES, (*CLASSES[:3], "red", *CLASSES[4:])])
def test_prompts_of_each_class_and_equal_prompts_count_the_same(models, root, names):
    model, transform, tokenizer, encoder = models
    prompts = {name: [f"{name} {k}" for k in range(len(name) % 3 + 1)] for name in names}
    loader = DataLoader(TarFiles(root / "test", transform, "cls"), 8)

    classifier = zeroshot_classification.zero_shot_classifier(
        model, tokenizer, list(names), prompts, "cpu", amp=False
    )
    scores, labels = zeroshot_classification.run_classification(
        model, classifier, loader, "cpu", amp=False
    )
    ours = ZeroShotClassification(root, class_names=names, templates=prompts).run(encoder)

    chosen = scores.argmax(1)
    assert ours["top1"] == pytest.approx(float((chosen == labels).double().mean()))
    recall = balanced_accuracy_score(labels, chosen)
    assert ours["balanced_accuracy"] == pytest.approx(recall, abs=1e-6)
    assert 0 < ours["top1"] < 1


def test_mean_average_precision_of_several_classes_is_equal(models, tmp_path):
    model, transform, tokenizer, encoder = models
    root = write_layout(tmp_path / "set", (1,), task="multilabel")
    write_split(root, "test", range(60))
    loader = DataLoader(TarFiles(root / "test", transform, "npy"), 8)
    templates = (root / "zeroshot_classification_templates.txt").read_text().splitlines()

    theirs = zeroshot_classification.evaluate(
        model, loader, tokenizer, list(CLASSES), templates, "cpu", amp=False
    )
    ours = ZeroShotMultiLabel(root).run(encoder)

    expected = theirs["mean_average_precision"]
    assert ours["mean_average_precision"] == pytest.approx(expected, abs=1e-6)


def write_sugar_crepe(root, count=40):
    (root / "val2017").mkdir()
    entries = {}
    for number in range(count):
        (root / "val2017" / f"{number}.png").write_bytes(picture(number))
        texts = f"a cat on mat {number}", f"a mat on cat {number}"
        caption, other = texts if number % 3 else texts[::-1]
        entries[str(number)] = {
            "filename": f"{number}.png", "caption": caption, "negative_caption": other,
        }  # fmt: skip
    (root / "add_att.json").write_text(json.dumps(entries))
    return root / "add_att.json"


def choose_there(model, transform, tokenizer, path):
    data = SugarCrepe(path.parent / "val2017", path, transform)
    loader = DataLoader(data, 8, collate_fn=with_texts)
    return image_caption_selection.evaluate(model, loader, tokenizer, "cpu", amp=False)


def test_choices_of_a_model_are_equal_and_those_of_a_collapsed_one_are_not(models, tmp_path):
    model, transform, tokenizer, encoder = models
    path = write_sugar_crepe(tmp_path)

    theirs = choose_there(model, transform, tokenizer, path)
    ours = PairChoice(path).run(encoder)

    assert ours == pytest.approx({"text_acc": theirs["text_acc"], "acc": theirs["acc"]}, abs=1e-6)
    assert 0 < ours["acc"] < 1
    assert theirs["image_acc"] == 1  # one image: no choice, which is not reported here

    collapsed = copy.deepcopy((model, encoder))
    collapsed[0].encode_image = lambda images: torch.ones(len(images), 24)
    collapsed[0].encode_text = lambda texts: torch.ones(len(texts), 24)
    for tower in (collapsed[1].image_tower, collapsed[1].text_tower):
        tower.register_forward_hook(lambda module, args, out: torch.ones_like(out))

    # argmax takes the first of equal scores, and the right caption is the first
    assert choose_there(collapsed[0], transform, tokenizer, path)["acc"] == 1.0
    assert PairChoice(path).run(collapsed[1])["acc"] == 0.0
