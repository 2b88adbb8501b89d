"""Output of an encoder for a batch."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from clipkit.errors import ConfigError
from clipkit.token_sequences import JointStage, TokenSequence


@dataclass(slots=True)
class ModalityEmbeddings:
    """Embeddings of one modality of a batch.

    Args:
        values: Unit-norm embeddings; zeros where the modality is absent.
        present: Which samples have the modality.
    """

    values: Float[Tensor, "B D"]
    present: Bool[Tensor, " B"]


@dataclass(slots=True)
class Embeddings:
    """Output of an encoder for a batch: the input of the losses.

    Args:
        image: Unit-norm embeddings of the images; zeros for an encoder without an image tower.
        text: Unit-norm embeddings of the captions; None if the batch has no tokens.
        logit_scale: Inverse temperature, linear (not its logarithm).
        logit_bias: Added to the scaled similarities by the sigmoid loss; None without one.
        label_logits: Scores of the classes; None without a label head.
        negative_image: Unit-norm embeddings of images that match no caption of the batch.
        negative_text: Unit-norm embeddings of captions that match no image of the batch.
        image_features: Output of the image tower before normalisation, the input of a label head;
            None without a head.
        image_present: Which samples have an image; None: all.
        text_present: Which samples have a caption; None: all.
        modalities: Embeddings of further modalities by name; None without one.
        pair_scales: Inverse temperature of a pair of modalities, by ``"first:second"``, that has
            one of its own; None if all pairs have ``logit_scale``.
        head_features: Output of other towers, the input of the label heads on them, by the name of
            the modality; None without such a head.
        head_logits: Scores of the classes by the label heads on other towers, by the name of the
            modality; None without such a head.
        tokens: Token sequences of the modalities that a joint encoder fuses, by name; None without
            a fusion.
        joint: Fusion and its heads, which terms of the objective call; None without a fusion.
    """

    image: Float[Tensor, "B D"]
    text: Float[Tensor, "B D"] | None
    logit_scale: Float[Tensor, ""]
    logit_bias: Float[Tensor, ""] | None = None
    label_logits: Float[Tensor, "B C"] | None = None
    negative_image: Float[Tensor, "negative_images D"] | None = None
    negative_text: Float[Tensor, "negative_texts D"] | None = None
    image_features: Float[Tensor, "B D"] | None = None
    image_present: Bool[Tensor, " B"] | None = None
    text_present: Bool[Tensor, " B"] | None = None
    modalities: dict[str, ModalityEmbeddings] | None = None
    pair_scales: dict[str, Float[Tensor, ""]] | None = None
    head_features: dict[str, Float[Tensor, "B D"]] | None = None
    head_logits: dict[str, Float[Tensor, "B C"]] | None = None
    tokens: dict[str, TokenSequence] | None = None
    joint: JointStage | None = None

    def of(self, name: str) -> tuple[Float[Tensor, "B D"], Bool[Tensor, " B"] | None]:
        """Return the embeddings of a modality, and which samples have it; None for all.

        Args:
            name: "image", "text", or the name of a further modality.

        Raises:
            ConfigError: If the encoder has no such tower.
        """
        pairs = {"image": (self.image, self.image_present), "text": (self.text, self.text_present)}
        further = {n: (one.values, one.present) for n, one in (self.modalities or {}).items()}
        size = max(
            len(rows) for rows, _ in (*pairs.values(), *further.values()) if rows is not None
        )
        known = {
            known_name: (rows, present)
            for known_name, (rows, present) in {**pairs, **further}.items()
            if rows is not None and len(rows) == size
        }
        if name not in known:
            raise ConfigError(
                f"embeddings: expected those of {name!r}, got {', '.join(known)}; the encoder "
                f"needs a {name}_tower, and the batch its input"
            )
        return known[name]

    def scale_of(self, first: str, second: str) -> Float[Tensor, ""]:
        """Return the inverse temperature of a pair of modalities, linear."""
        own = self.pair_scales or {}
        shared = own.get(f"{second}:{first}", self.logit_scale)
        return own.get(f"{first}:{second}", shared)
