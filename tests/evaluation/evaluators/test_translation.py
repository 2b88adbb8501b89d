"""Captions of one language as queries for those of another: loops, gaps, ranks, and bad data."""

from __future__ import annotations

import json

import pytest
import torch

from clipkit.cli.main import main
from clipkit.data import JsonFields, LanguageCaptions
from clipkit.data.shards.reader import ShardReader
from clipkit.errors import ConfigError, DataError
from clipkit.evaluation import (
    CaptionTranslation,
    EmbedOptions,
    Retrieval,
    RetrievalOptions,
    make_evaluator,
    open_dataset,
    outcome_metrics,
)
from clipkit.evaluation.comparison import metric_intervals
from clipkit.evaluation.evaluators.translation import pairs_by_image
from clipkit.evaluation.memory import remembering
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.evaluation_data import picture, tiny_encoder
from tests.helpers.factories import write_shard
from tests.helpers.ranks import run_ranks

PLACE = "json:caption_{language}"
WORDS = ["red", "blue", "green", "grey", "black", "red"]  # the last repeats the first


def captions(number):
    """Captions of an image by language; French and Arabic ones are missing for some."""
    word = WORDS[number]
    found = {"de": [f"ein {word}es Bild", f"Bild: {word}"], "en": f"a {word} picture"}
    if number % 2:
        found["fr"] = f"image {word}"
    if number != 3:
        found["ar"] = f"صورة {word}"
    return found


def write(folder, of_images):
    samples = [
        (f"s{number}", {"png": picture(number), "json": json.dumps(fields).encode()})
        for number, fields in enumerate(of_images)
    ]
    write_shard(folder / "0.tar", samples)
    return folder


def columns(texts):
    return {f"caption_{language}": text for language, text in texts.items()}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    rows = [columns(captions(number)) for number in range(len(WORDS))]
    return write(tmp_path_factory.mktemp("data"), rows)


@pytest.fixture(scope="module")
def encoder():
    return tiny_encoder()


def opened(root):
    return open_dataset(root, caption=LanguageCaptions(PLACE))


def texts_of(encoder, merge):
    """The texts of each language: the text, its images, its embedding."""
    found = {}
    for number in range(len(WORDS)):
        for language, given in captions(number).items():
            for text in [given] if isinstance(given, str) else given:
                of_language = found.setdefault(language, [])
                same = next((entry for entry in of_language if merge and entry[0] == text), None)
                if same is not None:
                    same[1].add(number)
                    continue
                vector = encoder.encode(texts=[text])[0][0].double()
                of_language.append((text, {number}, vector))
    return found


def looped(encoder, ks, merge=False):
    """Recall at k of each ordered pair of languages, one query and one candidate at a time."""
    languages = texts_of(encoder, merge)
    recalls = {}
    for source, queries in languages.items():
        for target, answers in languages.items():
            if source == target:
                continue
            for k in ks:
                hits = []
                for _, images, vector in queries:
                    right = [a for a in answers if a[1] & images]
                    if not right:
                        continue
                    best = max(float(a[2] @ vector) for a in right)
                    wrong = [a for a in answers if not a[1] & images]
                    before = sum(float(a[2] @ vector) >= best - 1e-9 for a in wrong)
                    hits.append(before < k)
                recalls[f"{source}_to_{target}/recall_at_{k}"] = sum(hits) / len(hits)
    return recalls


@pytest.mark.parametrize("merge", [False, True])
def test_equals_a_loop(root, encoder, merge):
    evaluator = CaptionTranslation(
        opened(root), ks=(1, 2), options=EmbedOptions(batch_size=3), merge_captions=merge
    )
    evaluation = evaluator.evaluate(encoder)
    expected = looped(encoder, (1, 2), merge)
    assert len(expected) == 4 * 3 * 2
    assert {name: evaluation.metrics[name] for name in expected} == pytest.approx(expected)
    for k in (1, 2):
        of_pairs = [value for name, value in expected.items() if name.endswith(f"_{k}")]
        mean = sum(of_pairs) / len(of_pairs)
        assert evaluation.metrics[f"recall_at_{k}"] == pytest.approx(mean)
        assert evaluation.metrics[f"worst_pair/recall_at_{k}"] == pytest.approx(min(of_pairs))
    assert len(evaluation.metrics) == len(expected) + 4
    (outcomes,) = evaluation.outcomes
    assert outcome_metrics(outcomes) == evaluation.metrics
    assert set(outcomes.groups) == {f"s{number}" for number in range(len(WORDS))}
    low, high = metric_intervals((outcomes,))["recall_at_1"]
    assert low <= evaluation.metrics["recall_at_1"] <= high


