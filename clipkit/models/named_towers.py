"""What encoders of any number of named towers have in common."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from clipkit.errors import ConfigError, check_at_least
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.encoding import encode_batches, encode_images, encode_texts
from clipkit.models.heads.label_head import LabelHead
from clipkit.models.inputs import ImageInput, SoundInput, sound_batches
from clipkit.models.multimodal_parts import (
    check_heads,
    check_pairs,
    checked_input,
    checked_width,
    given_modality,
    present_features,
    present_rows,
    spread_rows,
)
from clipkit.models.similarity_scale import SOFTMAX_LOGIT_SCALE, PairScales
from clipkit.models.tower_encoder import TowerEncoder, unit
from clipkit.models.towers.absent import NoImageTower, NoTextTower
from clipkit.models.towers.base import ImageTower, SignalTower, TextTower, Tower
from clipkit.types import Batch, Embeddings, ModalityBatch, ModalityEmbeddings

_PAIR: Final = ("image", "text")
"""Modalities whose towers are not a ``SignalTower``."""


class NamedTowerEncoder(TowerEncoder, ABC):
    """Any number of towers by name, with one embedding space (abstract).

    A tower embeds the samples that have its modality; the embedding of others is zero. A batch
    without any still runs one row, so that every rank runs every tower. Arguments are those of
    ``MultimodalEncoder``.
    """

    def __init__(
        self,
        towers: Mapping[str, Tower],
        label_heads: Mapping[str, LabelHead] | None = None,
        logit_scale: float = SOFTMAX_LOGIT_SCALE,
        logit_bias: float | None = None,
        max_logit_scale: float | None = 100.0,
        pair_scales: Sequence[str] = (),
    ) -> None:
        heads = dict(label_heads or {})
        width = checked_width(towers)
        check_heads(heads, towers, width)
        check_pairs(pair_scales, towers)
        image, text = towers.get("image"), towers.get("text")
        super().__init__(
            image if isinstance(image, ImageTower) else NoImageTower(width),
            text if isinstance(text, TextTower) else NoTextTower(width),
            heads.pop("image", None),
            logit_scale,
            logit_bias,
            max_logit_scale,
        )
        self._names = tuple(towers)
        self.modalities = tuple(name for name in towers if name not in _PAIR)
        for name in self.modalities:
            self.add_module(f"{name}_tower", towers[name])
        self.label_heads = nn.ModuleDict(heads)
        self.log_pair_scales = PairScales(pair_scales, logit_scale)

    @property
    def towers(self) -> dict[str, Tower]:
        """Towers by the name of their modality."""
        return {name: self.get_submodule(f"{name}_tower") for name in self._names}  # type: ignore[misc]

    @property
    def heads(self) -> dict[str, LabelHead]:
        """Label heads by the name of the modality that they score."""
        return {**super().heads, **self.label_heads}  # type: ignore[dict-item]

    def scale_with_text(self, name: str) -> Float[Tensor, ""]:
        """Inverse temperature of a modality with texts, linear, which may be the pair's own."""
        return self.scale_between(name, "text")

    def scale_between(self, first: str, second: str) -> Float[Tensor, ""]:
        """Inverse temperature of two modalities, linear, which may be the pair's own."""
        return self.limited(self._log_scale_between(first, second))

    @property
    def pair_scales(self) -> dict[str, Float[Tensor, ""]]:
        """Inverse temperature of each pair of modalities that has one of its own, linear."""
        return {pair: self.limited(log) for pair, log in self.log_pair_scales.items()}

    def log_scale_of(self, pair: str | None) -> nn.Parameter:
        """See ``TowerEncoder.log_scale_of``; the order of the two does not matter."""
        if pair is None:
            return self.log_logit_scale
        return self.log_pair_scales.of(pair)

    def encode_signal(self, name: str, values: Float[Tensor, "B *rest"]) -> Float[Tensor, "B D"]:
        """Embed the inputs of a further modality, with unit norm.

        Args:
            name: Name of the modality.
            values: Its inputs; each sample has one.

        Raises:
            ConfigError: If there is no such tower, or it expects another shape.
        """
        return unit(self._tower(name)(self._checked(name, values)))

    def classify_signal(self, name: str, values: Float[Tensor, "B *rest"]) -> Float[Tensor, "B C"]:
        """Compute the logits of the label head on a further modality.

        Args:
            name: Name of the modality.
            values: Its inputs; each sample has one.

        Raises:
            ConfigError: If there is no such tower or head, or the tower expects another shape.
        """
        if name not in self.label_heads:
            raise ConfigError(f"label_heads: expected a head on {name!r}, got {list(self.heads)}")
        features = self._tower(name)(self._checked(name, values))
        return self.heads[name].score(features, self.text_tower)

    def encode(
        self,
        text: Sequence[str] | None = None,
        image: Sequence[ImageInput] | None = None,
        sound: Sequence[SoundInput] | None = None,
        batch_size: int = 64,
    ) -> dict[str, Float[Tensor, "N D"]]:
        """Embed texts, images and sounds as they are, in evaluation mode and without gradients.

        Each is prepared as its tower was trained: texts by the tokenizer, images by size and
        normalisation, sounds by sample rate and spectrogram. The encoder may be on any device.

        Args:
            text: Texts; longer ones are truncated to the text tower's context length.
            image: Images of Pillow, or paths of image files.
            sound: Paths of sound files, or amplitudes of one channel with their sample rate; see
                ``encode_sounds`` for a tower of another name.
            batch_size: Inputs per forward pass of a tower.

        Returns:
            Unit-norm embeddings, float32 on the CPU, by the name of each modality that is given;
            those of an empty list are ``[0, D]``.

        Raises:
            ConfigError: If there is no tower for them, an argument has another type, or the
                tokenizer cannot be loaded.
            DataError: If an image or a sound cannot be read.

        Examples:
            >>> tower = TimmSoundTower("test_vit", encoder.embedding_dim, MelOptions(num_frames=50))
            >>> model = MultimodalEncoder({**encoder.towers, "sound": tower})
            >>> embedded = model.encode(text=["a dog", "a cat"], sound=["bark.wav"])
            >>> (embedded["sound"] @ embedded["text"].T).shape
            torch.Size([1, 2])
        """
        check_at_least("batch_size", batch_size, 1)
        encode: dict[str, Callable[[], Float[Tensor, "N D"]]] = {}
        if text is not None:
            encode["text"] = lambda: encode_texts(self, text, batch_size)
        if image is not None:
            encode["image"] = lambda: encode_images(self, image, batch_size)
        if sound is not None:
            encode["sound"] = lambda: self.encode_sounds(sound, batch_size=batch_size)
        if missing := [name for name in encode if name not in self._names]:
            raise ConfigError(
                f"{missing[0]}: expected inputs of the towers {', '.join(self._names)}, which are "
                f"those of this encoder"
            )
        return {name: embed() for name, embed in encode.items()}

    def encode_sounds(
        self, sounds: Sequence[SoundInput], name: str = "sound", batch_size: int = 64
    ) -> Float[Tensor, "N D"]:
        """Embed sounds as they are, by a tower of any name; see ``encode``.

        The piece of a longer sound, and how a shorter one is filled up, are those of the tower.

        Args:
            sounds: Paths of sound files, or amplitudes of one channel with their sample rate.
            name: Name of the modality, whose tower declares its spectrograms (``mel``).
            batch_size: Sounds per forward pass.

        Returns:
            Unit-norm embeddings, float32 on the CPU.

        Raises:
            ConfigError: If there is no such tower, it reads no sounds, or a sound has another type.
            DataError: If a sound cannot be read.

        Examples:
            >>> tower = TimmSoundTower("test_vit", encoder.embedding_dim, MelOptions(num_frames=50))
            >>> many = MultimodalEncoder({**encoder.towers, "sound": tower})
            >>> many.encode_sounds(["bark.wav"]).shape[0]
            1
        """
        check_at_least("batch_size", batch_size, 1)
        device = self.log_logit_scale.device
        return encode_batches(
            self,
            sound_batches(self._tower(name), sounds, batch_size),
            lambda values: self.encode_signal(name, values.to(device)),
        )

    def embed(
        self, batch: Batch, on_text: Callable[[Float[Tensor, "B D"]], None] | None = None
    ) -> Embeddings:
        """Run the towers' part of ``forward``; but for batch norms, samples are independent."""
        embeddings = self._embed_pairs(batch, on_text)
        features = {}
        if "text" in self.label_heads and embeddings.text is not None:
            features["text"] = embeddings.text
        modalities = {}
        for name in self.modalities:
            given = given_modality(batch, name)
            rows = present_rows(given)
            own = self._features(name, given, rows)
            modalities[name] = ModalityEmbeddings(
                spread_rows(unit(own), given, rows), given.present
            )
            if name in self.label_heads:
                features[name] = spread_rows(own, given, rows)
        return replace(
            embeddings,
            modalities=modalities,
            pair_scales=self.pair_scales,
            head_features=features,
        )

    def score(self, embeddings: Embeddings) -> Embeddings:
        """Add the logits of all label heads: the part of ``forward`` that runs once per step.

        Args:
            embeddings: Embeddings of all samples of this rank.
        """
        embeddings = super().score(embeddings)
        features = embeddings.head_features or {}
        logits = {n: self.heads[n].score(rows, self.text_tower) for n, rows in features.items()}
        return replace(embeddings, head_logits=logits)

    def limit_logit_scale(self) -> None:
        """Reset the scales to the limit if an optimizer step exceeded it."""
        super().limit_logit_scale()
        if self.max_logit_scale is not None:
            self.log_pair_scales.limit(self.max_logit_scale)

    def example_batch(self, size: int, num_tokens: int | None) -> Batch:
        """Return made-up samples that have every modality."""
        device = self.log_logit_scale.device
        modalities = {
            name: ModalityBatch(
                torch.zeros((size, *self._tower(name).input_shape), device=device),
                torch.ones(size, dtype=torch.bool, device=device),
                num_present=size,
            )
            for name in self.modalities
        }
        return replace(super().example_batch(size, num_tokens), modalities=modalities)

    def example_embeddings(self) -> Embeddings:
        """Return made-up embeddings of two samples that have every modality."""
        device = self.log_logit_scale.device
        rows = torch.eye(2, self.embedding_dim, device=device)
        present = torch.ones(2, dtype=torch.bool, device=device)
        return replace(
            super().example_embeddings(),
            modalities={name: ModalityEmbeddings(rows, present) for name in self.modalities},
            head_logits={
                name: torch.zeros(2, head.num_classes, device=device)
                for name, head in self.heads.items()
                if name != "image"
            },
        )

    def dual(self) -> DualEncoder:
        """Return image and text tower, which are shared, as an encoder of these two.

        Raises:
            ConfigError: If one of them is missing.
        """
        for name in _PAIR:
            if name not in self._names:
                raise ConfigError(
                    f"encoder: expected an image and a text tower, got {', '.join(self._names)}"
                )
        options = super().config()
        dual = DualEncoder(self.image_tower, self.text_tower, self.label_head, **options)
        dual.log_logit_scale = self._log_scale_between("image", "text")
        dual.logit_bias = self.logit_bias
        dual.image_mean, dual.image_std = self.image_mean, self.image_std  # of the weights' type
        return dual.to(self.log_logit_scale.device).train(self.training)

    def config(self) -> dict[str, Any]:
        """Return the plain arguments, without towers and heads, that rebuild this encoder."""
        return {**super().config(), "pair_scales": list(self.log_pair_scales)}

    def _log_scale_between(self, first: str, second: str) -> nn.Parameter:
        own = self.log_pair_scales.find(first, second)
        return self.log_logit_scale if own is None else own

    def _tower(self, name: str) -> SignalTower:
        if name not in self.modalities:
            raise ConfigError(
                f"encoder: expected one of the modalities {', '.join(self.modalities) or 'none'}, "
                f"got {name!r}"
            )
        tower = self.get_submodule(f"{name}_tower")
        assert isinstance(tower, SignalTower)
        return tower

    def _features(
        self, name: str, given: ModalityBatch, rows: Int64[Tensor, " present"] | None
    ) -> Float[Tensor, "present D"]:
        return present_features(self._tower(name), self._checked(name, given.values), rows)

    def _checked(self, name: str, values: Float[Tensor, "B *rest"]) -> Float[Tensor, "B *rest"]:
        return checked_input(name, self._tower(name), values).to(self.log_logit_scale.dtype)
