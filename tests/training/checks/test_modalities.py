"""Fields whose values are not those that a tower reads."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest

from clipkit.data import EvalSoundTransform, Group, Sounds, TrainSoundTransform
from clipkit.errors import ConfigError
from clipkit.mel import MelOptions
from clipkit.models import TcnTower, with_towers
from clipkit.training.checks.modalities import check_modalities
from tests.helpers import tiny
from tests.helpers.series import Series, SeriesTower

MEL = MelOptions(sample_rate=8000, f_max=4000, hop=160, window=512, num_mels=32, num_frames=50)


@pytest.fixture(scope="module")
def encoder():
    towers = {"series": SeriesTower(), "sound": TcnTower(16, MEL, width=8, num_blocks=1)}
    return with_towers(tiny.encoder(), towers)


def test_equal_parameters_and_fields_without_a_tower_are_accepted(encoder):
    fields = [Group(), Series(), Sounds(EvalSoundTransform(MEL)), Sounds(name="speech")]
    fields += [Sounds(TrainSoundTransform(MEL)), Sounds(TrainSoundTransform(MEL, crop="centre"))]
    check_modalities(encoder, fields)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_rate": 16000}, "got mel.sample_rate 16000 instead of 8000; use the same"),
        ({"unit": "natural"}, "got mel.unit natural instead of decibel"),
        (
            {"crop": "start", "padding": "zero"},
            "mel.crop start .*, mel.padding zero instead of repeat",
        ),
        ({"num_frames": 40, "f_min": 0.0}, r"got mel.f_min 0.0 instead of 50.0, mel.num_frames 40"),
    ],
)
def test_another_parameter_of_the_spectrogram_is_refused(encoder, changes, message):
    with pytest.raises(ConfigError, match=f"'sound': expected .* sound_tower .*{message}"):
        check_modalities(encoder, [Sounds(EvalSoundTransform(replace(MEL, **changes)))])


@pytest.mark.parametrize("options", [{"crop": "start"}, {"padding": "repeat-zero"}])
def test_a_piece_that_evaluation_would_not_read_is_refused(encoder, options):
    (name, value) = next(iter(options.items()))
    with pytest.raises(ConfigError, match=f"got mel.{name} {value} instead of .*; use the"):
        check_modalities(encoder, [Sounds(TrainSoundTransform(MEL, **options))])


@pytest.mark.parametrize(("rate", "message"), [(50, ""), (100, "got hertz 50 instead of 100")])
def test_an_option_that_field_and_tower_of_a_new_modality_declare_is_compared(
    monkeypatch, encoder, rate, message
):
    monkeypatch.setattr(Series, "value_options", lambda self: {"hertz": 50, "sensors": 2})
    monkeypatch.setattr(SeriesTower, "value_options", lambda self: {"hertz": rate, "width": 8})
    with pytest.raises(ConfigError, match=message) if message else nullcontext():
        check_modalities(encoder, [Series()])


def test_another_shape_is_refused(encoder):
    with pytest.raises(
        ConfigError, match=r"Series of 'series': .* shape \(2, 8\), .* got \(2, 9\)"
    ):
        check_modalities(encoder, [Series(length=9)])


def test_a_tower_without_spectrograms_needs_the_shape_alone():
    tower = TcnTower(16, input_shape=(32, 50), width=8, num_blocks=1)
    check_modalities(
        with_towers(tiny.encoder(), {"sound": tower}), [Sounds(EvalSoundTransform(MEL))]
    )
