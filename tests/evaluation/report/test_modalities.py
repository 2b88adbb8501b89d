"""Galleries of all modalities: players, spectrograms, and what hostile captions and sounds do."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from clipkit.data import EvalSoundTransform, Sounds
from clipkit.data.audio.previews import encoded_clip
from clipkit.evaluation import (
    Retrieval,
    RetrievalOptions,
    ZeroShotClassification,
    open_dataset,
)
from clipkit.evaluation.report import (
    ClassifiedImage,
    Classifier,
    Examples,
    ReportData,
    SoundClip,
    Thumbnail,
    evaluate_with_report,
    render_report,
)
from clipkit.evaluation.report.collect.sound_clips import SoundClips
from clipkit.evaluation.report.evaluated import measure
from tests.helpers import heard
from tests.helpers.factories import write_shard

HOSTILE = '"><script>alert(1)</script>\u202e <audio src=x onerror=alert(1)>'
AUDIO = re.compile(r'<audio controls preload="none" src="data:([\w/]+);base64,([^"]+)"')
SPECTROGRAM = re.compile(r'<img src="data:image/webp;base64,([^"]+)" alt="(Spectrogram: [^"]*)" lo')


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    samples = [(f"{n:04d}", heard.sample(n)) for n in range(12)]
    samples[0][1]["txt"] = HOSTILE.encode()
    write_shard(folder / "test.tar", samples)
    evaluators = {"retrieval": Retrieval(folder / "test.tar", ks=(1, 5))}
    evaluate_with_report(heard.encoder(), evaluators, folder, title="Sounds")
    return (folder / "report.html").read_text(encoding="utf-8")


def test_each_ordered_pair_has_a_panel_and_a_cell(page):
    for first in heard.MODALITIES:
        for second in heard.MODALITIES:
            assert (f">{first.capitalize()} to {second}</button>" in page) == (first != second)
    assert "retrieval: from query (row) to target (column), R@1, percent" in page
    assert "retrieval: samples that have both, and that lack one" in page


def test_images_with_captions_are_shown_where_other_samples_lack_one(page):
    """8 of the 12 samples have an image and a caption."""
    have_both = [n for n in range(12) if {"jpg", "txt"} <= heard.sample(n).keys()]
    assert len(have_both) == 8
    for section in ("gallery", "errors", "recall", "map", "health"):
        assert f'<section id="{section}"' in page
    assert "All 8 images." in page
    assert "test.tar, without 4 samples that lack an image or a caption (8 images, seed 0)" in page


def test_sounds_are_players_of_the_sound_with_its_spectrogram(page):
    players = AUDIO.findall(page)
    assert len(players) >= 4 * 8  # sounds as queries and as hits
    for media_type, data in players[:3]:
        assert media_type == "audio/mpeg"
        wave, rate = soundfile.read(io.BytesIO(base64.b64decode(data)))
        assert rate == 24_000
        assert 0.15 < len(wave) / rate < 0.4  # 0.2 s and the padding of the coder
    pictures = SPECTROGRAM.findall(page)
    assert len(pictures) == len(players)
    assert Image.open(io.BytesIO(base64.b64decode(pictures[0][0]))).size == (160, 64)
    assert all(re.search("number|^Spectrogram: 00", alt) or "script" in alt for _, alt in pictures)


def test_the_page_is_one_file_whose_policy_lets_no_script_of_a_caption_run(page):
    assert "default-src 'none'; img-src data:; media-src data:;" in page
    assert "<script>alert" not in page
    assert "<audio src=x" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert not re.search(r'\b(src|href)="(?!data:|#)', page)


def test_clips_are_bounded_each_and_together(tmp_path):
    rng = np.random.default_rng(0)
    noise = io.BytesIO()
    soundfile.write(noise, rng.uniform(-1, 1, 8000 * 20), 8000, format="WAV")
    samples = [(str(n), {"wav": noise.getvalue()}) for n in range(3)]
    write_shard(tmp_path / "noise.tar", samples)
    data, field = open_dataset(tmp_path / "noise.tar"), Sounds(EvalSoundTransform(heard.MEL))
    clip = SoundClips(data, field, {})[0]
    wave, rate = soundfile.read(io.BytesIO(clip.data))
    assert len(wave) / rate == pytest.approx(5, abs=0.2)
    size = len(clip.data)
    assert size <= 64 * 2**10
    few = SoundClips(data, field, {}, max_bytes=2 * size + 10)
    assert [bool(few[n].data) for n in (0, 1, 2, 0)] == [True, True, False, False]
    short, _ = encoded_clip(rng.uniform(-1, 1, 80_000).astype(np.float32), 16_000, 8_000)
    assert 0 < len(short) <= 8_000


def test_without_mp3_sounds_are_wav(monkeypatch):
    monkeypatch.setattr(soundfile, "available_formats", lambda: {"WAV": "WAV"})
    data, media_type = encoded_clip(np.zeros(8000, np.float32), 16_000, 64 * 2**10)
    assert media_type == "audio/wav"
    assert soundfile.info(io.BytesIO(data)).duration == pytest.approx(0.5)
    assert encoded_clip(np.zeros(0, np.float32), 16_000, 1)[1] == "audio/wav"


def test_a_classified_sound_has_a_player_or_says_why_not():
    picture = Thumbnail(b"webp", "Spectrogram: <b>")
    clips = [SoundClip(b"mp3", "audio/mpeg", picture, "<b>"), SoundClip(b"", "", picture, "<b>")]
    hits = [ClassifiedImage(picture, "dog", "dog", 1, 0.9, sound=clip) for clip in clips]
    page = render_report(
        ReportData("Sounds", examples=Examples(classifiers=[Classifier("zero-shot", hits=hits)]))
    )
    assert len(AUDIO.findall(page)) == 1
    assert 'aria-label="Sound: &lt;b&gt;"' in page
    assert "Not included, because the page has many sounds." in page


def test_a_zero_shot_classifier_of_sounds_plays_its_hits_and_errors(tmp_path):
    write_shard(tmp_path / "four.tar", [(str(n), heard.sample(n)) for n in (0, 2, 3, 5)])
    data = open_dataset(tmp_path / "four.tar", modality="sound")
    evaluators = {"zero-shot": ZeroShotClassification(data, class_names=heard.COLOURS)}
    evaluate_with_report(heard.encoder(), evaluators, tmp_path, title="Sounds")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(AUDIO.findall(page)) == 4
    assert "of 4 sounds are classified correctly" in page


def test_images_with_captions_alone_have_what_two_towers_have(tmp_path):
    samples = [
        (str(n), {name: heard.sample(n)[name] for name in ("jpg", "txt", "cls")})
        for n in (0, 2, 3, 5, 9)
    ]
    write_shard(tmp_path / "images.tar", samples)
    encoder = heard.encoder()
    found, expected = (
        measure(model, {"retrieval": Retrieval(tmp_path / "images.tar", ks=(1,))})
        for model in (encoder, encoder.dual())
    )
    assert found.embedded is not None
    assert expected.embedded is not None
    (_, pairs), (_, of_two) = found.embedded, expected.embedded
    assert torch.allclose(pairs.images, of_two.images, atol=1e-6)
    assert torch.allclose(pairs.texts, of_two.texts, atol=1e-6)
    assert torch.equal(pairs.labels, of_two.labels)
    assert (pairs.keys, pairs.captions) == (of_two.keys, of_two.captions)
    assert torch.equal(pairs.text_to_image, of_two.text_to_image)
    examples, same = found.examples(), expected.examples()
    assert examples.recalls == same.recalls
    for name in ("gallery", "errors", "map", "health", "explanations"):
        assert bool(getattr(examples, name)) == bool(getattr(same, name)), name
    assert examples.gallery
    assert len(examples.explanations) == len(same.explanations)
    assert examples.modalities


def test_a_report_of_merged_captions_and_few_samples(tmp_path):
    write_shard(tmp_path / "two.tar", [(str(n), heard.sample(0)) for n in range(2)])
    correct = RetrievalOptions(merge_captions=True)
    evaluators = {"retrieval": Retrieval(tmp_path / "two.tar", ks=(1,), correct=correct)}
    metrics = evaluate_with_report(heard.encoder(), evaluators, tmp_path, title="Two")
    assert metrics["retrieval"]["sound_to_image/recall_at_1"] == 1