def test_a_model_that_knows_the_answer(tmp_path, encoder):
    """Texts that are equal in all languages are found, and those of two images never."""
    rows = [{"caption_de": word, "caption_he": word} for word in ("eins", "zwei", "drei")]
    data = opened(write(tmp_path / "a", rows))
    assert CaptionTranslation(data, ks=(1,)).run(encoder)["recall_at_1"] == 1
    same = opened(write(tmp_path / "b", [{"caption_de": "x", "caption_he": "x"}] * 3))
    assert CaptionTranslation(same, ks=(1,)).run(encoder)["recall_at_1"] == 0
    merged = CaptionTranslation(same, ks=(1,), merge_captions=True)
    assert merged.run(encoder)["recall_at_1"] == 1


def test_pairs_of_texts_share_an_image():
    first = torch.tensor([[0, 0], [1, 0], [2, 1]])
    second = torch.tensor([[1, 0], [0, 0], [3, 1], [2, 2]])
    assert pairs_by_image(first, second).tolist() == [[0, 0], [1, 2]]
    assert pairs_by_image(first, second[2:3]).shape == (0, 2)


def test_images_are_not_decoded(root, encoder, monkeypatch):
    data = opened(root)
    expected = CaptionTranslation(data).run(encoder)
    monkeypatch.setattr(encoder, "encode_image", None)
    assert CaptionTranslation(data).run(encoder) == expected


def test_retrieval_of_the_same_block_gives_its_embeddings(root, encoder, monkeypatch):
    data = opened(root)
    expected = CaptionTranslation(data).run(encoder)
    with remembering():
        Retrieval(data, ks=(1,)).run(encoder)
        monkeypatch.setattr(encoder, "encode_text", None)
        assert CaptionTranslation(data).run(encoder) == expected


def on_rank(rank, world_size, root):
    return CaptionTranslation(opened(root)).run(tiny_encoder())


def test_ranks_agree(root):
    expected = on_rank(0, 1, root)
    assert run_ranks(on_rank, 2, root) == [pytest.approx(expected)] * 2


def test_languages_from_a_field(tmp_path, encoder):
    texts = {"de": "ein Hund", "en": ["a dog", "dogs"], "ar": "كلب"}
    rows = [{"names": {k: v if isinstance(v, list) else f"{v} {n}" for k, v in texts.items()}}
            for n in range(2)]  # fmt: skip
    data = open_dataset(write(tmp_path, rows), caption=JsonFields({"names": 1.0}))
    by_field = CaptionTranslation(data, language_field="json:names").run(encoder)
    assert by_field == CaptionTranslation(data).run(encoder)


def test_recall_by_language_of_the_picker(root, encoder):
    """Languages of the picker are those of an object; equal texts keep their language."""
    correct = RetrievalOptions(group_field="caption:language")
    metrics = Retrieval(opened(root), ks=(1,), correct=correct).run(encoder)
    english = LanguageCaptions(PLACE, {"en": 1.0})
    alone = Retrieval(open_dataset(root, caption=english), ks=(1,)).run(encoder)
    for way in ("image_to_text", "text_to_image"):
        assert metrics[f"{way}/group/en/recall_at_1"] == pytest.approx(alone[f"{way}/recall_at_1"])
        of_groups = [v for n, v in metrics.items() if n.startswith(f"{way}/group/")]
        assert len(of_groups) == 4
        assert metrics[f"{way}/worst_group/recall_at_1"] == pytest.approx(min(of_groups))


