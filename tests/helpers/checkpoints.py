"""Checkpoints of small encoders, and their comparison."""

import torch

from clipkit.models.checkpoints.encoder import encoder_entry
from tests.helpers.tiny_models import batch


def write_checkpoint(path, model, **changes):
    """What a training run leaves, as far as the encoder is concerned."""
    state = {f"encoder.{name}": value for name, value in model.state_dict().items()}
    entry = {**encoder_entry(model), "tokenizer": None, "config": {"a": [1, 2]}}
    torch.save({"clipkit": entry, "state_dict": state, "epoch": 1, **changes}, path)
    return path


@torch.no_grad()
def assert_equal(first, second):
    ours, theirs = first.eval()(batch()), second.eval()(batch())
    torch.testing.assert_close(ours.image, theirs.image)
    torch.testing.assert_close(ours.text, theirs.text)
    torch.testing.assert_close(ours.logit_scale, theirs.logit_scale)
    torch.testing.assert_close(ours.label_logits, theirs.label_logits)
