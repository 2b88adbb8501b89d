"""Record attention and feature maps of a forward pass, without changing a module.

A mode of torch sees every function that is called while it is active: no hook is registered and no
module is replaced, so nothing has to be undone.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

_MULTI_HEAD: Final = inspect.signature(F.multi_head_attention_forward)
_SOFTMAX: Final = (F.softmax, torch.softmax, Tensor.softmax)
_MAP_NDIM: Final = 4


class Attention(NamedTuple):
    """One attention of a forward pass.

    Attributes:
        weights: Probabilities, whose gradient can be computed.
        queries: What the queries were computed from or with: a tensor that depends on the input
            exactly if the queries do; None if they are tokens for certain.
    """

    weights: Float[Tensor, "batch heads queries keys"]
    queries: Tensor | None

    @property
    def is_self_attention(self) -> bool:
        """Whether each token attends to all tokens."""
        return self.weights.shape[-2] == self.weights.shape[-1] > 1


@final
class ForwardRecorder(TorchFunctionMode):
    """Records the attentions and the last feature map of the forward passes inside a ``with``.

    Fused kernels return no probabilities, so attention is computed in steps; results are equal up
    to rounding. Attention without a fused kernel is recognised by its softmax.

    Attributes:
        attentions: Attentions in the order of their computation.
        feature_map: Output of the last layer whose rows and columns are those of the last
            convolution; None without convolution.
        ends_with_attention: Whether the last self-attention came after the last convolution.
    """

    def __init__(self) -> None:
        super().__init__()
        self.attentions: list[Attention] = []
        self.feature_map: Float[Tensor, "B channels rows columns"] | None = None
        self.ends_with_attention = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Compute a function of torch, and record it if it is attention or makes a map."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._scaled_dot_product(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return self._multi_head(*args, **kwargs)
        result = func(*args, **kwargs)
        if not isinstance(result, Tensor) or result.ndim != _MAP_NDIM:
            return result
        if func in _SOFTMAX:
            return self._record(result, None)
        self._watch(result, is_convolution=func is F.conv2d)
        return result

    def _watch(self, result: Tensor, is_convolution: bool) -> None:
        """Keep the last map of features; a map of one position shows no place."""
        if not result.is_floating_point() or max(result.shape[2:]) == 1:
            return
        if is_convolution:
            self.ends_with_attention = False
        if is_convolution or (
            self.feature_map is not None and result.shape[2:] == self.feature_map.shape[2:]
        ):
            self.feature_map = result

    def _record(self, weights: Tensor, queries: Tensor | None) -> Tensor:
        if not weights.requires_grad:  # of a frozen tower; its gradient can be computed still
            weights = weights.detach().requires_grad_()
        self.attentions.append(Attention(weights, queries))
        self.ends_with_attention |= self.attentions[-1].is_self_attention
        return weights

    def _scaled_dot_product(
        self,
        query: Float[Tensor, "*batch queries width"],
        key: Float[Tensor, "*batch keys width"],
        value: Float[Tensor, "*batch keys value_width"],
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,  # noqa: ARG002
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Float[Tensor, "*batch queries value_width"]:
        """Attend as ``torch.nn.functional.scaled_dot_product_attention`` in evaluation mode."""
        if enable_gqa:
            shared = query.shape[-3] // key.shape[-3]
            key, value = (part.repeat_interleave(shared, dim=-3) for part in (key, value))
        scores = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones_like(scores[0, 0], dtype=torch.bool).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        return self._record(scores.softmax(-1), query) @ value

    def _multi_head(
        self, *args: Any, **kwargs: Any
    ) -> tuple[Float[Tensor, "queries batch width"], Tensor | None]:
        """Attend as ``torch.nn.MultiheadAttention`` in evaluation mode.

        torch returns a view of the probabilities, on which its output does not depend: the values
        are weighted again.
        """
        call = _MULTI_HEAD.bind(*args, **kwargs | {"need_weights": True}).arguments
        _, weights = F.multi_head_attention_forward(**call | {"average_attn_weights": False})
        assert weights is not None, "they were asked for"
        value = call["value"]
        weight, bias = call.get("v_proj_weight"), call["in_proj_bias"]
        if weight is None:
            weight = call["in_proj_weight"].chunk(3)[2]
        values = F.linear(value, weight, None if bias is None else bias.chunk(3)[2])
        heads = values.view(*values.shape[:2], call["num_heads"], -1).permute(1, 2, 0, 3)
        attended = self._record(weights, call["query"]) @ heads
        joined = attended.permute(2, 0, 1, 3).flatten(2)
        return F.linear(joined, call["out_proj_weight"], call["out_proj_bias"]), None
