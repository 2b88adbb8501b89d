"""transformers' encoders as text towers, out of tiny models that are made here."""

import itertools
import json

import pytest
import torch

from clipkit.errors import ConfigError
from clipkit.models import TransformersTextTower, from_open_clip
from clipkit.models.towers.transformers_tower import pool
from tests.helpers.tiny_models import VIT, captions

BERT = {
    "model_type": "bert",
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
T5 = {
    "model_type": "t5",
    "vocab_size": 100,
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 2,
    "pad_token_id": 0,
}
ROBERTA = {**BERT, "model_type": "roberta", "pad_token_id": 0}


def tower(model=BERT, **options):
    torch.manual_seed(0)
    defaults = {"embedding_dim": 24, "pretrained": False, "tokenizer_name": "transformers:x"}
    return TransformersTextTower(model, **{"context_length": 16, **defaults, **options}).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny BERT as transformers saves it."""
    from transformers import AutoConfig, AutoModel

    path = tmp_path_factory.mktemp("bert")
    torch.manual_seed(5)
    AutoModel.from_config(AutoConfig.for_model(**BERT)).save_pretrained(path)
    return path


@pytest.mark.parametrize("model", [BERT, T5, ROBERTA], ids=lambda m: m["model_type"])
@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
@torch.no_grad()
def test_cutting_padding_away_changes_no_embedding(model, pooling):
    text = tower(model, pooling=pooling)
    tokens = captions()
    assert text.trims_exactly
    assert (text(tokens[:, :9]) - text(tokens)).abs().max() <= 1e-5


def test_pooling_by_hand():
    states = torch.arange(12.0).reshape(2, 3, 2)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    torch.testing.assert_close(pool(states, mask, "first"), torch.tensor([[0.0, 1], [6, 7]]))
    torch.testing.assert_close(pool(states, mask, "last"), torch.tensor([[2.0, 3], [10, 11]]))
    torch.testing.assert_close(pool(states, mask, "mean"), torch.tensor([[1.0, 2], [8, 9]]))


@torch.no_grad()
def test_pretrained_folder(folder):
    from transformers import AutoModel

    text = tower(str(folder), pretrained=True, tokenizer_name=None)
    assert text.tokenizer_name == f"transformers:{folder}"
    tokens = captions()
    theirs = AutoModel.from_pretrained(folder).eval()
    states = theirs(input_ids=tokens, attention_mask=(tokens != 0).long()).last_hidden_state
    mask = (tokens != 0).unsqueeze(-1)
    mean = (states * mask).sum(dim=1) / mask.sum(dim=1)
    torch.testing.assert_close(text(tokens), text.projection(mean))


@torch.no_grad()
def test_config_builds_the_same_tower_without_the_folder(folder):
    text = tower(str(folder), pretrained=True, pooling="last", projection="mlp")
    again = TransformersTextTower(**json.loads(json.dumps(text.config()))).eval()
    again.load_state_dict(text.state_dict())
    torch.testing.assert_close(again(captions()), text(captions()))
    assert again.config() == text.config()


@pytest.mark.parametrize("model", [BERT, T5], ids=lambda m: m["model_type"])
def test_every_parameter_gets_a_gradient_and_a_layer(model):
    text = tower(model)
    text(captions()).square().sum().backward()
    assert [name for name, p in text.named_parameters() if p.grad is None] == []
    groups = text.layer_groups()
    assert len(groups) == 4
    assert sorted(itertools.chain(*groups)) == sorted(name for name, _ in text.named_parameters())
    assert any("embed" in name or "shared" in name for name in groups[0])
    assert "projection.weight" in groups[-1]


@torch.no_grad()
def test_open_clip_configuration_with_an_encoder_of_transformers(folder):
    text_cfg = {
        "hf_model_name": str(folder),
        "hf_pooler_type": "mean_pooler",
        "hf_proj_type": "linear",
        "context_length": 16,
    }
    model = from_open_clip({"embed_dim": 24, "vision_cfg": VIT, "text_cfg": text_cfg}).eval()
    text = model.text_tower
    tokens = captions()
    assert text.trims_exactly
    assert text.pad_id == 0
    assert text.context_length == 16
    assert text.tokenizer_name == f"transformers:{folder}"
    assert (text(tokens[:, :9]) - text(tokens)).abs().max() <= 1e-5
    groups = text.layer_groups()
    assert sorted(itertools.chain(*groups)) == sorted(name for name, _ in text.named_parameters())
    assert len(groups) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "no/such/folder"}, "finds no configuration for 'no/such/folder'"),
        ({"pooling": "max"}, "expected 'mean', 'first' or 'last', got 'max'"),
        ({"pretrained": True}, "a configuration has no weights"),
        ({"tokenizer_name": None}, "tokenizer_name"),
        ({"context_length": 33}, "has 32 positions, got 33"),
        ({"model": {**BERT, "pad_token_id": None}}, "has no padding id"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        tower(**options)
