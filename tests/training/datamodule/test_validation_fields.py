"""Fields that are random in training are not so in validation."""

from __future__ import annotations

import torch

from clipkit.data import (
    EvalTransform,
    OpenClipTokenizer,
    OptionalImage,
    SampleOptions,
    Sounds,
    SpecAugment,
    TrainSoundTransform,
)
from clipkit.data.samples.fields import CaptionMask
from clipkit.mel import MelOptions
from clipkit.training import PairDataModule
from clipkit.training.datamodule.options import PairOptions, ValidationOptions
from tests.helpers.factories import pair, write_shard
from tests.helpers.sounds import sound_bytes

MEL = MelOptions(
    sample_rate=8000, num_mels=12, window=128, hop=50, f_min=20.0, f_max=4000.0, num_frames=20
)


def test_options_for_evaluation():
    mask, sounds = CaptionMask(), Sounds(TrainSoundTransform(MEL, masks=SpecAugment()))
    fields = SampleOptions(label_field="json:number", fields=[mask, sounds]).for_evaluation().fields
    assert fields[0] is mask
    assert isinstance(fields[1], Sounds)
    assert fields[1].transform.crop == "centre"


def test_validation_uses_the_centre_of_sounds(tmp_path):
    data = {number: sound_bytes(0.5, seed=number) for number in range(4)}
    samples = [(f"{number}", {**pair(number), "wav": wav}) for number, wav in data.items()]
    write_shard(tmp_path / "0.tar", samples)
    sounds = Sounds(TrainSoundTransform(MEL, masks=SpecAugment()))
    transform = OptionalImage(EvalTransform(16))
    module = PairDataModule(
        train=str(tmp_path / "0.tar"),
        val=str(tmp_path / "0.tar"),
        batch_size=4,
        tokenizer=OpenClipTokenizer(context_length=16),
        samples=PairOptions(transform=transform, fields=[sounds]),
        validation=ValidationOptions(transform=transform),
    )
    module.setup("fit")
    (batch,) = module.val_dataloader()
    expected = [sounds.transform.for_evaluation().of_file(wav) for wav in data.values()]
    assert torch.equal(batch.modalities["sound"].values, torch.stack(expected))
    (batch,) = module.train_stream
    assert not torch.equal(
        batch.modalities["sound"].values.sort(0).values, torch.stack(expected).sort(0).values
    )
    module.teardown("fit")
