"""An encoder as a model of MTEB: what it embeds, and MTEB's own tasks without a network."""

from __future__ import annotations

import io
import json
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from clipkit.errors import ConfigError
from clipkit.evaluation import MtebEncoder, Retrieval, ZeroShotClassification
from tests.helpers import naflex
from tests.helpers.evaluation_data import CLASSES, captions, picture, tiny_encoder, write_layout

NUM = 12
TEXTS = ["a red square", "two dogs", "a red square"]


@pytest.fixture(scope="module")
def encoder():
    return tiny_encoder()


@pytest.fixture
def model(encoder):
    return MtebEncoder(encoder, "me/tiny")


@pytest.fixture
def images():
    return [Image.open(io.BytesIO(picture(index))) for index in range(3)]


def test_texts_images_and_pairs(model, encoder, images):
    texts, pixels = encoder.encode(TEXTS, images)
    batches = [{"text": TEXTS[:2]}, {"text": TEXTS[2:]}]
    context = {"task_metadata": None, "hf_split": "test", "hf_subset": "default", "batch_size": 9}
    torch.testing.assert_close(model.encode(batches, **context), texts)
    torch.testing.assert_close(model.encode([{"image": images, "id": [1, 2, 3]}]), pixels)
    pairs = model.encode([{"text": TEXTS, "image": images}])
    torch.testing.assert_close(pairs, F.normalize(texts + pixels, dim=-1))
    assert encoder.training  # as before


def test_a_pair_without_an_image_is_its_text(model, encoder, images):
    texts, pixels = encoder.encode(TEXTS, images)
    for missing in ([0], [0, 1, 2]):
        some = [None if row in missing else image for row, image in enumerate(images)]
        expected = F.normalize(texts + pixels, dim=-1)
        expected[missing] = texts[missing]
        torch.testing.assert_close(model.encode([{"text": TEXTS, "image": some}]), expected)


def test_images_of_any_shape(images):
    encoder = naflex.encoder()
    embedded = MtebEncoder(encoder, "me/naflex").encode([{"image": images}])
    torch.testing.assert_close(embedded, encoder.encode(images=images).images)


def test_no_batch_gives_no_row(model):
    assert model.encode([]).shape == (0, 24)


@pytest.mark.parametrize("as_array", [np.asarray, torch.as_tensor])
def test_similarities_are_cosines_of_any_norm(model, as_array):
    first, second = torch.randn(4, 6), 3 * torch.randn(4, 6)
    expected = torch.cosine_similarity(first[:, None], second[None], dim=-1)
    arrays = as_array(first), as_array(second)
    torch.testing.assert_close(model.similarity(*arrays), expected)
    torch.testing.assert_close(model.similarity_pairwise(*arrays), expected.diag())


def test_other_weights_have_another_revision(model, encoder):
    assert model.revision == MtebEncoder(encoder, "me/tiny").revision
    assert model.revision != MtebEncoder(tiny_encoder(seed=1), "me/tiny").revision
    assert MtebEncoder(encoder, "me/tiny", "v2").revision == "v2"


@pytest.mark.parametrize("name", ["tiny", "me/tiny/v1", "", "me/ti ny"])
def test_names_without_an_owner_are_refused(encoder, name):
    with pytest.raises(ConfigError, match="name: expected OWNER/NAME"):
        MtebEncoder(encoder, name)


def test_other_modalities_are_refused(model):
    with pytest.raises(ConfigError, match="expected batches with 'text' or 'image', got audio"):
        model.encode([{"audio": [None]}])


def test_without_mteb(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "mteb", None)
    monkeypatch.setitem(sys.modules, "mteb.models.model_meta", None)
    with pytest.raises(ConfigError, match=r"pip install 'clipkit\[mteb\]'"):
        _ = model.mteb_model_meta


def test_the_model_has_the_protocol_and_a_description(model, encoder):
    pytest.importorskip("mteb")
    from mteb.models.models_protocols import EncoderProtocol

    assert isinstance(model, EncoderProtocol)
    meta = model.mteb_model_meta
    assert (meta.name, meta.revision, meta.embed_dim) == ("me/tiny", model.revision, 24)
    assert meta.modalities == ["text", "image"]
    assert meta.n_parameters == sum(p.numel() for p in encoder.parameters())


