"""Folders for sentence-transformers."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image

from clipkit.data.text.tokenizer_export import clip_in_transformers
from clipkit.errors import CheckpointError
from clipkit.export import export_encoder, push_to_hub
from clipkit.export import sentence_transformers as sentences
from clipkit.export.sentence_transformers import check_modules
from tests.export.test_siglip import TEXT as SIGLIP_TEXT
from tests.export.test_siglip import siglip
from tests.helpers.hub import TOKEN
from tests.helpers.tiny_models import TEXT, encoder

TEXTS = ["a dog", "Two Cats, and a very long caption that is truncated at the last token of it"]


def clip():
    return encoder(text={**TEXT, "vocab_size": 49408})


@pytest.fixture(scope="module")
def exported_clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "out"
    export_encoder(clip(), folder, "sentence_transformers")
    return clip(), folder


@pytest.fixture(scope="module")
def exported_siglip(tmp_path_factory):
    """SigLIP with CLIP's vocabulary."""
    folder = tmp_path_factory.mktemp("siglip")
    clip_in_transformers(12).save_pretrained(folder / "tokens")
    ours = siglip(text={**SIGLIP_TEXT, "pad_id": 49407})
    ours.text_tower.tokenizer_name = f"transformers:{folder / 'tokens'}"
    export_encoder(ours, folder / "out", "sentence_transformers")
    return ours, folder / "out"


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_sentence_transformers_returns_the_same_embeddings(kind, request):
    library = pytest.importorskip("sentence_transformers", "6.0")
    ours, folder = request.getfixturevalue(f"exported_{kind}")
    model = library.SentenceTransformer(str(folder), device="cpu")
    images = [Image.new("RGB", (32, 32), color) for color in ((200, 30, 60), (0, 90, 250))]
    texts, pixels = ours.encode(TEXTS, images)
    for text in (TEXTS, TEXTS[:1]):  # the padding of a batch must not matter
        theirs = torch.from_numpy(model.encode(text))
        torch.testing.assert_close(theirs, texts[: len(text)], atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.from_numpy(model.encode(images)), pixels, atol=1e-5, rtol=0)
    assert model.get_embedding_dimension() == ours.embedding_dim
    assert model.similarity_fn_name == "cosine"


def test_it_saves_what_was_written(exported_clip, tmp_path):
    """The files are those that the library writes itself, so that it may change them."""
    library = pytest.importorskip("sentence_transformers", "6.0")
    _, folder = exported_clip
    library.SentenceTransformer(str(folder), device="cpu").save(str(tmp_path / "saved"))
    for name in ("modules.json", "sentence_bert_config.json", "1_Normalize/config.json"):
        ours, theirs = (json.loads((x / name).read_text()) for x in (folder, tmp_path / "saved"))
        assert ours == theirs


def test_without_the_library_transformers_checks_alone(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(sentences, "version", lambda name: "5.1.0")
    export_encoder(clip(), tmp_path / "out", "sentence_transformers")
    assert "sentence-transformers 6 is not installed: checked with transformers" in caplog.text


def test_other_weights_are_noticed(exported_clip, tmp_path):
    pytest.importorskip("sentence_transformers", "6.0")
    shutil.copytree(exported_clip[1], tmp_path / "out")
    ours = clip()
    with torch.no_grad():
        ours.image_tower.visual.proj.mul_(-1)
    with pytest.raises(CheckpointError, match="image embeddings differ"):
        check_modules(ours, tmp_path / "out", 1e-4)
    (tmp_path / "out" / "modules.json").write_text("[{}]")
    with pytest.raises(CheckpointError, match="sentence-transformers cannot read"):
        check_modules(ours, tmp_path / "out", 1e-4)


def test_an_export_is_replaced_and_pushed_with_its_folders(
    hub, exported_clip, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    shutil.copytree(exported_clip[1], tmp_path / "out")
    export_encoder(clip(), tmp_path / "out", "sentence_transformers")
    push_to_hub(tmp_path / "out", "me/sentences")
    assert json.loads(hub.files("me/sentences")["1_Normalize/config.json"])
    assert (tmp_path / "out" / "1_Normalize").is_dir()
