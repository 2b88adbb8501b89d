"""Floating-point operations of a training step, counted without computing anything."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from clipkit.models.named_towers import NamedTowerEncoder
from clipkit.models.tower_encoder import TowerEncoder
from clipkit.models.towers.base import SignalTower

_NUM_ITEMS: Final = 2
_DEGREE: Final = 2
"""Degree of the operations of a text as a polynomial of its length, because of attention."""


@final
class EncoderFlops:
    """Operations of the forward and backward pass of the towers, per image, text and other input.

    The similarities between all images and texts are not included, nor the fusion and word head of
    a ``JointEncoder`` and the second pass of its text tower over masked captions. Sums of these
    numbers over the time of a step give the model FLOPs utilisation, the share of what the
    device could compute (Chowdhery et al. 2022, appendix B).

    Args:
        encoder: The model, not sharded, without recomputed activations. A copy without weights is
            kept.

    Examples:
        >>> flops = EncoderFlops(encoder)
        >>> flops.text(8) < flops.text(16) < flops.image(16) + flops.text(16)
        True
    """

    def __init__(self, encoder: TowerEncoder) -> None:
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._encoder = _without_weights(encoder, self._mode)
        self._images: dict[int, float] = {}
        self._text: np.poly1d | None = None
        self._signals: dict[str, float] = {}

    def image(self, image_size: int) -> float:
        """Return the operations for an image of this height and width, in pixels."""
        if "image" not in self._encoder.towers:
            return 0.0
        if image_size not in self._images:
            shape = (_NUM_ITEMS, 3, image_size, image_size)
            self._images[image_size] = self._count(
                self._encoder.encode_image, lambda: torch.zeros(shape, dtype=torch.uint8)
            )
        return self._images[image_size]

    def text(self, num_tokens: int) -> float:
        """Return the operations for a text of this number of tokens."""
        if "text" not in self._encoder.towers:
            return 0.0
        if self._text is None:
            tower = self._encoder.text_tower
            lengths = [max(1, tower.context_length // part) for part in (1, 2, 4)]
            counts = [
                self._count(self._encoder.encode_text, partial(_tokens, length, tower.vocab_size))
                for length in lengths
            ]
            self._text = np.poly1d(np.polyfit(lengths, counts, min(_DEGREE, len({*lengths}) - 1)))
        return float(self._text(num_tokens))

    def signal(self, name: str) -> float:
        """Return the operations for an input of a further modality, by its name."""
        tower = self._encoder.towers.get(name)
        if not isinstance(tower, SignalTower) or not isinstance(self._encoder, NamedTowerEncoder):
            return 0.0
        if name not in self._signals:
            shape = (_NUM_ITEMS, *tower.input_shape)
            self._signals[name] = self._count(
                partial(self._encoder.encode_signal, name), lambda: torch.zeros(shape)
            )
        return self._signals[name]

    def follow(self, encoder: TowerEncoder) -> bool:
        """Take over which parameters are trainable.

        Returns:
            Whether the model still has the parameters that it had.
        """
        trainable = {name: value.requires_grad for name, value in encoder.named_parameters()}
        copied = dict(self._encoder.named_parameters())
        if trainable.keys() != copied.keys():
            return False
        if any(copied[name].requires_grad != value for name, value in trainable.items()):
            for name, value in trainable.items():
                copied[name].requires_grad_(value)
            self._images.clear()
            self._signals.clear()
            self._text = None
        return True

    def _count(self, encode: Callable[[Tensor], Tensor], make: Callable[[], Tensor]) -> float:
        # Attention is counted as matrix products: fused kernels are not known on every device.
        with (
            self._mode,
            torch.enable_grad(),
            torch.compiler.set_stance("force_eager"),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            embeddings = encode(make())
            trainable = [value for value in self._encoder.parameters() if value.requires_grad]
            if embeddings.requires_grad:
                torch.autograd.grad(embeddings.sum(), trainable, allow_unused=True)
        return float(counter.get_total_flops()) / _NUM_ITEMS


def _tokens(num_tokens: int, vocab_size: int) -> Int64[Tensor, "B S"]:
    return torch.full((_NUM_ITEMS, num_tokens), vocab_size - 1)


def _without_weights(encoder: TowerEncoder, mode: FakeTensorMode) -> TowerEncoder:
    """Copy an encoder with parameters and buffers that have a shape, but no memory."""
    memo: dict[int, object] = {}
    with mode:
        for buffer in encoder.buffers():
            memo[id(buffer)] = torch.empty(buffer.shape, dtype=buffer.dtype)
        for value in encoder.parameters():
            empty = torch.empty(value.shape, dtype=value.dtype)
            memo[id(value)] = nn.Parameter(empty, requires_grad=value.requires_grad)
    return copy.deepcopy(encoder, memo)
