"""The model: an image tower and a text tower with a common embedding space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, final

from jaxtyping import Float
from torch import Tensor

from clipkit.errors import ConfigError, check_at_least
from clipkit.models.encoding import encode_images, encode_texts
from clipkit.models.evaluating import evaluating
from clipkit.models.explanation.explain import Explanation, explain
from clipkit.models.heads.label_head import LabelHead
from clipkit.models.inputs import ImageInput
from clipkit.models.similarity_scale import SOFTMAX_LOGIT_SCALE
from clipkit.models.tower_encoder import TowerEncoder
from clipkit.models.towers.base import ImageTower, TextTower, Tower
from clipkit.types import Batch, Embeddings


class Encoded(NamedTuple):
    """Embeddings of texts and images, as ``DualEncoder.encode`` returns them.

    Attributes:
        texts: Unit-norm embeddings of the texts, float32 on the CPU.
        images: Unit-norm embeddings of the images, float32 on the CPU.
    """

    texts: Float[Tensor, "texts D"]
    images: Float[Tensor, "N D"]


@final
class DualEncoder(TowerEncoder):
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
        super().__init__(
            image_tower, text_tower, label_head, logit_scale, logit_bias, max_logit_scale
        )

    @property
    def towers(self) -> dict[str, Tower]:
        """Towers by the name of their modality."""
        return {"image": self.image_tower, "text": self.text_tower}

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
        check_at_least("batch_size", batch_size, 1)
        return Encoded(
            encode_texts(self, texts, batch_size), encode_images(self, images, batch_size)
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

    def embed(
        self, batch: Batch, on_text: Callable[[Float[Tensor, "B D"]], None] | None = None
    ) -> Embeddings:
        """Run the towers' part of ``forward``; but for batch norms, samples are independent."""
        return self._embed_pairs(batch, on_text)


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
