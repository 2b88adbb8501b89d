"""The evaluators against plain loops over open_clip's own pieces; their side effects; errors."""

from __future__ import annotations

import io

import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from clipkit.errors import ConfigError, DataError, SampleError
from clipkit.evaluation import (
    EmbedOptions,
    EvaluationSuite,
    Evaluator,
    LinearProbe,
    PerClass,
    Predictions,
    Retrieval,
    RetrievalOptions,
    ZeroShotClassification,
    confusion_counts,
    embed_pairs,
    evaluating,
    make_evaluator,
    open_dataset,
)
from clipkit.evaluation.prompts.class_prompts import GENERIC_TEMPLATES
from tests.helpers.evaluation_data import CLASSES, captions, picture, tiny_encoder, write_layout
from tests.helpers.factories import write_shard
from tests.helpers.ranks import run_ranks

NUM = 12


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_layout(tmp_path_factory.mktemp("data") / "set", (7, 5))


@pytest.fixture(scope="module")
def encoder():
    return tiny_encoder()


@pytest.fixture(scope="module")
def oracle(encoder):
    """Embeddings one by one, with open_clip's own transform and tokenizer."""
    transform = open_clip.image_transform(32, is_train=False)
    tokenizer = open_clip.SimpleTokenizer(context_length=20)
    formats = ("jpg", "png", "webp")
    with evaluating(encoder):
        images = [
            encoder.encode_image(
                transform(Image.open(io.BytesIO(picture(i, formats[i % 3]))))[None]
            )[0]
            for i in range(NUM)
        ]
        texts = [
            encoder.encode_text(tokenizer([text]))[0] for i in range(NUM) for text in captions(i)
        ]
    owners = [i for i in range(NUM) for _ in captions(i)]
    return torch.stack(images), torch.stack(texts), owners


def recall(scores: torch.Tensor, right: list[set[int]], k: int) -> float:
    hits = [
        bool(set(row.topk(k).indices.tolist()) & own)
        for row, own in zip(scores, right, strict=True)
    ]
    return sum(hits) / len(hits)


@pytest.mark.parametrize("options", [EmbedOptions(), EmbedOptions(5), EmbedOptions(4, 2)])
def test_embeddings_are_those_of_open_clips_own_pipeline(root, encoder, oracle, options):
    pairs = embed_pairs(encoder, open_dataset(root), options)

    torch.testing.assert_close(pairs.images, oracle[0], atol=2e-5, rtol=0)
    torch.testing.assert_close(pairs.texts, oracle[1], atol=2e-5, rtol=0)
    assert pairs.text_to_image.tolist() == oracle[2]
    assert pairs.labels.tolist() == [i % len(CLASSES) for i in range(NUM)]
    assert pairs.keys == tuple(f"s{i:07d}" for i in range(NUM))
    assert pairs.captions == tuple(text for i in range(NUM) for text in captions(i))


def test_limit_takes_the_first_samples(root, encoder):
    pairs = embed_pairs(encoder, open_dataset(root), EmbedOptions(limit=4))

    assert pairs.keys == tuple(f"s{i:07d}" for i in range(4))
    assert len(pairs.texts) == sum(len(captions(i)) for i in range(4))


def test_without_captions_the_text_tower_rests(root, encoder, monkeypatch):
    monkeypatch.setattr(type(encoder), "encode_text", None)

    pairs = embed_pairs(encoder, open_dataset(root), EmbedOptions(), captions=False)

    assert pairs.texts.shape == (0, 24)
    assert pairs.images.shape == (NUM, 24)


def _embed_on_rank(rank, world_size, root):
    torch.manual_seed(0)
    options = EmbedOptions(batch_size=3, limit=NUM - 1)
    pairs = embed_pairs(tiny_encoder(), open_dataset(root), options)
    metrics = Retrieval(root, options=EmbedOptions(limit=NUM - 1)).run(tiny_encoder())
    single = embed_pairs(tiny_encoder(), open_dataset(root), EmbedOptions(limit=1))
    return (
        pairs.images.numpy(),
        pairs.texts.numpy(),
        pairs.text_to_image.tolist(),
        pairs.labels.tolist(),
        pairs.keys,
        pairs.captions,
        metrics,
        single.keys,
    )


def test_over_ranks_every_sample_counts_once_and_all_ranks_agree(root, encoder):
    limit = NUM - 1
    alone = embed_pairs(encoder, open_dataset(root), EmbedOptions(limit=limit))
    metrics = Retrieval(root, options=EmbedOptions(limit=limit)).run(encoder)

    for got in run_ranks(_embed_on_rank, 2, root):
        torch.testing.assert_close(torch.from_numpy(got[0]), alone.images, atol=1e-5, rtol=0)
        torch.testing.assert_close(torch.from_numpy(got[1]), alone.texts, atol=1e-5, rtol=0)
        assert got[2] == alone.text_to_image.tolist()
        assert got[3] == alone.labels.tolist()
        assert got[4] == alone.keys
        assert got[5] == alone.captions
        assert got[6] == metrics
        assert got[7] == alone.keys[:1]  # one of the ranks had nothing to embed


