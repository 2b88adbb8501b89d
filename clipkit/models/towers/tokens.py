"""The token sequences of towers: their states before pooling, read without a second pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn


class TokenTower(ABC):
    """A tower whose states before pooling are a sequence of tokens (abstract).

    A tower of your own that inherits from it, in addition to ``ImageTower``, ``TextTower`` or
    ``SignalTower``, can be a part of a ``JointEncoder``.
    """

    @property
    @abstractmethod
    def token_dim(self) -> int:
        """Components of the state of a token."""

    @abstractmethod
    def token_module(self) -> nn.Module:
        """Return the module inside the tower whose input or output holds the states.

        ``forward`` calls it once.
        """

    @abstractmethod
    def as_tokens(self, inputs: tuple[Any, ...], output: Any) -> Float[Tensor, "B tokens width"]:
        """Return the states from a call of ``token_module()``.

        Args:
            inputs: Positional arguments of the call.
            output: What it returned.
        """

    def token_mask(
        self,
        grids: Int64[Tensor, "B 2"] | None,  # noqa: ARG002
        num_tokens: int,  # noqa: ARG002
    ) -> Bool[Tensor, "B tokens"] | None:
        """Return which tokens of images are not padding; None for all.

        Args:
            grids: Rows and columns of patches of each image, if the images are patches.
            num_tokens: Number of tokens of an image.
        """
        return None

    def expose_tokens(self) -> None:  # noqa: B027
        """Compute the states of all tokens from now on; the default changes nothing.

        A tower that leaves out states that its embedding does not depend on overrides this.
        """


@contextmanager
def recording_tokens(towers: Mapping[str, TokenTower]) -> Iterator[dict[str, Tensor]]:
    """Record the token states of towers that run inside the block.

    Args:
        towers: Towers by name.

    Yields:
        The states of each tower that has run, by its name; of several calls those of the last.
    """
    recorded: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for name, tower in towers.items():
            hook = tower.token_module().register_forward_hook(_recorder(recorded, name, tower))
            stack.callback(hook.remove)
        yield recorded


def _recorder(
    recorded: dict[str, Tensor], name: str, tower: TokenTower
) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def record(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        del module
        recorded[name] = tower.as_tokens(inputs, output)

    return record


def text_mask(tokens: Int64[Tensor, "B S"], pad_id: int) -> Bool[Tensor, "B S"]:
    """Return which tokens are not padding at the end; the first token always counts.

    Examples:
        >>> text_mask(torch.tensor([[5, 0, 7, 0], [0, 0, 0, 0]]), pad_id=0).int()
        tensor([[1, 1, 1, 0],
                [1, 0, 0, 0]], dtype=torch.int32)
    """
    following = (tokens != pad_id).flip(1).cumsum(1).flip(1)
    mask = following > 0
    mask[:, 0] = True  # attention without any key would not be finite
    return mask


def channels_as_tokens(
    features: Float[Tensor, "B tokens width"] | Float[Tensor, "B *rest"], token_dim: int
) -> Float[Tensor, "B tokens width"]:
    """Turn a map of features into a sequence, row by row; a sequence stays as it is.

    Args:
        features: A sequence, or a map with the features in its second or in its last axis.
        token_dim: Number of features.
    """
    if features.ndim == 3:
        return features
    channels_last = features.shape[-1] == token_dim and features.shape[1] != token_dim
    return features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)