def test_equal_captions_of_two_languages_stay_two(tmp_path, encoder):
    """A word that two languages share counts for both, also where equal captions are merged."""
    rows = [
        {"caption_de": "Taxi", "caption_en": "Taxi"},
        {"caption_de": "Rad", "caption_en": "Taxi"},
    ]
    data = opened(write(tmp_path, rows))
    options = RetrievalOptions(merge_captions=True, group_field="caption:language")
    metrics = Retrieval(data, ks=(1,), correct=options).run(encoder)
    assert metrics["text_to_image/group/en/recall_at_1"] == 1  # both images are correct
    alone = open_dataset(tmp_path, caption=LanguageCaptions(PLACE, {"de": 1.0}))
    german = Retrieval(alone, ks=(1,), correct=RetrievalOptions(merge_captions=True)).run(encoder)
    for way in ("text_to_image", "image_to_text"):
        assert metrics[f"{way}/group/de/recall_at_1"] == german[f"{way}/recall_at_1"]


def test_too_few_languages(tmp_path, encoder):
    one = write(tmp_path / "one", [{"caption_de": "ein Hund"}])
    with pytest.raises(DataError, match="at least two languages, got de"):
        CaptionTranslation(opened(one)).run(encoder)
    apart = write(tmp_path / "apart", [{"caption_de": "ein Hund"}, {"caption_en": "a dog"}])
    with pytest.raises(DataError, match="same images in at least two languages, got de, en"):
        CaptionTranslation(opened(apart)).run(encoder)


def test_captions_without_a_language(root, encoder):
    data = open_dataset(root, caption=JsonFields({"caption_en": 1.0}))
    with pytest.raises(DataError, match=r"s0: caption:language: fields caption_en .* no language"):
        CaptionTranslation(data).run(encoder)


def test_the_command_writes_a_matrix(root, tmp_path, capsys):
    model = write_checkpoint(tmp_path / "last.ckpt", tiny_encoder())
    words = ["evaluate", "--model", str(model), "--data", str(root), "--caption", PLACE]
    output, report = tmp_path / "out.json", tmp_path / "page"
    both = ["--task", "translation", "--task", "retrieval", "--group-field", "caption:language"]
    assert main([*words, *both, "--output", str(output), "--report", str(report)]) == 0
    record = json.loads(output.read_text())
    assert record["primary_metrics"]["translation"] == "translation/recall_at_1"
    assert "translation/de_to_ar/recall_at_10" in record["metrics"]
    assert "retrieval/text_to_image/group/ar/recall_at_1" in record["metrics"]
    assert "translation/worst_pair/recall_at_1" in capsys.readouterr().out
    assert main([*words, "--task", "translation", "--width", "2"]) == 2
    assert "--width: expected the task retrieval, got translation" in capsys.readouterr().err


def test_the_task_by_name(root):
    evaluator = make_evaluator("translation", root, caption=LanguageCaptions(PLACE))
    assert evaluator.primary_metric == "recall_at_1"
    with pytest.raises(ConfigError, match="did you mean 'translation'"):
        make_evaluator("translations", root)


def test_no_image_is_read(root, encoder, tmp_path, monkeypatch):
    """Captions without images give the same numbers; images that are there are left out."""
    expected = CaptionTranslation(opened(root)).run(encoder)
    rows = [columns(captions(number)) for number in range(len(WORDS))]
    samples = [(f"s{n}", {"json": json.dumps(row).encode()}) for n, row in enumerate(rows)]
    write_shard(tmp_path / "0.tar", samples)
    assert CaptionTranslation(opened(tmp_path)).run(encoder) == expected
    read, seen = ShardReader.read, []

    def watched(reader, sample_id, leave_out=()):
        raw = read(reader, sample_id, leave_out)
        seen.extend(raw.members)
        return raw

    monkeypatch.setattr(ShardReader, "read", watched)
    assert CaptionTranslation(opened(root)).run(encoder) == expected
    assert set(seen) == {"json"}