def test_retrieval_counts_as_a_plain_loop_does(root, encoder, oracle):
    images, texts, owners = oracle
    scores = images @ texts.T
    own = [{j for j, owner in enumerate(owners) if owner == i} for i in range(NUM)]

    metrics = Retrieval(root, ks=(1, 3)).run(encoder)

    recalls = {name: value for name, value in metrics.items() if "/recall_at_" in name}
    assert recalls == {
        "image_to_text/recall_at_1": pytest.approx(recall(scores, own, 1)),
        "image_to_text/recall_at_3": pytest.approx(recall(scores, own, 3)),
        "text_to_image/recall_at_1": pytest.approx(recall(scores.T, [{o} for o in owners], 1)),
        "text_to_image/recall_at_3": pytest.approx(recall(scores.T, [{o} for o in owners], 3)),
    }


def test_zero_shot_counts_as_a_plain_loop_does(root, encoder, oracle):
    tokenizer = open_clip.SimpleTokenizer(context_length=20)
    with evaluating(encoder):
        classes = []
        for name in CLASSES:
            rows = encoder.encode_text(tokenizer([f"a {name} picture", name]))
            classes.append(F.normalize(rows.mean(0), dim=0))
    scores = oracle[0] @ torch.stack(classes).T
    labels = torch.arange(NUM) % len(CLASSES)
    right = (scores.argmax(1) == labels).float()
    by_class = [float(right[labels == c].mean()) for c in range(len(CLASSES))]
    evaluator = ZeroShotClassification(root)

    metrics = evaluator.run(encoder)

    torch.testing.assert_close(evaluator.predict(encoder).scores, scores, atol=2e-5, rtol=0)
    assert metrics["top1"] == pytest.approx(float(right.mean()))
    assert metrics["top5"] == pytest.approx(recall(scores, [{int(n)} for n in labels], 5))
    assert metrics["mean_per_class_recall"] == pytest.approx(sum(by_class) / len(by_class))
    assert metrics["balanced_accuracy"] == metrics["mean_per_class_recall"]


def test_zero_shot_takes_names_and_templates_that_are_given(root, encoder):
    given = ZeroShotClassification(root, class_names=CLASSES, templates=["a {} picture", "{c}"])

    assert given.run(encoder) == ZeroShotClassification(root).run(encoder)


def test_zero_shot_without_templates_uses_the_generic_ones(tmp_path):
    evaluator = ZeroShotClassification(write_layout(tmp_path, templates=()))

    assert evaluator.prompts.positive[0] == tuple(t.format(CLASSES[0]) for t in GENERIC_TEMPLATES)


def test_confusion_counts_true_classes_in_rows():
    scores = torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.1, 0.2], [0.1, 0.2, 0.7]])

    counts = confusion_counts(Predictions(scores, torch.tensor([0, 1, 1])))

    assert counts.tolist() == [[1, 0, 0], [1, 0, 1], [0, 0, 0]]


def test_modes_of_every_part_come_back_even_after_an_error(encoder):
    encoder.train()
    encoder.image_tower.eval()
    before = {name: module.training for name, module in encoder.named_modules()}

    seen = []

    def fail_inside():
        with evaluating(encoder):
            seen.append(any(module.training for module in encoder.modules()))
            seen.append(torch.is_grad_enabled())
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail_inside()

    assert seen == [False, False]
    assert torch.is_grad_enabled()
    assert {name: module.training for name, module in encoder.named_modules()} == before
    encoder.train()


def test_evaluation_leaves_no_gradient_and_draws_no_random_number(root, encoder):
    state = torch.get_rng_state()

    Retrieval(root).run(encoder)

    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert encoder.training


def test_bf16_computes_in_bf16_and_stays_near(root, encoder, oracle):
    data = open_dataset(root)
    seen = []
    hook = encoder.image_tower.register_forward_hook(lambda *args: seen.append(args[2].dtype))

    pairs = embed_pairs(encoder, data, EmbedOptions(precision="bf16"))
    hook.remove()

    assert seen == [torch.bfloat16]
    assert pairs.images.dtype == torch.float32
    torch.testing.assert_close(pairs.images, oracle[0], atol=0.05, rtol=0)


class _Constant(Evaluator):
    def run(self, encoder):
        return {"top1": 0.5}


