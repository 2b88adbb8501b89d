"""Any text encoder of transformers as a tower."""

from __future__ import annotations

import re
from typing import Any, Literal, final

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from clipkit.errors import ConfigError, first_line
from clipkit.models.files.structure import is_structure_only
from clipkit.models.towers.base import TextTower, check_length, group_by_block
from clipkit.models.towers.projection import Projection, make_projection
from clipkit.models.towers.tokens import TokenTower
from clipkit.models.towers.transformers_config import read_architecture
from clipkit.remote_code import load_trusted

Pooling = Literal["mean", "first", "last"]
_BLOCK = re.compile(r"\.(?:layer|layers|block|h)\.(\d+)\.")


@final
class TransformersTextTower(TextTower, TokenTower):
    """A text encoder of transformers, pooled over its tokens, and a projection.

    Padding is masked, so it can be removed exactly. Of an encoder-decoder, the encoder is used.

    Args:
        model: A folder, a name on the Hugging Face hub, or a configuration as a dictionary with
            ``model_type``.
        embedding_dim: Components of an embedding.
        pooling: "mean" over the tokens, the "first" or the "last" of them.
        pretrained: Whether to load the weights of ``model``; otherwise random initialisation.
        projection: "linear", "mlp" or "none".
        context_length: Maximum number of tokens of a text.
        tokenizer_name: Name of the tower's tokenizer; None for that of ``model``.
        pad_id: Token id of padding; None for that of the configuration.

    Raises:
        ConfigError: If the model cannot be found, or the options do not fit it.

    Examples:
        >>> bert = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2,
        ...         "num_attention_heads": 2, "vocab_size": 100, "max_position_embeddings": 32}
        >>> tower = TransformersTextTower(bert, embedding_dim=16, pretrained=False,
        ...                               context_length=16, tokenizer_name="transformers:./bert")
        >>> tower.embedding_dim
        16
    """

    def __init__(
        self,
        model: str | dict[str, Any],
        embedding_dim: int,
        pooling: Pooling = "mean",
        pretrained: bool = True,
        projection: Projection = "linear",
        context_length: int = 77,
        tokenizer_name: str | None = None,
        pad_id: int | None = None,
    ) -> None:
        if pooling not in ("mean", "first", "last"):
            raise ConfigError(f"pooling: expected 'mean', 'first' or 'last', got {pooling!r}")
        super().__init__()
        architecture = read_architecture(model)
        if tokenizer_name is None and not isinstance(model, str):
            raise ConfigError("tokenizer_name: required if model is a dictionary")
        self.tokenizer_name = tokenizer_name or f"transformers:{model}"
        pad_id = getattr(architecture, "pad_token_id", None) if pad_id is None else pad_id
        if pad_id is None:
            raise ConfigError("pad_id: this model's configuration has no padding id; set pad_id")
        self.pad_id = int(pad_id)
        _check_context(architecture, context_length, self.pad_id)
        self.transformer = _build(model, architecture, pretrained)
        self.projection = make_projection(projection, architecture.hidden_size, embedding_dim)
        self.embedding_dim = embedding_dim
        self.context_length = context_length
        self.vocab_size = int(architecture.vocab_size)
        self.trims_exactly = True
        self._pooling = pooling
        self._config = {"model": architecture.to_dict(), "projection": projection}

    def forward(self, tokens: Int64[Tensor, "B S"]) -> Float[Tensor, "B D"]:
        """Embed captions; see ``TextTower.forward``."""
        check_length(tokens, self.context_length)
        mask = tokens != self.pad_id
        states = self.transformer(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
        embeddings: Tensor = self.projection(pool(states, mask, self._pooling))
        return embeddings

    def config(self) -> dict[str, Any]:
        """Plain arguments that build this architecture again, without weights or network."""
        return {
            **self._config,
            "embedding_dim": self.embedding_dim,
            "pooling": self._pooling,
            "pretrained": False,
            "context_length": self.context_length,
            "tokenizer_name": self.tokenizer_name,
            "pad_id": self.pad_id,
        }

    def layer_groups(self) -> list[list[str]]:
        """Parameter names from the vocabulary to the projection; see ``Tower.layer_groups``."""
        names = [name for name, _ in self.named_parameters()]
        stems = ("embed", "shared", "wte", "wpe")  # names with a block are sorted by it before
        first = [name for name in names if any(stem in name for stem in stems)]
        return group_by_block(names, block=_BLOCK, first=first)

    @property
    def token_dim(self) -> int:
        """See ``TokenTower.token_dim``."""
        return int(self.transformer.config.hidden_size)

    def token_module(self) -> nn.Module:
        """See ``TokenTower.token_module``."""
        part: nn.Module = self.transformer
        return part

    def as_tokens(self, inputs: tuple[Any, ...], output: Any) -> Float[Tensor, "B tokens width"]:
        """See ``TokenTower.as_tokens``."""
        del inputs
        states: Tensor = output.last_hidden_state
        return states


def pool(
    states: Float[Tensor, "B S width"], mask: Bool[Tensor, "B S"], pooling: Pooling
) -> Float[Tensor, "B width"]:
    """Pool vectors of tokens into one vector per text."""
    if pooling == "first":
        return states[:, 0]
    if pooling == "last":
        last = mask.sum(dim=1).sub(1).clamp(min=0)
        return states[torch.arange(len(states), device=states.device), last]
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def _build(model: str | dict[str, Any], architecture: Any, pretrained: bool) -> Any:
    """Build the encoder without parts that the embeddings do not depend on."""
    from transformers import AutoModel

    if pretrained and not isinstance(model, str):
        raise ConfigError(
            "pretrained: a configuration has no weights; set pretrained: false, or name a folder"
        )

    def load(trusted: bool) -> Any:
        if pretrained and not is_structure_only():
            return AutoModel.from_pretrained(model, trust_remote_code=trusted)
        return AutoModel.from_config(architecture, trust_remote_code=trusted)

    try:
        built = load_trusted(f"model {model!r}", load)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"model: transformers cannot build {model!r}: {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error
    if architecture.is_encoder_decoder:
        built = built.get_encoder()
    if getattr(built, "pooler", None) is not None:
        built.pooler = None  # no gradient would reach it, which DDP refuses
    return built.float()  # some are stored in half precision


def _check_context(architecture: Any, context_length: int, pad_id: int) -> None:
    positions = getattr(architecture, "max_position_embeddings", None)
    if positions is None:
        return
    if "roberta" in architecture.model_type:  # its positions start after the padding id
        positions -= pad_id + 1
    if not 1 <= context_length <= positions:
        raise ConfigError(
            f"context_length: this model has {positions} positions, got {context_length}"
        )