def kind_again(name):
    """Whether a task embeds the same as another one: in more languages, or in an older way."""
    return any(word in name for word in ("Multilingual", "Legacy", "Fast", "Parallel", "Dialog"))


def test_mtebs_mock_tasks_of_every_kind(model, monkeypatch):
    pytest.importorskip("mteb")
    from mteb.mocks import mock_run as mocks

    tasks = [task for task in mocks.ALL_MOCK_TASK_TEST_GRID if not kind_again(task.metadata.name)]
    monkeypatch.setattr(mocks, "ALL_MOCK_TASK_TEST_GRID", tasks)
    results = mocks.mock_run(model)
    assert results.all_passed
    passed = {name for name, result in results.items() if type(result).__name__ == "TaskResult"}
    assert len(passed) >= 20
    assert {
        *("MockAny2AnyRetrievalI2T", "MockAny2AnyRetrievalT2I", "MockImageClassification"),
        *("MockImageClustering", "MockImageTextPairClassification", "MockVisualSTS"),
        *("MockZeroShotClassification", "MockImageMultilabelClassification"),
    } <= passed


def test_zero_shot_of_mteb_is_that_of_one_prompt(model, encoder, tmp_path):
    mteb = pytest.importorskip("mteb")
    from datasets import Dataset, DatasetDict
    from mteb.mocks.mock_tasks.zeroshot_classification import MockZeroShotClassificationTask

    class Squares(MockZeroShotClassificationTask):
        def load_data(self, **options):
            images = [Image.open(io.BytesIO(picture(index))) for index in range(NUM)]
            labels = [index % len(CLASSES) for index in range(NUM)]
            split = Dataset.from_dict({"image": images, "label": labels})
            self.dataset, self.data_loaded = DatasetDict({"test": split}), True

        def get_candidate_labels(self):
            return [f"a photo of {name}." for name in CLASSES]

    cache = mteb.ResultCache(tmp_path / "cache")
    (result,) = mteb.evaluate(model, Squares(), cache=cache).task_results
    write_layout(tmp_path / "set", (7, 5), templates=["a photo of {c}."])
    metrics = ZeroShotClassification(str(tmp_path / "set")).run(encoder)
    assert result.get_score() == pytest.approx(metrics["top1"])
    (path,) = (tmp_path / "cache").rglob("MockZeroShotClassification.json")
    assert path.parts[-3:-1] == ("me__tiny", model.revision)
    assert json.loads(path.read_text())["scores"]["test"][0]["main_score"] == pytest.approx(
        result.get_score(), abs=1e-5
    )


def test_retrieval_of_mteb_is_ours(model, encoder, tmp_path):
    mteb = pytest.importorskip("mteb")
    from datasets import Dataset
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
    from mteb.mocks.mock_tasks import retrieval as mocks

    class Pairs(mocks.MockAny2AnyRetrievalT2ITask):
        def load_data(self, **options):
            images = [Image.open(io.BytesIO(picture(index))) for index in range(NUM)]
            names = [f"d{index}" for index in range(NUM)]
            texts = [(index, text) for index in range(NUM) for text in captions(index)]
            queries = {
                "id": [f"q{row}" for row in range(len(texts))],
                "text": [text for _, text in texts],
                "modality": ["text"] * len(texts),
            }
            corpus = {"id": names, "image": images, "modality": ["image"] * NUM}
            relevant = {f"q{row}": {f"d{index}": 1} for row, (index, _) in enumerate(texts)}
            self.dataset = {
                "default": {
                    "test": RetrievalSplitData(
                        corpus=Dataset.from_dict(corpus),
                        queries=Dataset.from_dict(queries),
                        relevant_docs=relevant,
                        top_ranked=None,
                    )
                }
            }
            self.data_loaded = True

    (result,) = mteb.evaluate(model, Pairs(), cache=None).task_results
    metrics = Retrieval(str(write_layout(tmp_path / "set", (7, 5)))).run(encoder)
    (scores,) = result.scores["test"]
    for k in (1, 5, 10):
        assert scores[f"recall_at_{k}"] == pytest.approx(
            metrics[f"text_to_image/recall_at_{k}"], abs=1e-5
        )
