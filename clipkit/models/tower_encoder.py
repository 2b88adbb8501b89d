"""What every encoder has: towers with one embedding space, and the scale of similarities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from clipkit.errors import ConfigError
from clipkit.models.heads.label_head import LabelHead
from clipkit.models.similarity_scale import ScaledSimilarities
from clipkit.models.towers.base import ImageTower, TextTower, Tower
from clipkit.models.towers.freezing import keep_locked_in_evaluation
from clipkit.types import IGNORE_LABEL, Batch, Embeddings, NegativeBatch

Images = (
    UInt8[Tensor, "B 3 H W"]
    | Float[Tensor, "B 3 H W"]
    | UInt8[Tensor, "B patches values"]
    | Float[Tensor, "B patches values"]
)
"""Pixels in uint8 or normalised, as images or as patches of images (``clipkit.types.Batch``)."""
_PATCHES_NDIM = 3


class TowerEncoder(ScaledSimilarities, ABC):
    """Towers with a common embedding space, the scale of similarities, and a label head (abstract).

    Training, checkpoints and callbacks use this interface alone. A subclass has its towers as
    ``NAME_tower``.

    Args:
        image_tower: Tower that embeds images.
        text_tower: Tower that embeds texts.
        label_head: Head that scores classes from image embeddings; None for no head.
        logit_scale: Initial inverse temperature, linear.
        logit_bias: Initial bias that is added to the scaled similarities; None for no bias.
        max_logit_scale: Upper limit of the scale; None for no limit.

    Attributes:
        log_logit_scale: Scalar parameter: the logarithm of ``logit_scale``.
        logit_bias: A scalar parameter, or None.

    Raises:
        ConfigError: If the scale is not positive, or above its limit.
    """

    image_mean: Tensor
    image_std: Tensor

    def __init__(
        self,
        image_tower: ImageTower,
        text_tower: TextTower,
        label_head: LabelHead | None,
        logit_scale: float,
        logit_bias: float | None,
        max_logit_scale: float | None,
    ) -> None:
        super().__init__(logit_scale, logit_bias, max_logit_scale)
        self.image_tower = image_tower
        self.text_tower = text_tower
        self.label_head = label_head
        self._memory_format = best_memory_format(image_tower)
        image_tower.to(memory_format=self._memory_format)
        for name in ("image_mean", "image_std"):
            values = torch.tensor(getattr(image_tower, name)).view(3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    @property
    @abstractmethod
    def towers(self) -> dict[str, Tower]:
        """Towers by the name of their modality, such as "image"."""

    def tower_named(self, name: str) -> Tower:
        """Return a tower by the name of its part, such as "image_tower".

        Raises:
            ConfigError: If there is no such tower.
        """
        towers = {f"{modality}_tower": tower for modality, tower in self.towers.items()}
        if name not in towers:
            raise ConfigError(f"tower: expected {' or '.join(towers)}, got {name!r}")
        return towers[name]

    @property
    def heads(self) -> dict[str, LabelHead]:
        """Label heads by the name of the modality that they score."""
        return {} if self.label_head is None else {"image": self.label_head}

    @abstractmethod
    def embed(
        self, batch: Batch, on_text: Callable[[Float[Tensor, "B D"]], None] | None = None
    ) -> Embeddings:
        """Run the towers' part of ``forward``; but for batch norms, samples are independent."""

    def example_batch(self, size: int, num_tokens: int | None) -> Batch:
        """Return made-up samples on the encoder's device, to measure a step before a run.

        Args:
            size: Number of samples.
            num_tokens: Number of tokens of a caption; None for no captions.
        """
        device, pixels = self.log_logit_scale.device, self.image_tower.image_size
        tokens = None
        if num_tokens is not None:
            last = self.text_tower.vocab_size - 1
            tokens = torch.full((size, num_tokens), last, device=device)
        return Batch(
            images=torch.zeros(size, 3, pixels, pixels, dtype=torch.uint8, device=device),
            tokens=tokens,
            labels=torch.full((size,), IGNORE_LABEL, device=device),
            keys=("",) * size,
        )

    def example_embeddings(self) -> Embeddings:
        """Return made-up embeddings of two samples, with which a loss is checked before a run."""
        device, head = self.log_logit_scale.device, self.label_head
        rows = torch.eye(2, self.embedding_dim, device=device)
        return Embeddings(
            image=rows if "image" in self.towers else rows[:0],
            text=rows if "text" in self.towers else None,
            logit_scale=self.logit_scale.detach(),
            logit_bias=None if self.logit_bias is None else self.logit_bias.detach(),
            label_logits=None if head is None else torch.zeros(2, head.num_classes, device=device),
        )

    @property
    def embedding_dim(self) -> int:
        """Number of components of an embedding."""
        return self.image_tower.embedding_dim

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; locked towers stay in evaluation mode."""
        super().train(mode)
        if mode:
            keep_locked_in_evaluation(self)
        return self

    def normalize(
        self, images: Images
    ) -> Float[Tensor, "B 3 H W"] | Float[Tensor, "B patches values"]:
        """Normalise pixels as the image tower expects, on their device.

        Args:
            images: Pixels in uint8; floating-point values are taken as already normalised.

        Returns:
            Normalised pixels in the model's floating-point type.
        """
        if images.dtype == torch.uint8:
            mean, std = self.image_mean.float(), self.image_std.float()
            if images.ndim == _PATCHES_NDIM:  # with the colours of a pixel side by side
                repeats = images.shape[-1] // 3
                mean, std = mean.flatten().repeat(repeats), std.flatten().repeat(repeats)
            images = images.float().div_(255).sub_(mean).div_(std)
        images = images.to(self.image_mean.dtype)
        return images.contiguous(memory_format=self._memory_format)

    def encode_image(
        self, images: Images, grids: Int64[Tensor, "B 2"] | None = None
    ) -> Float[Tensor, "B D"]:
        """Embed images, with unit norm.

        Args:
            images: Pixels in uint8, or floating-point values that are already normalised.
            grids: Rows and columns of patches of each image, if the images are patches.

        Raises:
            ConfigError: If the image tower reads no patches.
        """
        return unit(self._image_features(images, grids))

    def encode_text(self, tokens: Int64[Tensor, "B S"]) -> Float[Tensor, "B D"]:
        """Embed texts, with unit norm.

        Args:
            tokens: Token ids, padded with the text tower's ``pad_id``.
        """
        return unit(self.text_tower(tokens))

    def classify(
        self, images: Images, grids: Int64[Tensor, "B 2"] | None = None
    ) -> Float[Tensor, "B C"]:
        """Compute the label head's logits for images; arguments as for ``encode_image``.

        Raises:
            ConfigError: If the encoder has no label head.
        """
        if self.label_head is None:
            raise ConfigError("label_head: this encoder has none, so it cannot classify")
        return self.label_head.score(self._image_features(images, grids), self.text_tower)

    def forward(
        self, batch: Batch, on_text: Callable[[Float[Tensor, "B D"]], None] | None = None
    ) -> Embeddings:
        """Embed a batch and compute everything that a loss needs.

        Args:
            batch: Inputs on the encoder's device; negatives are embedded in the same passes.
                Without tokens, the text tower is not called.
            on_text: Function that gets the embeddings of the texts, which are computed first,
                before the other towers run.

        Returns:
            Unit-norm embeddings, scale and bias, and the logits of label heads, if any.
        """
        return self.score(self.embed(batch, on_text))

    def score(self, embeddings: Embeddings) -> Embeddings:
        """Add the label head's logits: the part of ``forward`` that runs once per step.

        Args:
            embeddings: Embeddings of all samples of this rank.
        """
        if self.training:
            self.limit_logit_scale()
        if self.label_head is None:
            return embeddings
        assert embeddings.image_features is not None, "embed() returns them if there is a head"
        logits = self.label_head.score(embeddings.image_features, self.text_tower)
        return replace(embeddings, label_logits=logits)

    def _image_features(
        self, images: Images, grids: Int64[Tensor, "B 2"] | None
    ) -> Float[Tensor, "B D"]:
        """Embed images, not of unit norm."""
        if grids is not None and self.image_tower.budget is None:
            raise ConfigError(
                f"image_tower: {type(self.image_tower).__name__} reads images of one shape, got "
                f"patches of images of any shape; use clipkit.models.TimmNaFlexTower, or the "
                f"transforms TrainTransform and EvalTransform"
            )
        more = () if grids is None else (grids,)
        features: Tensor = self.image_tower(self.normalize(images), *more)
        return features

    def _embed_pairs(
        self, batch: Batch, on_text: Callable[[Float[Tensor, "B D"]], None] | None
    ) -> Embeddings:
        """Embed texts, then images, as far as the encoder has towers for them."""
        has_image, has_text = ("image" in self.towers), ("text" in self.towers)
        negatives = batch.negatives or NegativeBatch()
        tokens = batch.tokens if has_text else None
        text, negative_text = self._embed_texts(tokens, negatives.tokens)
        if on_text is not None and text is not None:
            on_text(text)
        embeddings = Embeddings(
            image=self.log_logit_scale.new_zeros((0, self.embedding_dim)),
            text=text,
            logit_scale=self.logit_scale,
            logit_bias=self.logit_bias,
            negative_text=negative_text,
            image_present=batch.image_present,
            text_present=batch.text_present,
        )
        if not has_image:
            return embeddings
        images, num_images = batch.images, len(batch.images)
        if negatives.images is not None:
            images = torch.cat([images, negatives.images])
        features = self._image_features(images, batch.grids)
        image = unit(features)
        return replace(
            embeddings,
            image=image[:num_images],
            negative_image=None if negatives.images is None else image[num_images:],
            image_features=None if self.label_head is None else features[:num_images],
        )

    def _embed_texts(
        self,
        tokens: Int64[Tensor, "B S"] | None,
        negatives: Int64[Tensor, "negatives negative_tokens"] | None,
    ) -> tuple[Float[Tensor, "B D"] | None, Float[Tensor, "negatives D"] | None]:
        """Embed texts and negative texts in one pass; None for absent ones."""
        if tokens is None:
            return None, None
        if negatives is None:
            return self.encode_text(tokens), None
        text = self.encode_text(_cat_tokens(tokens, negatives, self.text_tower.pad_id))
        return text[: len(tokens)], text[len(tokens) :]


def best_memory_format(image_tower: nn.Module) -> torch.memory_format:
    """Return channels_last for convolutional towers, where it is faster."""
    num_convolutions = sum(isinstance(module, nn.Conv2d) for module in image_tower.modules())
    return torch.channels_last if num_convolutions > 1 else torch.contiguous_format


def unit(features: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
    """Normalise rows in at least float32: half precision would change ties and recalls."""
    if features.dtype in (torch.float16, torch.bfloat16):
        features = features.float()
    return F.normalize(features, dim=-1)


def _cat_tokens(
    tokens: Int64[Tensor, "B S"], more: Int64[Tensor, "negatives negative_tokens"], pad_id: int
) -> Int64[Tensor, "N longest"]:
    # pad_sequence would copy row by row, with one kernel per row
    longest = max(tokens.shape[1], more.shape[1])
    return torch.cat(
        [F.pad(part, (0, longest - part.shape[1]), value=pad_id) for part in (tokens, more)]
    )
