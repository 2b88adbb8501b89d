"""Architectures as plain types, and the classes that a description may name."""

import json
from collections.abc import Callable

import pytest
import torch

from clipkit.errors import CheckpointError
from clipkit.models import (
    CosineLabelHead,
    DualEncoder,
    MergedFusion,
    TimmImageTower,
    describe,
    with_fusion,
)
from clipkit.models.checkpoints.description import build_encoder
from clipkit.models.towers.base import TextTower
from tests.helpers.tiny_models import batch, encoder


class BagOfTokens(TextTower):
    """A tower of somebody's own."""

    def __init__(self, embedding_dim: int, width: int) -> None:
        super().__init__()
        self.embedding_dim, self.width = embedding_dim, width
        self.context_length, self.vocab_size, self.pad_id = 16, 100, 0
        self.tokenizer_name, self.trims_exactly = "own", True
        self.bag = torch.nn.EmbeddingBag(100, embedding_dim, padding_idx=0)

    def forward(self, tokens):
        return self.bag(tokens)

    def config(self):
        return {"embedding_dim": self.embedding_dim, "width": self.width}

    def layer_groups(self):
        return [["bag.weight"]]


MODELS: dict[str, Callable[[], DualEncoder]] = {
    "open_clip": encoder,
    "bias": lambda: encoder(init_logit_bias=-10.0, init_logit_scale=2.0),
    "head": lambda: DualEncoder(
        encoder().image_tower, encoder().text_tower, CosineLabelHead(24, 5)
    ),
    "timm": lambda: DualEncoder(
        TimmImageTower("test_vit", 24, 32), encoder().text_tower, logit_scale=5.0
    ),
    "own": lambda: DualEncoder(encoder().image_tower, BagOfTokens(24, 3), max_logit_scale=None),
}


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_description_builds_the_same_encoder(name):
    model = MODELS[name]().eval()
    description = json.loads(json.dumps(describe(model)))
    again = build_encoder(description, "here").eval()
    assert describe(again) == describe(model)
    assert again.logit_scale.item() == pytest.approx(model.logit_scale.item())
    again.load_state_dict(model.state_dict())
    ours, theirs = again(batch()), model(batch())
    torch.testing.assert_close(ours.image, theirs.image)
    torch.testing.assert_close(ours.text, theirs.text)
    assert (ours.label_logits is None) == (theirs.label_logits is None)


def test_paths_are_public():
    description = describe(encoder())
    assert description["class_path"] == "clipkit.models.DualEncoder"
    text_tower = description["init_args"]["text_tower"]
    assert text_tower["class_path"] == "clipkit.models.OpenClipTextTower"


@pytest.mark.parametrize("class_path", ["os.system", "torch.nn.Linear", "clipkit.models.lock"])
def test_nothing_but_towers_and_heads_is_called(class_path):
    description = describe(encoder())
    part = {"class_path": class_path, "init_args": {}}
    description["init_args"]["text_tower"] = part
    with pytest.raises(CheckpointError, match=f"'{class_path}' is not a known tower"):
        build_encoder(description, "here")
    with pytest.raises(CheckpointError, match=r"expected clipkit\.models\.DualEncoder"):
        build_encoder(part, "here")


def test_options_of_another_version_are_named():
    description = describe(encoder())
    description["init_args"]["text_tower"]["init_args"]["rotary"] = True
    with pytest.raises(CheckpointError, match=r"OpenClipTextTower .* no argument 'rotary'"):
        build_encoder(description, "here")
    description["init_args"]["text_tower"]["init_args"] = None
    with pytest.raises(CheckpointError, match="text_tower: expected init_args"):
        build_encoder(description, "here")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 10**9}, "here: fusion: fusion.depth: expected 1 to 128"),
        ({"depth": "deep"}, "here: fusion: MergedFusion cannot be built .* TypeError"),
        ({"modalities": 5}, "here: fusion: MergedFusion cannot be built .* TypeError"),
        ({"modalities": ["image", "smell"]}, "here: fusion: .* got 'smell'"),
    ],
)
def test_values_that_no_part_can_have_name_the_file(options, message):
    description = describe(with_fusion(encoder(), MergedFusion(8, 1, 2)))
    description["init_args"]["fusion"]["init_args"].update(options)
    with pytest.raises(CheckpointError, match=message):
        build_encoder(description, "here")


def test_names_of_classes_travel_beside_the_arguments():
    plain = encoder()
    model = DualEncoder(plain.image_tower, plain.text_tower, CosineLabelHead(24, 3))
    description = describe(model)
    head = description["init_args"]["label_head"]
    assert "class_names" not in head  # as in checkpoints from before
    assert build_encoder(description, "here").label_head.class_names == ()
    model.label_head.class_names = ("cat", "", "dog")
    description = json.loads(json.dumps(describe(model)))
    head = description["init_args"]["label_head"]
    assert head["class_names"] == ["cat", "", "dog"]
    assert "class_names" not in head["init_args"]
    assert build_encoder(description, "here").label_head.class_names == ("cat", "", "dog")
    for wrong in (["cat", "dog"], "cat", [1, 2, 3]):
        head["class_names"] = wrong
        with pytest.raises(CheckpointError, match="class_names: expected a list of 3 texts"):
            build_encoder(description, "here")
