"""The model: an image tower and a text tower with a common embedding space."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from clipkit.errors import ConfigError
from clipkit.models.evaluating import evaluating
from clipkit.models.explanation.explain import Explanation, explain
from clipkit.models.heads.label_head import LabelHead
from clipkit.models.inputs import ImageInput, pixel_batches, token_batches
from clipkit.models.towers.base import ImageTower, TextTower
from clipkit.models.towers.freezing import keep_locked_in_evaluation
from clipkit.types import Batch, Embeddings, NegativeBatch

Images = (
    UInt8[Tensor, "B 3 H W"]
    | Float[Tensor, "B 3 H W"]
    | UInt8[Tensor, "B patches values"]
    | Float[Tensor, "B patches values"]
)
"""Pixels in uint8 or normalised, as images or as patches of images (``clipkit.types.Batch``)."""
_PATCHES_NDIM = 3
SOFTMAX_LOGIT_SCALE = 1 / 0.07
"""Initial scale for the softmax loss (Radford et al. 2021, section 2.5)."""


class Encoded(NamedTuple):
    """Embeddings of texts and images, as ``DualEncoder.encode`` returns them.

    Attributes:
        texts: Unit-norm embeddings of the texts, float32 on the CPU.
        images: Unit-norm embeddings of the images, float32 on the CPU.
    """

    texts: Float[Tensor, "M D"]
    images: Float[Tensor, "N D"]


@final
class DualEncoder(nn.Module):
    """Two towers, the scale of the similarities, and optionally a label head.

    The initial values depend on the loss: 1/0.07 without a bias for the softmax loss, 10 with a
    bias of -10 for the sigmoid loss (Zhai et al. 2023, section 3.2). If ``logit_bias`` is None,
    the encoder was built for the softmax loss.

    Args:
        image_tower: Tower that embeds images.
        text_tower: Tower that embeds texts, with the same ``embedding_dim``.
        label_head: Head that scores classes from image embeddings; None for no head.
        logit_scale: Initial inverse temperature, linear.
        logit_bias: Initial bias that is added to the scaled similarities; None for no bias.
        max_logit_scale: Upper limit of the scale; None for no limit.

    Attributes:
        log_logit_scale: Scalar parameter: the logarithm of ``logit_scale``.
        logit_bias: A scalar parameter, or None.

    Raises:
        ConfigError: If the parts do not fit together.

    Examples:
        >>> size = encoder.image_tower.image_size
        >>> images = torch.zeros(2, 3, size, size, dtype=torch.uint8)
        >>> encoder.encode_image(images).shape == (2, encoder.embedding_dim)
        True
    """

    image_mean: Tensor
    image_std: Tensor

    def __init__(
        self,
        image_tower: ImageTower,
        text_tower: TextTower,
        label_head: LabelHead | None = None,
        logit_scale: float = SOFTMAX_LOGIT_SCALE,
        logit_bias: float | None = None,
        max_logit_scale: float | None = 100.0,
    ) -> None:
        _check_parts(image_tower, text_tower, label_head)
        _check_scale(logit_scale, max_logit_scale)
        super().__init__()
        self.image_tower = image_tower
        self.text_tower = text_tower
        self.label_head = label_head
        self.max_logit_scale = max_logit_scale
        self._start = (logit_scale, logit_bias)
        self.log_logit_scale = nn.Parameter(torch.tensor(math.log(logit_scale)))
        self.logit_bias = (
            None if logit_bias is None else nn.Parameter(torch.tensor(float(logit_bias)))
        )
        self._memory_format = best_memory_format(image_tower)
        image_tower.to(memory_format=self._memory_format)
        for name in ("image_mean", "image_std"):
            values = torch.tensor(getattr(image_tower, name)).view(3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    @property
    def embedding_dim(self) -> int:
        """Number of components of an embedding."""
        return self.image_tower.embedding_dim

    @property
    def logit_scale(self) -> Float[Tensor, ""]:
        """Inverse temperature, linear, at most ``max_logit_scale``."""
        log: Tensor = self.log_logit_scale
        if self.max_logit_scale is not None:
            # not torch.clamp: at the limit rounding alone would make it drop the gradient
            log = log - (log - math.log(self.max_logit_scale)).clamp(min=0).detach()
        return log.exp()

    def train(self, mode: bool = True) -> DualEncoder:
        """Set training or evaluation mode; locked towers stay in evaluation mode."""
        super().train(mode)
        if mode:
            keep_locked_in_evaluation(self)
        return self

    def set_logit_scale(self, scale: float) -> None:
        """Set the scale, as a schedule does.

        Args:
            scale: Inverse temperature, linear.

        Raises:
            ConfigError: If it is not positive, or exceeds ``max_logit_scale``.
        """
        _check_scale(scale, self.max_logit_scale)
        with torch.no_grad():
            self.log_logit_scale.fill_(math.log(scale))

    def limit_logit_scale(self) -> None:
        """Reset the parameter to the limit if an optimizer step exceeded it.

        ``forward`` does this while training. Limiting only the value that the loss sees would
        leave the parameter without a gradient above the limit, so that it could not decrease.
        """
        if self.max_logit_scale is not None:
            with torch.no_grad():
                self.log_logit_scale.clamp_(max=math.log(self.max_logit_scale))

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
        return _unit(self._image_features(images, grids))

    def encode_text(self, tokens: Int64[Tensor, "B S"]) -> Float[Tensor, "B D"]:
        """Embed texts, with unit norm.

        Args:
            tokens: Token ids, padded with the text tower's ``pad_id``.
        """
        return _unit(self.text_tower(tokens))

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

    def encode(
        self, texts: Sequence[str] = (), images: Sequence[ImageInput] = (), batch_size: int = 64
    ) -> Encoded:
        """Embed texts and images as they are, in evaluation mode and without gradients.

        Texts are encoded by the text tower's tokenizer. Images are turned upright by their EXIF
        orientation, and resized and normalised as the image tower was trained. The encoder may be
        on any device.

        Args:
            texts: Texts; longer ones are truncated to the text tower's context length.
            images: Images of Pillow, or paths of image files.
            batch_size: Texts or images per forward pass of a tower.

        Returns:
            Unit-norm embeddings of the texts and of the images, float32 on the CPU.

        Raises:
            ConfigError: If an argument has another type, or the tokenizer cannot be loaded.
            DataError: If an image cannot be read.

        Examples:
            >>> texts, images = encoder.encode(["a dog", "a cat"], ["dog.jpg"])
            >>> (images @ texts.T).shape
            torch.Size([1, 2])
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size: expected at least 1, got {batch_size}")
        device = self.log_logit_scale.device
        with evaluating(self):
            tokens = token_batches(self.text_tower, texts, batch_size)
            pixels = pixel_batches(self.image_tower, images, batch_size)
            text = [self.encode_text(batch.to(device)) for batch in tokens]
            image = [
                self.encode_image(images.to(device), None if grids is None else grids.to(device))
                for images, grids in pixels
            ]
        empty = torch.empty(0, self.embedding_dim)
        return Encoded(
            torch.cat([empty, *[part.float().cpu() for part in text]]),
            torch.cat([empty, *[part.float().cpu() for part in image]]),
        )

    def explain(self, image: ImageInput, text: str, method: str = "auto") -> Explanation:
        """Explain the similarity of an image and a text: which patches and which words carry it.

        Relevance is computed from gradients, in evaluation mode; parameters, their gradients and
        modules are not changed. Words are explained by attention, or by occlusion with that method.

        Args:
            image: Image of Pillow, or the path of an image file.
            text: Text; a longer one is truncated to the text tower's context length.
            method: "attention": gradient-weighted attention rollout of a transformer or of
                attention pooling (Chefer et al. 2021, arXiv:2103.15679). "grad_cam": Grad-CAM of
                the last convolution (Selvaraju et al. 2017, arXiv:1610.02391). "occlusion": drop of
                the similarity without a part of the image or a word, for any tower; slower. "auto":
                "attention" or "grad_cam", whichever fits the image tower.

        Returns:
            Heat map, weights of words and cosine similarity.

        Raises:
            ConfigError: If an argument has another type, the text has no word, or the method does
                not fit a tower.
            DataError: If the image cannot be read.
            MetricError: If the similarity is not finite.

        Examples:
            >>> explanation = encoder.explain("dog.jpg", "a blue square")
            >>> explanation.heat_map.shape, [word for word, _ in explanation.words]
            (torch.Size([2, 2]), ['a', 'blue', 'square'])
        """
        with evaluating(self):
            return explain(self, image, text, method)

    def forward(
        self, batch: Batch, on_text: Callable[[Float[Tensor, "B D"]], None] | None = None
    ) -> Embeddings:
        """Embed a batch and compute everything that a loss needs.

        Args:
            batch: Images and texts on the encoder's device; negatives are embedded in the same
                passes. Without tokens, the text tower is not called.
            on_text: Function that gets the embeddings of the texts, which are computed first,
                before the image tower runs.

        Returns:
            Unit-norm embeddings, scale and bias, and the logits of the label head, if any.
        """
        return self.score(self.embed(batch, on_text))

    def embed(
        self, batch: Batch, on_text: Callable[[Float[Tensor, "B D"]], None] | None = None
    ) -> Embeddings:
        """Run the towers' part of ``forward``; but for batch norms, samples are independent."""
        images, num_images = batch.images, len(batch.images)
        negatives = batch.negatives or NegativeBatch()
        text, negative_text = self._embed_texts(batch.tokens, negatives.tokens)
        if on_text is not None and text is not None:
            on_text(text)
        if negatives.images is not None:
            images = torch.cat([images, negatives.images])
        features = self._image_features(images, batch.grids)
        image = _unit(features)
        return Embeddings(
            image=image[:num_images],
            text=text,
            logit_scale=self.logit_scale,
            logit_bias=self.logit_bias,
            negative_image=None if negatives.images is None else image[num_images:],
            negative_text=negative_text,
            image_features=None if self.label_head is None else features[:num_images],
        )

    def _embed_texts(
        self, tokens: Int64[Tensor, "B S"] | None, negatives: Int64[Tensor, "L Z"] | None
    ) -> tuple[Float[Tensor, "B D"] | None, Float[Tensor, "L D"] | None]:
        """Embed texts and negative texts in one pass; None for absent ones."""
        if tokens is None:
            return None, None
        if negatives is None:
            return self.encode_text(tokens), None
        text = self.encode_text(_cat_tokens(tokens, negatives, self.text_tower.pad_id))
        return text[: len(tokens)], text[len(tokens) :]

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

    def config(self) -> dict[str, Any]:
        """Return the plain arguments, without towers and head, that rebuild this encoder."""
        logit_scale, logit_bias = self._start
        return {
            "logit_scale": logit_scale,
            "logit_bias": logit_bias,
            "max_logit_scale": self.max_logit_scale,
        }


