"""Floating-point operations of a training step, counted without computing anything."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from clipkit.models.joint.joint_encoder import JointEncoder
from clipkit.models.named_towers import NamedTowerEncoder
from clipkit.models.tower_encoder import TowerEncoder
from clipkit.models.towers.base import SignalTower
from clipkit.token_sequences import TokenSequence

_NUM_ITEMS: Final = 2
_DEGREE: Final = 2
"""Degree of the operations of a text as a polynomial of its length, because of attention."""


@final
class EncoderFlops:
    """Operations of the forward and backward pass of the towers, per image, text and other input.

    Also of a pass of the fusion of a ``JointEncoder``, and of the word head per predicted word. The
    similarities between all images and texts are not included. Sums of these
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
        self._fusions: dict[int, np.poly1d] = {}
        self._word: float | None = None

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
            encode, vocab_size = self._encoder.encode_text, self._encoder.text_tower.vocab_size
            self._text = self._by_length(
                lambda length: self._count(encode, partial(_tokens, length, vocab_size))
            )
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

    def fusion(self, image_size: int, num_tokens: int) -> float:
        """Return the operations of a pass of the fusion, from tokens of towers to the matching.

        Args:
            image_size: Height and width of images, in pixels, if images are fused.
            num_tokens: Tokens of a text, if texts are fused.
        """
        joint = self._encoder
        if not isinstance(joint, JointEncoder):
            return 0.0
        if image_size not in self._fusions:
            self._fusions[image_size] = self._by_length(
                partial(self._count_fusion, joint, image_size)
            )
        return float(self._fusions[image_size](num_tokens))

    def word(self) -> float:
        """Return the operations of the word head for a word that is predicted."""
        joint = self._encoder
        if not isinstance(joint, JointEncoder) or joint.word_head is None:
            return 0.0
        if self._word is None:
            shape = (_NUM_ITEMS, joint.fusion.width)
            self._word = self._count(
                lambda states: joint.predict_words(states.clone()),
                lambda: torch.zeros(shape, requires_grad=True),
            )
        return self._word

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
            self._fusions.clear()
            self._text = self._word = None
        return True

    def _by_length(self, count: Callable[[int], float]) -> np.poly1d:
        """Return operations as a polynomial of the number of tokens of a text."""
        if "text" not in self._encoder.towers:
            return np.poly1d([count(1)])
        context_length = self._encoder.text_tower.context_length
        lengths = [max(1, context_length // part) for part in (1, 2, 4)]
        degree = min(_DEGREE, len({*lengths}) - 1)
        return np.poly1d(np.polyfit(lengths, [count(length) for length in lengths], degree))

    def _count_fusion(self, joint: JointEncoder, image_size: int, num_tokens: int) -> float:
        with self._mode, torch.no_grad(), torch.compiler.set_stance("force_eager"):
            read = {
                name: self._read(joint, name, image_size, num_tokens) for name in joint.fused_names
            }
        for name, sequence in read.items():
            is_trained = any(value.requires_grad for value in joint.towers[name].parameters())
            sequence.values.requires_grad_(is_trained)
        given = [one.values for one in read.values() if one.values.requires_grad]

        def matched(_: Tensor) -> Tensor:
            # copies: the counter cannot follow leaves of the graph that modules get
            copies = {n: TokenSequence(one.values.clone(), one.mask) for n, one in read.items()}
            return joint.match(joint.fuse(copies).pooled)

        return self._count(matched, lambda: torch.zeros(()), given)

    def _read(
        self, joint: JointEncoder, name: str, image_size: int, num_tokens: int
    ) -> TokenSequence:
        """Return the tokens of artificial inputs of a modality."""
        if name == "text":
            return joint.read_text(_tokens(num_tokens, joint.text_tower.vocab_size)).tokens
        if name == "image":
            shape = (_NUM_ITEMS, 3, image_size, image_size)
            return joint.read_image(torch.zeros(shape, dtype=torch.uint8)).tokens
        tower = joint.towers[name]
        assert isinstance(tower, SignalTower)
        return joint.read_signal(name, torch.zeros(_NUM_ITEMS, *tower.input_shape)).tokens

    def _count(
        self,
        encode: Callable[[Tensor], Tensor],
        make: Callable[[], Tensor],
        inputs: Sequence[Tensor] = (),
    ) -> float:
        """Count a forward pass, and the backward pass to what is trained and to inputs."""
        # Attention is counted as matrix products: fused kernels are not known on every device.
        with (
            self._mode,
            torch.enable_grad(),
            torch.compiler.set_stance("force_eager"),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            given = make()
            embeddings = encode(given)
            everything: list[Tensor] = [*self._encoder.parameters(), given, *inputs]
            wanted = [value for value in everything if value.requires_grad]
            if embeddings.requires_grad:
                torch.autograd.grad(embeddings.sum(), wanted, allow_unused=True)
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
