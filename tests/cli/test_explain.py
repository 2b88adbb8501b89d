"""``clipkit explain`` from its arguments to its file."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from clipkit.cli.main import main
from clipkit.models import load_encoder, save_encoder
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
