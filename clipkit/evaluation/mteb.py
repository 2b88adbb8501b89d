"""An encoder as a model of MTEB, the benchmark of embeddings, and of its part for images, MIEB.

``mteb`` is imported when it is needed: the module can be imported without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from clipkit.errors import ConfigError
from clipkit.evaluation.hashes import model_hash
from clipkit.models import DualEncoder
from clipkit.models.evaluating import evaluating
from clipkit.models.inputs import pixel_batches, token_batches

_NAME: Final = re.compile(r"[\w.-]+/[\w.-]+")
_REVISION_LENGTH: Final = 16

Embedded = Float[np.ndarray, "rows D"] | Float[Tensor, "rows D"]
"""Embeddings as MTEB passes them on."""


@final
class MtebEncoder:
    """An encoder with the interface that ``mteb.evaluate`` expects (``EncoderProtocol``).

    Texts, images, and documents with both are embedded; for the latter, unit-norm embeddings of
    text and image are added, as by MTEB's own models of open_clip. No prompt and no instruction is
    added to a text, except those that a task contains.

    Args:
        encoder: The model, on any device.
        name: Name in MTEB's results, "OWNER/NAME".
        revision: Version of the weights, by which MTEB finds its earlier results; None for a hash
            of the weights, so that other weights never get them.
        precision: "fp32", or autocast to "bf16" or "fp16".

    Raises:
        ConfigError: If the name has another form.

    Examples:
        >>> model = MtebEncoder(encoder, "me/colours")
        >>> batches = [{"text": ["a red square", "a dog"]}, {"text": ["a cat"]}]
        >>> model.encode(batches).shape == (3, encoder.embedding_dim)
        True
    """

    def __init__(
        self,
        encoder: DualEncoder,
        name: str,
        revision: str | None = None,
        precision: str = "fp32",
    ) -> None:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"name: expected OWNER/NAME, as on the hub, got {name!r}")
        self.encoder = encoder
        self.name = name
        self.revision = revision or (model_hash(encoder) or "unknown")[:_REVISION_LENGTH]
        self.precision = precision

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        **context: object,  # noqa: ARG002
    ) -> Float[Tensor, "rows D"]:
        """Embed the texts, images, or pairs of both of a data loader of MTEB.

        Args:
            inputs: Batches with ``text`` (texts), ``image`` (images of Pillow) or both; an image
                that is None is left out of its pair.
            context: Task, split, kind of prompt and options of other models, which change nothing.

        Returns:
            Unit-norm embeddings, float32 on the CPU.

        Raises:
            ConfigError: If a batch has neither texts nor images.
            DataError: If an image cannot be read.
        """
        rows = [torch.empty(0, self.encoder.embedding_dim)]
        with evaluating(self.encoder, self.precision):
            rows.extend(self._embed(batch).float().cpu() for batch in inputs)
        return torch.cat(rows)

    def similarity(self, embeddings1: Embedded, embeddings2: Embedded) -> Float[Tensor, "N texts"]:
        """Return the cosine similarity of each of the first with each of the second."""
        return _unit(embeddings1) @ _unit(embeddings2).T

    def similarity_pairwise(
        self, embeddings1: Embedded, embeddings2: Embedded
    ) -> Float[Tensor, " N"]:
        """Return the cosine similarity of each of the first with the one in the same row."""
        return (_unit(embeddings1) * _unit(embeddings2)).sum(-1)

    @property
    def mteb_model_meta(self) -> Any:
        """Description of the model, an ``mteb.ModelMeta``.

        Raises:
            ConfigError: If mteb is not installed.
        """
        try:
            from mteb.models.model_meta import ModelMeta, ScoringFunction
        except ImportError as error:
            raise ConfigError("MtebEncoder: needs mteb; pip install 'clipkit[mteb]'") from error
        return ModelMeta.create_empty(
            {
                "name": self.name,
                "revision": self.revision,
                "modalities": ["text", "image"],
                "embed_dim": self.encoder.embedding_dim,
                "max_tokens": self.encoder.text_tower.context_length,
                "n_parameters": sum(part.numel() for part in self.encoder.parameters()),
                "similarity_fn_name": ScoringFunction.COSINE,
                "framework": ["PyTorch"],
                "use_instructions": False,
            }
        )

    def _embed(self, batch: Mapping[str, Any]) -> Float[Tensor, "rows D"]:
        texts, images = batch.get("text"), batch.get("image")
        if texts is None and images is None:
            raise ConfigError(
                f"MTEB's task: expected batches with 'text' or 'image', got {', '.join(batch)}; "
                f"this encoder embeds texts and images"
            )
        if images is None:
            return self._embed_texts(list(texts or ()))
        if texts is None:
            return self._embed_images(images)
        pairs = self._embed_texts(list(texts))
        with_image = [row for row, image in enumerate(images) if image is not None]
        if with_image:
            pairs[with_image] += self._embed_images([images[row] for row in with_image])
        return F.normalize(pairs, dim=-1)

    def _embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "rows D"]:
        device = self.encoder.log_logit_scale.device
        (tokens,) = token_batches(self.encoder.text_tower, texts, len(texts))
        return self.encoder.encode_text(tokens.to(device))

    def _embed_images(self, images: Sequence[Any]) -> Float[Tensor, "rows D"]:
        device = self.encoder.log_logit_scale.device
        ((pixels, grids),) = pixel_batches(self.encoder.image_tower, images, len(images))
        return self.encoder.encode_image(
            pixels.to(device), None if grids is None else grids.to(device)
        )


def _unit(embeddings: Embedded) -> Float[Tensor, "rows D"]:
    return F.normalize(torch.as_tensor(embeddings).float(), dim=-1)
