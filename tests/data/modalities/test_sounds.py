"""Sounds of samples in a stream: presence, faults, exact resumes, validation without randomness."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from clipkit.data import (
    EvalSoundTransform,
    FaultOptions,
    OpenClipTokenizer,
    OptionalImage,
    OrderOptions,
    PairStream,
    RandomNoise,
    SampleOptions,
    ShardIndex,
    Sounds,
    SpecAugment,
    TrainSoundTransform,
    WebDatasetShards,
    WebDatasetSource,
)
from clipkit.data.text.captions import JsonFields
from clipkit.errors import ConfigError
from clipkit.mel import MelOptions
from tests.helpers.factories import pair, write_shard
from tests.helpers.sounds import encoded, sound_bytes, tone

MEL = MelOptions(
    sample_rate=8000, num_mels=12, window=128, hop=50, f_min=20.0, f_max=4000.0, num_frames=20
)
KINDS = ("wav", "flac", "ogg", "mp3")


def sound(number: int) -> dict[str, bytes]:
    """A sound of some format and rate; every fifth sample has none."""
    if number % 5 == 4:
        return {}
    kind, rate = KINDS[number % 4], (8000, 16_000)[number % 2]
    return {kind: encoded(tone(0.1 + 0.05 * number, rate, seed=number), rate, kind.upper())}


def write(folder, sizes=(7, 6), changed=None):
    changed, number = changed or {}, 0
    for shard, size in enumerate(sizes):
        samples = []
        for _ in range(size):
            samples.append(
                (f"{number:04d}", {**pair(number), **changed.get(number, sound(number))})
            )
            number += 1
        write_shard(folder / f"{shard}.tar", samples)
    return str(folder)


def stream(folder, on_error="skip", **options):
    transform = TrainSoundTransform(
        MEL, augmentations=[RandomNoise()], masks=SpecAugment(1, 4, 1, 3)
    )
    defaults = {
        "tokenizer": OpenClipTokenizer(context_length=16),
        "batch_size": 4,
        "image_size": 16,
        "samples": SampleOptions(fields=[Sounds(transform, on_error=on_error)]),
    }
    return PairStream(ShardIndex.from_urls(folder), **{**defaults, **options})


def by_key(batches):
    return {
        key: (batch.modalities["sound"].values[at], bool(batch.modalities["sound"].present[at]))
        for batch in batches
        for at, key in enumerate(batch.keys)
    }


def test_samples_with_and_without_a_sound(tmp_path):
    batches = list(stream(write(tmp_path), order=OrderOptions(tail="keep")))
    seen = by_key(batches)
    assert len(seen) == 13
    for key, (values, is_present) in seen.items():
        assert is_present == (int(key) % 5 != 4)
        assert values.shape == (12, 20)
        assert bool(values.any()) == is_present


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resume_makes_the_same_spectrograms(tmp_path, num_workers):
    folder = write(tmp_path)
    complete, first = list(stream(folder)), stream(folder, num_workers=num_workers)
    for at, batch in enumerate(first):
        first.commit(batch)
        if at == 0:
            break
    state = first.state_dict()
    first.close()
    resumed = stream(folder, num_workers=num_workers)
    resumed.load_state_dict(json.loads(json.dumps(state)))
    rest = list(resumed)
    resumed.close()
    assert [batch.keys for batch in rest] == [batch.keys for batch in complete[1:]]
    for batch, expected in zip(rest, complete[1:], strict=True):
        assert torch.equal(batch.images, expected.images)
        assert torch.equal(batch.tokens, expected.tokens)
        sounds, others = batch.modalities["sound"], expected.modalities["sound"]
        assert torch.equal(sounds.values, others.values)
        assert torch.equal(sounds.present, others.present)


def test_every_epoch_has_other_pieces(tmp_path):
    source = stream(write(tmp_path), order=OrderOptions(tail="keep"))
    first = by_key(source)
    source.set_epoch(1)
    second = by_key(source)
    assert any(not torch.equal(first[key][0], second[key][0]) for key in first)


@pytest.mark.parametrize("on_error", ["skip", "absent"])
def test_a_broken_sound_leaves_out_its_sample_or_only_itself(tmp_path, on_error, caplog):
    flac = encoded(tone(1.0))
    broken = {2: {"flac": flac[:-2000]}, 6: {"mp3": b"no sound"}, 7: {"wav": b""}}
    folder = write(tmp_path, changed=broken)
    options = FaultOptions(max_bad_fraction=1.0)
    source = stream(folder, on_error, faults=options, order=OrderOptions(shuffle=False))
    seen = by_key(source)
    assert "0006: sound: member mp3: not a sound of a known format" in caplog.text
    assert "0007: sound: member wav: sound is empty (0 bytes)" in caplog.text
    keys = {f"{number:04d}" for number in broken}
    if on_error == "skip":
        assert not keys & seen.keys()
    else:
        assert len(seen) == 13
        assert all(not seen[key][1] and not seen[key][0].any() for key in ("0006", "0007"))


def test_sounds_without_images(tmp_path):
    """Shards of CLAP: FLAC and JSON, and nothing else."""
    samples = [
        (f"{number}", {"flac": encoded(tone(0.3, seed=number)), "json": b'{"text": ["a tone"]}'})
        for number in range(4)
    ]
    write_shard(tmp_path / "0.tar", samples)
    fields = [Sounds(EvalSoundTransform(MEL))]
    source = PairStream(
        ShardIndex.from_urls(str(tmp_path)),
        tokenizer=OpenClipTokenizer(context_length=16),
        batch_size=4,
        image_transform=OptionalImage(),
        samples=SampleOptions(JsonFields({"text": 1.0}), fields=fields),
    )
    (batch,) = source
    assert batch.captions == ("a tone",) * 4
    assert batch.modalities["sound"].present.all()
    assert batch.modalities["sound"].values.std(dim=(1, 2)).gt(0).all()


def test_sounds_without_an_index(tmp_path):
    """``WebDatasetSource`` makes the same spectrograms of the same samples."""
    folder = write(tmp_path)
    fields = [Sounds(EvalSoundTransform(MEL))]
    options = {"tokenizer": OpenClipTokenizer(context_length=16), "batch_size": 13}
    options |= {"image_size": 16, "samples": SampleOptions(fields=fields)}
    sequential = WebDatasetSource(WebDatasetShards(folder, num_samples=13), **options)
    exact = by_key(PairStream(ShardIndex.from_urls(folder), **options))
    seen = by_key(sequential)
    assert seen.keys() == exact.keys()
    for key, (values, is_present) in seen.items():
        assert torch.equal(values, exact[key][0])
        assert is_present == exact[key][1]


def test_evaluation_draws_nothing(tmp_path):
    data = sound_bytes(0.5)
    transform = TrainSoundTransform(MEL, padding="zero", masks=SpecAugment())
    sounds = Sounds(transform, "bark", ["wav"], "absent").for_evaluation()
    assert (sounds.name, sounds.members, sounds.on_error) == ("bark", ("wav",), "absent")
    expected = EvalSoundTransform(MEL, padding="zero").of_file(data)
    assert torch.equal(sounds.read(data, None), expected)
    start = Sounds(TrainSoundTransform(MEL, crop="start")).for_evaluation()
    assert torch.equal(start.read(data, None), EvalSoundTransform(MEL, "start").of_file(data))


@pytest.mark.parametrize("package", ["soundfile", "soxr"])
def test_missing_packages_end_a_run_before_it_begins(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"need {package}.*clipkit\[audio\]"):
        Sounds()