def test_suite_joins_metrics_under_names(root, encoder):
    retrieval = Retrieval(root, ks=(1,))

    metrics = EvaluationSuite({"a": retrieval, "b": _Constant()}).run(encoder)

    expected = {f"a/{name}": value for name, value in retrieval.run(encoder).items()}
    assert metrics == {**expected, "b/top1": 0.5}


def test_the_primary_metric_is_among_the_results(root, encoder):
    retrieval, zero_shot = Retrieval(root, ks=(3, 2)), ZeroShotClassification(root)
    evaluators = [retrieval, zero_shot, PerClass(zero_shot), EvaluationSuite({"a": retrieval})]

    for evaluator in evaluators:
        assert evaluator.primary_metric in evaluator.run(encoder)
        assert evaluator.greater_is_better
    assert retrieval.primary_metric == "text_to_image/recall_at_2"
    assert EvaluationSuite({"b": _Constant()}).primary_metric == ""


def test_suite_does_not_swallow_an_error(root, encoder, tmp_path):
    empty = Retrieval(write_layout(tmp_path, text=False))

    with pytest.raises(DataError, match="no caption"):
        EvaluationSuite({"good": Retrieval(root), "bad": empty}).run(encoder)


def test_suite_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="at least one"):
        EvaluationSuite({})


def test_retrieval_with_the_first_components_counts_as_a_plain_loop_does(root, encoder, oracle):
    images, texts, owners = oracle
    scores = images[:, :5] @ texts[:, :5].T / (images[:, :5].norm(dim=1)[:, None])
    scores = scores / texts[:, :5].norm(dim=1)

    metrics = Retrieval(root, ks=(2, 3), widths=[5]).run(encoder)

    assert sum("recall_at" in name for name in metrics) == 6
    expected = recall(scores.T, [{o} for o in owners], 2)
    assert metrics["width_5/text_to_image/recall_at_2"] == pytest.approx(expected)
    with pytest.raises(ConfigError, match=r"at most the \d+ components of the embeddings, got 999"):
        Retrieval(root, widths=[999]).run(encoder)
    with pytest.raises(ConfigError, match="at least 1"):
        Retrieval(root, widths=[0])


def test_widths_of_retrieval_are_given_once(root, encoder):
    options = RetrievalOptions(widths=(5,))

    by_name = make_evaluator("retrieval", root, correct=options).run(encoder)

    assert by_name == Retrieval(root, widths=[5]).run(encoder)
    assert "width_5/image_to_text/recall_at_1" in by_name
    with pytest.raises(ConfigError, match=r"expected them once, got \[4\] and .*widths=\[5\]"):
        Retrieval(root, widths=[4], correct=options)


def test_retrieval_names_a_picture_without_caption(tmp_path, encoder):
    members = {"png": picture(0), "txt": b"one"}
    write_shard(tmp_path / "0.tar", [("fine", members), ("lonely", {"png": picture(1)})])

    with pytest.raises(DataError, match=r"1 of 2 images have no caption \(first: lonely\)"):
        Retrieval(tmp_path).run(encoder)


@pytest.mark.parametrize(("label", "found"), [(None, "no class"), (b"6", "class 6")])
def test_zero_shot_names_a_picture_without_a_usable_class(tmp_path, encoder, label, found):
    members = {"png": picture(0)} if label is None else {"png": picture(0), "cls": label}
    write_shard(tmp_path / "0.tar", [("odd", members)])

    with pytest.raises(DataError, match=f"odd, {found}.*expected 0 to 5"):
        ZeroShotClassification(tmp_path, class_names=CLASSES).run(encoder)


def test_zero_shot_without_names_is_refused_at_once(tmp_path):
    with pytest.raises(DataError, match=r"names of at least two classes.*classnames\.txt"):
        ZeroShotClassification(write_layout(tmp_path, classes=()))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_picture_that_is_none_is_named(tmp_path, encoder, num_workers):
    write_shard(tmp_path / "0.tar", [("broken", {"png": b"no picture", "txt": b"one"})])

    with pytest.raises(SampleError, match="broken: ") as caught:
        Retrieval(tmp_path, options=EmbedOptions(num_workers=num_workers)).run(encoder)
    assert "Traceback" not in str(caught.value)
    assert caught.value.key == "broken"


@pytest.mark.parametrize("evaluator", [Retrieval, ZeroShotClassification, LinearProbe])
def test_arguments_that_became_options_name_their_place(root, evaluator):
    with pytest.raises(ConfigError, match=r"limit is now called options=EmbedOptions\(limit="):
        evaluator(root, limit=3)


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"num_workers": -1}, {"limit": 0}, {"precision": "fp8"}]
)
def test_options_that_cannot_work_are_refused_at_once(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        EmbedOptions(**wrong)
