"""A fit that trains adapters alone, and what its checkpoint holds."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from clipkit.models import DualEncoder, load_encoder
from clipkit.training.callbacks import AddLora, ExponentialMovingAverage, SaveCheckpoint
from tests.helpers import tiny

pytestmark = pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")


def outputs(encoder: DualEncoder) -> tuple[torch.Tensor, torch.Tensor]:
    embeddings = encoder.eval()(tiny.batch())
    return embeddings.image.detach(), embeddings.text.detach()


def test_a_fit_learns_adapters_alone_and_its_checkpoint_merges_them(tmp_path):
    folder, module = tiny.shards(tmp_path / "data"), tiny.module(learning_rate=0.1)
    callbacks = [AddLora(rank=2), ExponentialMovingAverage(), SaveCheckpoint()]
    trainer = tiny.trainer(tmp_path, *callbacks, max_steps=3)
    trainer.fit(module, datamodule=tiny.data(folder))
    start = tiny.encoder().state_dict()
    for name, value in module.encoder.state_dict().items():
        plain = name.replace(".base_layer", "").replace("parametrizations.", "")
        plain = plain.removesuffix(".original")
        if "lora_" not in name and name != "log_logit_scale":
            torch.testing.assert_close(value, start[plain], msg=name)
    merged = load_encoder(tmp_path / "last.ckpt", "encoder.")
    assert merged.state_dict().keys() == start.keys()
    torch.testing.assert_close(outputs(merged), outputs(module.encoder), rtol=1e-4, atol=1e-5)
    assert load_encoder(tmp_path / "last.ckpt", "ema.").state_dict().keys() == start.keys()
    again = tiny.module()
    callbacks = [AddLora(rank=2), ExponentialMovingAverage(), SaveCheckpoint()]
    trainer = tiny.trainer(tmp_path, *callbacks, max_steps=5)
    trainer.fit(again, datamodule=tiny.data(folder), ckpt_path=tmp_path / "last.ckpt")
    assert trainer.global_step == 5
