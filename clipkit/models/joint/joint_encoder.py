"""Towers whose tokens are fused: a joint encoder that is a dual encoder, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from clipkit.errors import ConfigError
from clipkit.models.heads.label_head import LabelHead
from clipkit.models.joint.checked_parts import (
    check_kinds,
    checked_fused_head,
    checked_head,
    token_towers_of,
)
from clipkit.models.joint.fusion import Fusion
from clipkit.models.joint.word_head import WordHead
from clipkit.models.multimodal_parts import given_modality, present_rows, spread_rows
from clipkit.models.named_towers import NamedTowerEncoder
from clipkit.models.similarity_scale import SOFTMAX_LOGIT_SCALE
from clipkit.models.tower_encoder import Images
from clipkit.models.towers.base import Tower
from clipkit.models.towers.tokens import TokenTower, recording_tokens, text_mask
from clipkit.token_sequences import Fused, TokenSequence
from clipkit.types import Batch, Embeddings

FUSED: Final = "fused"
"""Name of the label head on the pooled vector of the fusion, among those on towers."""


class ReadTokens(NamedTuple):
    """What a tower returns for a joint encoder.

    Attributes:
        embedding: Unit-norm embeddings.
        tokens: Tokens of the same pass.
    """

    embedding: Float[Tensor, "B D"]
    tokens: TokenSequence


@final
class JointEncoder(NamedTowerEncoder):
    """Towers with one embedding space, and a fusion of their token sequences.

    Its towers are those of a dual encoder, which may be trained already (``with_fusion``), and are
    used as such by every term, evaluator and command. The fusion looks at the tokens of an image
    and a text together: whether they match (``match``), which words are masked (``predict_words``).
    Arguments that are not listed are those of ``MultimodalEncoder``.

    Args:
        towers: Tower by the name of its modality. Those that are fused are a ``TokenTower``, as
            all towers of clipkit are.
        fusion: Network over the token sequences.
        word_head: Head that predicts masked words; None for none.
        label_heads: Head that scores classes from the embeddings of a tower, by its name; the one
            named "fused" scores them from the pooled vector of the fusion (``with_fused_head``).
        logit_scale: Initial inverse temperature, linear.
        logit_bias: Initial bias that is added to the scaled similarities; None for no bias.
        max_logit_scale: Upper limit of the scales; None for no limit.
        pair_scales: Pairs of modalities that have a scale of their own.

    Attributes:
        token_inputs: Norm and linear layer from the tokens of each tower to those of the fusion.
        matching: Linear layer from the pooled vector to the logit of a match.
        fused_names: Names of the modalities that are fused.

    Raises:
        ConfigError: If the parts do not fit together.

    Examples:
        >>> fusion = CrossAttentionFusion(width=16, depth=1, num_heads=2)
        >>> joint = JointEncoder(encoder.towers, fusion)
        >>> size = encoder.image_tower.image_size
        >>> image = joint.read_image(torch.zeros(2, 3, size, size, dtype=torch.uint8))
        >>> text = joint.read_text(torch.ones(2, 5, dtype=torch.int64))
        >>> joint.match(joint.fuse({"image": image.tokens, "text": text.tokens}).pooled).shape
        torch.Size([2])
    """

    def __init__(
        self,
        towers: Mapping[str, Tower],
        fusion: Fusion,
        word_head: WordHead | None = None,
        label_heads: Mapping[str, LabelHead] | None = None,
        logit_scale: float = SOFTMAX_LOGIT_SCALE,
        logit_bias: float | None = None,
        max_logit_scale: float | None = 100.0,
        pair_scales: Sequence[str] = (),
    ) -> None:
        check_kinds(fusion, word_head)
        if FUSED in towers:
            raise ConfigError(f"towers: {FUSED!r} is the name of the fusion; rename the tower")
        heads = dict(label_heads or {})
        fused_head = checked_fused_head(heads.pop(FUSED, None), fusion)
        super().__init__(towers, heads, logit_scale, logit_bias, max_logit_scale, pair_scales)
        if fused_head is not None:
            self.label_heads[FUSED] = fused_head
        self.fusion = fusion
        self.fused_names = fusion.names
        self.token_inputs = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.LayerNorm(tower.token_dim), nn.Linear(tower.token_dim, fusion.width)
                )
                for name, tower in token_towers_of(self.towers, fusion).items()
            }
        )
        self.matching = nn.Linear(fusion.width, 1)
        self.word_head = checked_head(word_head, fusion, self)
        for tower in self._token_towers().values():
            tower.expose_tokens()

    @property
    def returned_names(self) -> tuple[str, ...]:
        """Names of the modalities whose fused tokens ``fuse`` returns."""
        return self.fusion.returned_names

    @property
    def vocab_size(self) -> int:
        """Number of token ids that ``predict_words`` scores; 0 without a word head."""
        return 0 if self.word_head is None else self.word_head.vocab_size

    @property
    def num_fused_classes(self) -> int:
        """Number of classes that ``classify_fused`` scores; 0 without a head on the fusion."""
        return self.heads[FUSED].num_classes if FUSED in self.label_heads else 0

    def embed(
        self, batch: Batch, on_text: Callable[[Float[Tensor, "B D"]], None] | None = None
    ) -> Embeddings:
        """Run the towers' part of ``forward``, and keep the tokens that are fused."""
        with recording_tokens(self._token_towers()) as recorded:
            embeddings = super().embed(batch, on_text)
        tokens = {name: self._sequence(name, recorded[name], batch) for name in recorded}
        return replace(embeddings, tokens=tokens, joint=self)

    def example_embeddings(self) -> Embeddings:
        """Return made-up embeddings of two samples, with this encoder as their joint stage."""
        return replace(super().example_embeddings(), joint=self)

    def read_image(self, images: Images, grids: Int64[Tensor, "B 2"] | None = None) -> ReadTokens:
        """Embed images, and return their tokens; arguments as for ``encode_image``."""
        tower = self._token_tower("image")
        with recording_tokens({"image": tower}) as recorded:
            embedding = self.encode_image(images, grids)
        values = recorded["image"]
        return ReadTokens(
            embedding, TokenSequence(values, tower.token_mask(grids, values.shape[1]))
        )

    def read_text(self, tokens: Int64[Tensor, "B S"]) -> ReadTokens:
        """Embed texts, and return their tokens; arguments as for ``encode_text``."""
        with recording_tokens({"text": self._token_tower("text")}) as recorded:
            embedding = self.encode_text(tokens)
        return ReadTokens(embedding, self._text_sequence(recorded["text"], tokens))

    def read_text_tokens(self, tokens: Int64[Tensor, "B S"]) -> TokenSequence:
        """Run the text tower on token ids, such as partly masked ones."""
        return self.read_text(tokens).tokens

    def read_signal(self, name: str, values: Float[Tensor, "B *rest"]) -> ReadTokens:
        """Embed inputs of a further modality, and return their tokens; see ``encode_signal``."""
        with recording_tokens({name: self._token_tower(name)}) as recorded:
            embedding = self.encode_signal(name, values)
        return ReadTokens(embedding, TokenSequence(recorded[name]))

    def read(self, name: str, given: Tensor) -> ReadTokens:
        """Embed inputs of one shape by the name of their modality, and return their tokens."""
        if name == "image":
            return self.read_image(given)
        return self.read_text(given) if name == "text" else self.read_signal(name, given)

    def fuse(self, tokens: Mapping[str, TokenSequence]) -> Fused:
        """Let the tokens of each sample's modalities see each other.

        Args:
            tokens: The sequence of each modality of ``fused_names``.

        Raises:
            ConfigError: If one is missing.
        """
        missing = [name for name in self.fused_names if name not in tokens]
        if missing:
            raise ConfigError(
                f"fusion: expected the tokens of {', '.join(self.fused_names)}, got those of "
                f"{', '.join(tokens) or 'none'}"
            )
        projected = {
            name: TokenSequence(self.token_inputs[name](tokens[name].values), tokens[name].mask)
            for name in self.fused_names
        }
        fused: Fused = self.fusion(projected)
        return fused

    def match(self, pooled: Float[Tensor, "B width"]) -> Float[Tensor, " B"]:
        """Return the logit that the modalities of each sample belong together."""
        logits: Tensor = self.matching(pooled)
        return logits[:, 0]

    def classify_fused(self, pooled: Float[Tensor, "B width"]) -> Float[Tensor, "B C"]:
        """Return the logits of the classes of the fused pairs, such as the answers to questions.

        Raises:
            ConfigError: If the encoder has no label head on its fusion.
        """
        if FUSED not in self.label_heads:
            raise ConfigError(
                "label_heads: this encoder has no head on its fusion; add one with "
                "clipkit.models.with_fused_head"
            )
        logits: Tensor = self.label_heads[FUSED](pooled)
        return logits

    def predict_words(
        self, states: Float[Tensor, "words width"]
    ) -> Float[Tensor, "words vocabulary"]:
        """Return the logits of the token ids behind fused states of text tokens.

        Raises:
            ConfigError: If the encoder has no word head.
        """
        if self.word_head is None:
            raise ConfigError("word_head: this encoder has none; add clipkit.models.WordHead")
        logits: Tensor = self.word_head(states)
        return logits

    def zero(self) -> Float[Tensor, ""]:
        """Return 0, with a gradient of 0 for each trainable parameter outside of the towers."""
        head = self.heads.get(FUSED)
        parts = [self.token_inputs, self.fusion, self.matching, self.word_head, head]
        own = [p for part in parts if part is not None for p in part.parameters()]
        sums = [p.sum(dtype=torch.float32) for p in own if p.requires_grad]
        return 0 * torch.stack(sums).sum() if sums else self.log_logit_scale.new_zeros(())

    def _token_towers(self) -> dict[str, TokenTower]:
        return {name: self._token_tower(name) for name in self.fused_names}

    def _token_tower(self, name: str) -> TokenTower:
        tower: Any = self.towers.get(name)
        if name not in self.fused_names or not isinstance(tower, TokenTower):
            raise ConfigError(
                f"encoder: expected one of the fused modalities {', '.join(self.fused_names)}, "
                f"got {name!r}"
            )
        return tower

    def _sequence(self, name: str, recorded: Tensor, batch: Batch) -> TokenSequence:
        """Return the tokens of a batch, without those of negatives, and zeros where absent."""
        if name == "text":
            assert batch.tokens is not None, "the text tower has run"
            return self._text_sequence(recorded[: len(batch)], batch.tokens)
        if name == "image":
            values = recorded[: len(batch.images)]
            mask = self._token_tower(name).token_mask(batch.grids, values.shape[1])
            return TokenSequence(values, None if mask is None else mask[: len(values)])
        given = given_modality(batch, name)
        rows = present_rows(given)
        own = recorded if rows is None else recorded[: len(rows)]
        return TokenSequence(spread_rows(own, given, rows))

    def _text_sequence(self, recorded: Tensor, tokens: Int64[Tensor, "B S"]) -> TokenSequence:
        # towers may pad further, and texts of a batch are padded to its longest negative
        values = recorded[:, : tokens.shape[1]]
        return TokenSequence(values, text_mask(tokens, self.text_tower.pad_id))
