"""``clipkit explain`` from its arguments to its file."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from clipkit.cli.main import main
from clipkit.models import (
    CrossAttentionFusion,
    explain_matching,
    load_encoder,
    load_joint_encoder,
    save_encoder,
    with_fusion,
)
from tests.helpers import sound_collections, tiny
from tests.helpers.factories import image_bytes
from tests.helpers.sounds import encoded, tone

TEXT = "a <red> square"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.ckpt"
    save_encoder(tiny.encoder(), path)
    return path


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(image_bytes("red"))
    return path


@pytest.mark.parametrize("method", ["auto", "attention", "occlusion"])
def test_png(model, photo, tmp_path, capsys, method):
    output = tmp_path / "new" / "out.png"
    words = ["explain", str(model), str(photo), TEXT, "--output", str(output)]
    assert main([*words, "--method", method, "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = load_encoder(model).explain(photo, TEXT, method)
    assert [line.split()[1] for line in lines[:-1]] == TEXT.split()
    assert lines[0].split()[0] == f"{expected.words[0].weight:.2f}"
    assert lines[-1].startswith(f"similarity {expected.score:.4f}, by {expected.method}: ")
    assert Image.open(io.BytesIO(output.read_bytes())).format == "PNG"


def test_html_escapes_the_text(model, photo, tmp_path):
    output = tmp_path / "out.html"
    assert main(["explain", str(model), str(photo), TEXT, "--output", str(output)]) == 0
    page = output.read_text()
    assert "&lt;red&gt;" in page
    assert "<red>" not in page
    assert page.count("data:image/webp") >= 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.jpg", TEXT, "--output", "a.png"], "image: none.jpg: cannot be read"),
        (["PHOTO", " ", "--output", "a.png"], "text: expected a text of at least one word"),
        (["PHOTO", TEXT, "--output", "a.gif"], "--output: expected a name that ends in .png"),
        (["PHOTO", TEXT, "--output", "a.png", "--method", "grad_cam"], "use 'attention'"),
    ],
)
def test_errors_leave_no_file(model, photo, tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    words = [str(photo) if word == "PHOTO" else word for word in words]
    assert main(["explain", str(model), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(tmp_path.glob("a.*"))


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    save_encoder(sound_collections.encoder(), folder / "model")
    (folder / "bark.ogg").write_bytes(encoded(tone(1.0), kind="OGG"))
    return folder


@pytest.mark.parametrize("ending", ["png", "html"])
def test_a_sound_is_explained_over_its_spectrogram(sounds, tmp_path, capsys, ending):
    output = tmp_path / f"out.{ending}"
    words = [str(sounds / "model"), str(sounds / "bark.ogg"), TEXT, "--output", str(output)]
    assert main(["explain", *words, "--device", "cpu"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(f", by occlusion: {output}")
    if ending == "png":
        assert Image.open(io.BytesIO(output.read_bytes())).format == "PNG"
        return
    page = output.read_text()
    assert page.count("data:audio/mpeg") == page.count("<audio controls") == 1
    assert "media-src data:" in page
    assert page.count("data:image/webp") >= 2


def test_sounds_that_cannot_be_explained(model, sounds, tmp_path, capsys):
    words = [str(sounds / "bark.ogg"), TEXT, "--output", str(tmp_path / "a.png")]
    assert main(["explain", str(model), *words]) == 2
    assert "is a sound, and the model" in capsys.readouterr().err
    (sounds / "bad.wav").write_bytes(b"RIFF\0\0\0\0WAVEfmt ")
    words[0] = str(sounds / "bad.wav")
    assert main(["explain", str(sounds / "model"), *words]) == 2
    assert "bad.wav: " in capsys.readouterr().err
    assert not list(tmp_path.glob("*.png"))


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    """A fusion of images and texts in a folder."""
    path = tmp_path_factory.mktemp("joint") / "model"
    save_encoder(with_fusion(tiny.encoder(), CrossAttentionFusion(16, 2, 2)), path)
    return path


@pytest.mark.parametrize("ending", ["png", "html"])
def test_a_joint_encoder_explains_its_matching_logit(joint, photo, tmp_path, capsys, ending):
    output = tmp_path / f"out.{ending}"
    words = ["explain", str(joint), str(photo), TEXT, "--output", str(output), "--device", "cpu"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = explain_matching(load_joint_encoder(joint), photo, TEXT).caption
    assert lines[-1] == f"matching logit {expected.score:.4f}, by attention: {output}"
    assert [line.split()[1] for line in lines[:-1]] == TEXT.split()
    if ending == "png":
        image = Image.open(io.BytesIO(output.read_bytes()))
        assert main([*words, "--score", "similarity"]) == 0
        assert capsys.readouterr().out.splitlines()[-1].startswith("similarity ")
        assert Image.open(io.BytesIO(output.read_bytes())).height < image.height - 100
        return
    page = output.read_text()
    assert "Matching logit" in page
    assert page.count("data:image/webp") == 2 + len(TEXT.split())


def test_a_fusion_of_sounds(photo, sounds, tmp_path, capsys):
    encoder = sound_collections.encoder()
    fusion = CrossAttentionFusion(16, 2, 2, context=["sound"])
    save_encoder(with_fusion(encoder, fusion), tmp_path / "model")
    for ending in ("png", "html"):
        words = ["explain", str(tmp_path / "model"), str(sounds / "bark.ogg"), TEXT]
        assert main([*words, "--output", str(tmp_path / f"a.{ending}")]) == 0
        assert capsys.readouterr().out.splitlines()[-1].startswith("matching logit ")
    assert (tmp_path / "a.html").read_text().count("<audio controls") == 1
    words = ["explain", str(tmp_path / "model"), str(photo), TEXT, "--output"]
    assert main([*words, str(tmp_path / "b.png")]) == 0  # which are not fused
    assert capsys.readouterr().out.splitlines()[-1].startswith("similarity ")
    assert main([*words, str(tmp_path / "b.png"), "--score", "matching"]) == 2
    assert "fusion of text and image alone, got" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--score", "matching"], "--score matching: expected a model with a fusion of text and"),
        (["--layer", "0"], "--layer: expected --score matching"),
    ],
)
def test_options_of_a_fusion_need_one(model, photo, tmp_path, capsys, options, message):
    words = ["explain", str(model), str(photo), TEXT, "--output", str(tmp_path / "a.png")]
    assert main([*words, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(tmp_path.glob("a.*"))