def best_memory_format(image_tower: nn.Module) -> torch.memory_format:
    """Return channels_last for convolutional towers, where it is faster."""
    num_convolutions = sum(isinstance(module, nn.Conv2d) for module in image_tower.modules())
    return torch.channels_last if num_convolutions > 1 else torch.contiguous_format


def _unit(features: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
    """Normalise rows in at least float32: half precision would change ties and recalls."""
    if features.dtype in (torch.float16, torch.bfloat16):
        features = features.float()
    return F.normalize(features, dim=-1)


def _cat_tokens(
    tokens: Int64[Tensor, "B S"], more: Int64[Tensor, "L Z"], pad_id: int
) -> Int64[Tensor, "N Y"]:
    # pad_sequence would copy row by row, with one kernel per row
    longest = max(tokens.shape[1], more.shape[1])
    return torch.cat(
        [F.pad(part, (0, longest - part.shape[1]), value=pad_id) for part in (tokens, more)]
    )


def _check_parts(image: ImageTower, text: TextTower, head: LabelHead | None) -> None:
    if image.embedding_dim != text.embedding_dim:
        raise ConfigError(
            f"embedding_dim: the towers must agree, got {image.embedding_dim} from the image "
            f"tower and {text.embedding_dim} from the text tower; set the same for both"
        )
    if head is not None and head.embedding_dim != image.embedding_dim:
        raise ConfigError(
            f"label_head.embedding_dim: expected the towers' {image.embedding_dim}, "
            f"got {head.embedding_dim}"
        )


def _check_scale(logit_scale: float, max_logit_scale: float | None) -> None:
    if logit_scale <= 0:
        raise ConfigError(
            f"logit_scale: expected the linear scale, more than 0, got {logit_scale} "
            f"(a logarithm must be exponentiated)"
        )
    if max_logit_scale is not None and logit_scale > max_logit_scale:
        raise ConfigError(
            f"logit_scale: expected at most max_logit_scale = {max_logit_scale}, got {logit_scale}"
        )
