"""Operations of the towers against a count of real passes, and against a formula."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from clipkit.models import from_open_clip, with_towers
from clipkit.models.flops import EncoderFlops
from clipkit.training.callbacks.performance.throughput import _operations
from tests.helpers import tiny
from tests.helpers.series import SeriesTower


def counted(encode, inputs, parameters):
    """Operations of a real pass with attention as matrix products."""
    backend = torch.nn.attention.SDPBackend.MATH
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(backend):
        encode(inputs).sum().backward()
    for parameter in parameters:
        parameter.grad = None
    return counter.get_total_flops() / len(inputs)


def test_operations_are_those_of_real_passes():
    encoder = tiny.encoder()
    flops = EncoderFlops(encoder)
    images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    assert flops.image(16) == counted(encoder.encode_image, images, encoder.parameters())
    for length in (3, 7, 16):
        tokens = torch.full((2, length), 49407)
        wanted = counted(encoder.encode_text, tokens, encoder.parameters())
        assert flops.text(length) == pytest.approx(wanted)
    assert all(value.grad is None for value in encoder.parameters())


def test_vit_b32_has_the_published_operations():
    """open_clip's model profile: 14.78 GFLOPs forward, a multiplication with addition as two."""
    with torch.device("meta"):
        encoder = from_open_clip("ViT-B-32")
    flops = EncoderFlops(encoder)
    total = flops.image(224) + flops.text(77)
    # the last image block computes the class token only, and pixels need no gradient
    assert 0.93 < total / (3 * 14.78e9) < 1.0


def test_frozen_towers_have_no_backward_pass():
    encoder = tiny.encoder()
    flops = EncoderFlops(encoder)
    before, text = flops.image(16), flops.text(8)
    encoder.image_tower.requires_grad_(False)
    assert flops.follow(encoder)
    assert flops.image(16) < before / 2
    assert flops.text(8) == text
    encoder.image_tower.added = nn.Linear(2, 2)
    assert not flops.follow(encoder)


def test_further_towers_count():
    tower = SeriesTower()
    encoder = with_towers(tiny.encoder(), {"series": tower})
    flops = EncoderFlops(encoder)
    encode = partial(encoder.encode_signal, "series")
    wanted = counted(encode, torch.zeros(2, *tower.input_shape), encoder.parameters())
    assert flops.signal("series") == wanted > 0
    assert flops.signal("sound") == 0
    assert EncoderFlops(tiny.encoder()).signal("series") == 0
    tower.requires_grad_(False)
    assert flops.follow(encoder)
    assert flops.signal("series") < wanted


def test_a_batch_counts_the_samples_that_have_a_modality():
    encoder = with_towers(tiny.encoder(), {"series": SeriesTower()})
    flops, batch = EncoderFlops(encoder), encoder.example_batch(4, num_tokens=8)
    before = 4 * (flops.image(16) + flops.text(8))
    assert _operations(flops, batch) == pytest.approx(before + 4 * flops.signal("series"))
    batch.modalities["series"].num_present = 1
    assert _operations(flops, batch) == pytest.approx(before + flops.signal("series"))
