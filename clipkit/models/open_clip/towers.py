"""open_clip's towers, for any of its configurations, with or without its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, final

import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.func import functional_call

from clipkit.errors import ConfigError
from clipkit.models.open_clip.config import OpenClipConfig, read_config
from clipkit.models.open_clip.positions import resize_positions
from clipkit.models.open_clip.weights import build_clip, has_weights, load_clip, without_downloads
from clipkit.models.towers.base import (
    ImageTower,
    TextTower,
    as_triple,
    check_length,
    group_by_block,
)
from clipkit.models.towers.timm_layers import trunk_groups, trunk_token_module, trunk_tokens
from clipkit.models.towers.tokens import TokenTower, channels_as_tokens

_RESIDUAL_BLOCK = re.compile(r"^\w+\.transformer\.resblocks\.(\d+)\.")
_RESNET_STAGE = re.compile(r"^visual\.layer(\d+)\.")
_RESNET_STRIDE = (32, 32)
_HF_BLOCK = re.compile(r"\.(?:layer|layers|block|h)\.(\d+)\.")
BOTH_TOWERS = ("vision_cfg", "text_cfg")
"""Sections of a configuration that a complete model needs."""


@final
class OpenClipImageTower(ImageTower, TokenTower):
    """The image tower of an open_clip configuration: ViT, ResNet or any timm trunk.

    Args:
        model: A name of ``open_clip.list_models()``, ``hf-hub:OWNER/NAME[@REVISION]``, a path to a
            JSON configuration, or its contents with at least ``embed_dim`` and ``vision_cfg``.
        pretrained: Tag or path of weights of the complete model; None for random initialisation,
            or for the weights of a model of the hub.
        patch_dropout: Share of a vision transformer's patches that training leaves out; None for
            the value of the configuration.

    Raises:
        ConfigError: If the configuration is unknown, cannot be built or be downloaded.
        CheckpointError: If the weights belong to another architecture.

    Examples:
        >>> tower = OpenClipImageTower("ViT-B-32")
        >>> tower.embedding_dim, tower.image_size
        (512, 224)
    """

    def __init__(
        self,
        model: str | dict[str, Any],
        pretrained: str | None = None,
        patch_dropout: float | None = None,
    ) -> None:
        super().__init__()
        loads = has_weights(model, pretrained)
        config = read_config(model, needs=BOTH_TOWERS if loads else ("vision_cfg",))
        config = config.with_patch_dropout(patch_dropout)
        if loads:
            clip, config = load_clip(config, pretrained)
        else:
            config = replace(config, model=config.image_part()["model_cfg"])
            clip = build_clip(config)
        self.visual: Any = clip.visual
        self._config = without_downloads(config)
        preprocess = self._config.preprocess
        self.embedding_dim = int(config.model["embed_dim"])
        self.image_size = int(config.model["vision_cfg"].get("image_size", 224))
        self.image_mean = as_triple(preprocess["mean"])
        self.image_std = as_triple(preprocess["std"])
        self.interpolation = preprocess["interpolation"]
        self.resize_mode = preprocess["resize_mode"]

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Embed normalised images; see ``ImageTower.forward``.

        The size may be any multiple of a vision transformer's patches, or of the stride of a ResNet
        with attention pooling: positions are interpolated.
        """
        name, step = _positions_of(self.visual)
        if name is None or images.shape[-1] == self.image_size:
            embeddings: Tensor = self.visual(images)
        else:
            grid = (images.shape[-2] // step[0], images.shape[-1] // step[1])
            positions = resize_positions(self.visual.get_parameter(name), *grid)
            embeddings = functional_call(self.visual, {name: positions}, images)
        return embeddings

    def config(self) -> dict[str, Any]:
        """Plain arguments that build this architecture again, without weights or network."""
        return {"model": self._config.image_part()}

    def layer_groups(self) -> list[list[str]]:
        """Parameter names from the patches to the projection; see ``Tower.layer_groups``."""
        names = [name for name, _ in self.named_parameters()]
        if self._config.model["vision_cfg"].get("timm_model_name"):
            return _timm_groups(self.visual, names)
        if hasattr(self.visual, "layer1"):
            return group_by_block(names, block=_RESNET_STAGE, first=("visual.conv", "visual.bn"))
        parts = ("conv1", "class_embedding", "positional_embedding", "ln_pre")
        first = [f"visual.{part}" for part in parts]
        return group_by_block(names, block=_RESIDUAL_BLOCK, first=first)

    @property
    def token_dim(self) -> int:
        """See ``TokenTower.token_dim``."""
        if hasattr(self.visual, "trunk"):
            return int(self.visual.trunk.num_features)
        if hasattr(self.visual, "layer4"):
            return int(self.visual.layer4[-1].conv3.out_channels)
        return int(self.visual.class_embedding.shape[-1])

    def token_module(self) -> nn.Module:
        """Return the module whose output has all patches; see ``TokenTower.token_module``."""
        if hasattr(self.visual, "trunk"):
            return trunk_token_module(self.visual.trunk)
        part: nn.Module = getattr(self.visual, "layer4", None) or self.visual.transformer
        return part

    def as_tokens(self, inputs: tuple[Any, ...], output: Any) -> Float[Tensor, "B tokens width"]:
        """See ``TokenTower.as_tokens``; a class token is the first."""
        if hasattr(self.visual, "trunk"):
            return trunk_tokens(self.visual.trunk, inputs, output)
        return channels_as_tokens(output, self.token_dim)

    def expose_tokens(self) -> None:
        """See ``TokenTower.expose_tokens``."""
        # Imports open_clip, which takes a second.
        from clipkit.models.open_clip.class_token_block import compute_all_tokens

        compute_all_tokens(self.visual)


def _positions_of(visual: Any) -> tuple[str | None, tuple[int, int]]:
    """Return the name of the parameter of positions, if any, and the pixels per position."""
    if hasattr(visual, "positional_embedding"):
        return "positional_embedding", visual.patch_size
    if hasattr(visual, "attnpool"):
        return "attnpool.positional_embedding", _RESNET_STRIDE
    return None, (1, 1)


def _timm_groups(visual: Any, names: list[str]) -> list[list[str]]:
    """Return the trunk's layers in timm's order, then open_clip's projection."""
    groups = [[f"visual.trunk.{name}" for name in group] for group in trunk_groups(visual.trunk)]
    head = [name for name in names if name.startswith("visual.head.")]
    return [*groups, head] if head else groups


@final
class OpenClipTextTower(TextTower, TokenTower):
    """The text tower of an open_clip configuration: its own transformer or one of transformers'.

    Args:
        model: A name of ``open_clip.list_models()``, ``hf-hub:OWNER/NAME[@REVISION]``, a path to a
            JSON configuration, or its contents with at least ``embed_dim`` and ``text_cfg``.
        pretrained: Tag or path of weights of the complete model; None for random initialisation,
            or for the weights of a model of the hub.
        tokenizer_name: Name of the tower's tokenizer; None for that of the configuration.

    Raises:
        ConfigError: If the configuration is unknown, cannot be built or be downloaded.
        CheckpointError: If the weights belong to another architecture.

    Examples:
        >>> OpenClipTextTower("ViT-B-32").trims_exactly
        True
    """

    def __init__(
        self,
        model: str | dict[str, Any],
        pretrained: str | None = None,
        tokenizer_name: str | None = None,
    ) -> None:
        super().__init__()
        loads = has_weights(model, pretrained)
        config = read_config(model, needs=BOTH_TOWERS if loads else ("text_cfg",))
        text_cfg = config.model["text_cfg"]
        if text_cfg.get("pool_type") == "none":
            raise ConfigError("model: text_cfg.pool_type: 'none' computes no embedding of a text")
        if loads:
            clip, _ = load_clip(config, pretrained)
        else:
            clip = build_clip(replace(config, model=config.text_part()["model_cfg"]))
        self.text: nn.Module = clip.text
        self._config = without_downloads(config)
        self.embedding_dim = int(config.model["embed_dim"])
        # transformers' models could read more tokens than open_clip's tokenizer returns
        self.context_length = int(text_cfg.get("context_length", 77))
        self.vocab_size = int(clip.text.vocab_size)
        self.pad_id = _pad_id(text_cfg, clip.text)
        self.tokenizer_name = tokenizer_name or tokenizer_name_of(config)
        self.trims_exactly = trims_exactly(text_cfg)

    def forward(self, tokens: Int64[Tensor, "B S"]) -> Float[Tensor, "B D"]:
        """Embed captions; see ``TextTower.forward``."""
        check_length(tokens, self.context_length)
        if not self.trims_exactly:
            tokens = F.pad(tokens, (0, self.context_length - tokens.shape[1]), value=self.pad_id)
        embeddings: Tensor = self.text(tokens)
        return embeddings

    def config(self) -> dict[str, Any]:
        """Plain arguments that build this architecture again, without weights."""
        return {"model": self._config.text_part(), "tokenizer_name": self.tokenizer_name}

    def layer_groups(self) -> list[list[str]]:
        """Parameter names from the vocabulary to the projection; see ``Tower.layer_groups``."""
        names = [name for name, _ in self.named_parameters()]
        if self._config.model["text_cfg"].get("hf_model_name"):
            first = [n for n in names if "embed" in n and not _HF_BLOCK.search(n)]
            return group_by_block(names, block=_HF_BLOCK, first=first)
        stem = ("text.token_embedding", "text.positional_embedding")
        return group_by_block(names, block=_RESIDUAL_BLOCK, first=stem)

    @property
    def token_dim(self) -> int:
        """See ``TokenTower.token_dim``."""
        own: Any = self.text
        if self._config.model["text_cfg"].get("hf_model_name"):
            return int(own.config.hidden_size)
        return int(own.token_embedding.weight.shape[1])

    def token_module(self) -> nn.Module:
        """See ``TokenTower.token_module``."""
        own: Any = self.text
        # a class token after the text is normalised alone, after pooling
        after_pooling = getattr(own, "cls_emb", None) is not None
        part: nn.Module = (
            own.transformer if after_pooling or not hasattr(own, "ln_final") else own.ln_final
        )
        return part

    def as_tokens(self, inputs: tuple[Any, ...], output: Any) -> Float[Tensor, "B tokens width"]:
        """See ``TokenTower.as_tokens``."""
        del inputs
        states: Tensor = getattr(output, "last_hidden_state", output)
        return states


def trims_exactly(text_cfg: Mapping[str, Any]) -> bool:
    """Return whether padding after the longest text can be removed without changing embeddings.

    True if no pooled token attends to padding: with a causal mask and pooling at the end token
    (or the first), and in transformers' encoders, which mask the padding. False for attention in
    both directions, pooling at the last position, or a class token after the text.

    Examples:
        >>> trims_exactly({"no_causal_mask": True}), trims_exactly({"pool_type": "argmax"})
        (False, True)
    """
    if text_cfg.get("hf_model_name"):
        return True
    sees_padding = text_cfg.get("no_causal_mask", False) or text_cfg.get("embed_cls", False)
    return not sees_padding and text_cfg.get("pool_type", "argmax") in ("argmax", "eos", "first")


def _pad_id(text_cfg: Mapping[str, Any], text: Any) -> int:
    """Return the id that the tower's tokenizer pads with.

    open_clip's configurations do not specify it: its tokenizer pads with 0, transformers' models
    specify an id, and the first generation of SigLIP (T5's vocabulary) pads with 1.
    """
    if text_cfg.get("hf_model_name"):
        return int(text.config.pad_token_id)
    tokenizer = str(text_cfg.get("hf_tokenizer_name", ""))
    if "SigLIP" in tokenizer and "SigLIP2" not in tokenizer and "pad_id" not in text_cfg:
        return 1
    return int(text_cfg.get("pad_id", 0))


def tokenizer_name_of(config: OpenClipConfig) -> str:
    """Return the name of the tokenizer of a configuration."""
    if config.name:
        return f"open_clip:{config.name}"
    text_cfg = config.model["text_cfg"]
    if config.source and text_cfg.get("hf_tokenizer_name"):  # with its options
        return f"open_clip:{config.source}"
    name = text_cfg.get("hf_tokenizer_name") or text_cfg.get("hf_model_name")
    return f"transformers:{name}" if name else "open_clip:ViT-B-32"
