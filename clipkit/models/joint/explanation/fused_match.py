"""Which parts of an input carry the matching logit with a text, for each word and for all."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.errors import ConfigError
from clipkit.models.explanation.gradients import with_gradients
from clipkit.models.explanation.match import ExplainedInput, checked_score
from clipkit.models.explanation.occlusion import occlude_image
from clipkit.models.explanation.recording import ForwardRecorder
from clipkit.models.explanation.relevance import as_grid
from clipkit.models.explanation.words import find_tokens, find_words
from clipkit.models.inputs import token_batches, tokenizer_of
from clipkit.models.joint.explanation.fused_attention import (
    attended,
    check_fusion,
    layers_of,
    words_and_patches,
    words_attend,
)
from clipkit.models.joint.joint_encoder import JointEncoder
from clipkit.models.joint.pair_scores import pair_scores
from clipkit.token_sequences import TokenSequence


class FusedRelevance(NamedTuple):
    """Relevance before scaling.

    Attributes:
        heat_map: Of each part of the input, to all words.
        word_maps: The same to each word.
        words: Of each word.
        logit: Matching logit.
        method: "attention" or "occlusion".
    """

    heat_map: Float[Tensor, "rows columns"]
    word_maps: Float[Tensor, "words rows columns"]
    words: Float[Tensor, " words"]
    logit: float
    method: str


class FusedMatch(NamedTuple):
    """An input and a text, as a joint encoder reads them; in evaluation mode."""

    joint: JointEncoder
    input: ExplainedInput
    text: str

    def explained(self, method: str, layer: int | None) -> FusedRelevance:
        """Explain by "attention" or "occlusion".

        "auto" is attention where it can be read and the words attend, and occlusion elsewhere: in a
        fusion whose patches attend to words, maps by attention are no better than a random patch.

        Raises:
            ConfigError: If the fusion is not one of the text and the input, or the method does not
                fit it.
            MetricError: If the logit is not finite.
        """
        names, name = self.joint.fused_names, self.input.name
        if {*names} != {"text", name}:
            raise ConfigError(
                f"explain: expected a fusion of text and {name} alone, got one of "
                f"{', '.join(names)}"
            )
        if method == "occlusion" and layer is not None:
            raise ConfigError("layer: expected the method 'attention', got 'occlusion'")
        if method == "attention" or layer is not None:
            self._check_attention(layer)
            return self.by_attention(layer)
        if method == "auto" and words_attend(self.joint.fusion):
            with suppress(ConfigError):
                self._check_attention(None)
                return self.by_attention()
        return self.by_occlusion()

    def by_attention(self, layer: int | None = None) -> FusedRelevance:
        """Compute relevance from the attention of the fusion and its gradients.

        Args:
            layer: Number of the layer from 0; None for the sum over all layers.
        """
        fusion, given = self.joint.fusion, self.input
        with with_gradients():
            with torch.no_grad():
                texts, read = self._texts([self.text]), self._read(given.values, given.grids)
            with ForwardRecorder() as seen:
                fused = self.joint.fuse({"text": texts, given.name: read})
                logit = self.joint.match(fused.pooled)[0]
            score = checked_score(logit, given.name, "logit")
            layers = layers_of(fusion, seen.attentions)
            between, pooling = (_relevance(logit, own, layer) for own in layers)
        lengths = {"text": texts.values.shape[1], given.name: read.values.shape[1]}
        block = words_and_patches(fusion, given.name, lengths).of(between, pooling)
        maps = as_grid(block, given.grids, given.token_grid)
        of_tokens = maps[1:]  # without the summary
        words = torch.stack([of_tokens[place].sum(0) for place in self._word_tokens()])
        return FusedRelevance(maps.sum(0), words, words.sum((1, 2)), score, "attention")

    def by_occlusion(self) -> FusedRelevance:
        """Measure the drop of the logit without each cell, and how much of it is due to each word.

        What is due to a word is the drop with the text minus the drop with the text without it.
        """
        given, words = self.input, find_words(self.text)
        tokens = self._word_tokens()
        read = [number for number, own in enumerate(tokens) if own.start < own.stop]
        shorter = [self.text[: words[n].start] + self.text[words[n].stop :] for n in read]
        with torch.no_grad():
            texts = self._texts([self.text, *shorter])
            logits = self._logits(given.values, given.grids, texts)[0]
            score = checked_score(logits[0], given.name, "logit")
            drops = occlude_image(
                given.values,
                given.grids,
                lambda values, grids: self._logits(values, grids, texts),
            )
        maps = drops.new_zeros(len(words), *drops.shape[:2])
        maps[read] = (drops[..., :1] - drops[..., 1:]).movedim(-1, 0)
        weights = drops.new_zeros(len(words))
        weights[read] = logits[0] - logits[1:]
        return FusedRelevance(drops[..., 0], maps, weights, score, "occlusion")

    def _check_attention(self, layer: int | None) -> None:
        """Refuse a fusion without readable attention, or a tower whose tokens have no grid."""
        check_fusion(self.joint.fusion, layer)
        if self.input.name != "image" and self.input.token_grid is None:
            raise ConfigError(
                f"{self.input.name}_tower: {type(self.input.tower).__name__} does not keep the "
                f"positions of its tokens, which 'attention' needs; use the method 'occlusion'"
            )

    def _read(self, values: Tensor, grids: Int64[Tensor, "B 2"] | None) -> TokenSequence:
        if self.input.name == "image":
            return self.joint.read_image(values, grids).tokens
        return self.joint.read_signal(self.input.name, values.squeeze(1)).tokens

    def _texts(self, texts: Sequence[str]) -> TokenSequence:
        (tokens,) = token_batches(self.joint.text_tower, texts, len(texts))
        return self.joint.read_text(tokens.to(self.input.values.device)).tokens

    def _logits(
        self, values: Tensor, grids: Int64[Tensor, "B 2"] | None, texts: TokenSequence
    ) -> Float[Tensor, "B texts"]:
        """Return the logit of each input with each text."""
        read, device = self._read(values, grids), values.device
        pairs = torch.cartesian_prod(
            torch.arange(len(values), device=device),
            torch.arange(len(texts.values), device=device),
        )
        name = self.input.name
        return pair_scores(self.joint, read, texts, pairs, first=name).view(len(values), -1)

    def _word_tokens(self) -> list[slice]:
        """Return the position of the tokens of each word; a truncated word has none."""
        return find_tokens(self.text, tokenizer_of(self.joint.text_tower).encode)


def _relevance(
    logit: Float[Tensor, ""], layers: list[Tensor], layer: int | None
) -> Float[Tensor, "queries keys"]:
    """Return the relevance of each key to each query, in one layer or in all."""
    chosen = layers if layer is None else layers[layer : layer + 1]
    gradients = torch.autograd.grad(logit, chosen, retain_graph=True)
    return attended([one[0].detach() for one in chosen], [one[0] for one in gradients])
