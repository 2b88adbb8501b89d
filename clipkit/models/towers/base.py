"""The abstract towers, for images, for texts and for further modalities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from re import Pattern
from typing import Any, NamedTuple

from jaxtyping import Float, Int64
from torch import Tensor, nn

from clipkit.errors import ConfigError
from clipkit.mel import MelOptions
from clipkit.patches import TokenBudget


class Tower(nn.Module, ABC):
    """Common interface of all kinds of tower.

    Attributes:
        embedding_dim: Components of an embedding.
    """

    embedding_dim: int

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return ``__init__`` arguments that rebuild the architecture, without weights or network.

        They have plain types and are stored in checkpoints.
        """

    @abstractmethod
    def layer_groups(self) -> list[list[str]]:
        """Return the names of all parameters, each once, in groups from input to output.

        Layer-wise learning rates and partial freezing count groups from the end.
        """


class ImageTower(Tower):
    """Tower that embeds images.

    Attributes:
        image_size: Height and width that the tower expects, in pixels; of the largest square if
            there is a budget.
        image_mean: Mean of each channel that normalisation subtracts, for pixels from 0 to 1.
        image_std: Standard deviation of each channel that normalisation divides by.
        interpolation: Interpolation of resizing in evaluation: "bicubic" or "bilinear".
        resize_mode: "shortest" (then crop), "longest" (then pad) or "squash"; "naflex" with a
            budget.
        budget: How many patches an image may have, if the tower reads images of any shape as
            patches; else None.
        reads_images: Whether it is a tower at all; False in an encoder without one.
    """

    reads_images: bool = True
    image_size: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    interpolation: str
    resize_mode: str
    budget: TokenBudget | None = None

    @abstractmethod
    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Embed normalised images.

        Args:
            images: Pixels after (x / 255 - image_mean) / image_std.

        Returns:
            Embeddings, not of unit norm.
        """


class TextTower(Tower):
    """Tower that embeds texts.

    Attributes:
        context_length: Maximum number of tokens of a text.
        vocab_size: Number of token ids.
        pad_id: Token id of padding.
        tokenizer_name: The tokenizer that belongs to the tower, such as "open_clip:ViT-B-32".
        trims_exactly: Whether padding after the longest text can be removed without changing the
            embeddings. If False, the tower pads its input again.
    """

    context_length: int
    vocab_size: int
    pad_id: int
    tokenizer_name: str
    trims_exactly: bool

    @abstractmethod
    def forward(self, tokens: Int64[Tensor, "B S"]) -> Float[Tensor, "B D"]:
        """Embed texts.

        Args:
            tokens: Token ids, padded to the longest of the batch or further.

        Returns:
            Embeddings, not of unit norm.
        """


class Positions(NamedTuple):
    """Where the features of a tower are in a spectrogram.

    Attributes:
        num_mels: Mel bands as the first layer reads them, with padding at the end.
        num_frames: Frames as the first layer reads them, with padding at the end.
        token_grid: Rows (bands) and columns (frames) of a transformer's tokens; None without.
    """

    num_mels: int
    num_frames: int
    token_grid: tuple[int, int] | None


class SignalTower(Tower):
    """Tower that embeds the inputs of a further modality, such as sounds or series of numbers.

    Attributes:
        input_shape: Shape of an input, without the axis of the batch.
        mel: Parameters of the spectrograms that it reads, with crop and padding of the sounds, if
            it reads sounds; else None.
    """

    input_shape: tuple[int, ...]
    mel: MelOptions | None = None

    def value_options(self) -> dict[str, Any]:
        """Return the parameters of the values that it reads by name, which its field shares.

        Those of its spectrograms (``mel.sample_rate`` and so on), if it reads any. A run whose
        field declares another value is refused.
        """
        return {} if self.mel is None else self.mel.named_values()

    def positions(self) -> Positions | None:
        """Return where the features of the tower are in a spectrogram.

        None, the default, if they do not keep its positions, or the input is none: the tower is
        explained by occlusion alone.
        """
        return None

    @abstractmethod
    def forward(self, values: Float[Tensor, "B *rest"]) -> Float[Tensor, "B D"]:
        """Embed the inputs of the samples that have one.

        Args:
            values: What the modality's field of ``data.samples.fields`` returns.

        Returns:
            Embeddings, not of unit norm.
        """


def as_triple(values: Sequence[float]) -> tuple[float, float, float]:
    """Convert to three numbers, one per channel."""
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def check_length(tokens: Int64[Tensor, "B S"], context_length: int) -> None:
    """Refuse texts that are longer than the context length."""
    if tokens.shape[1] > context_length:
        raise ConfigError(
            f"tokens: the text tower reads at most {context_length} tokens, got texts of "
            f"{tokens.shape[1]}; set the tokenizer's context_length={context_length}"
        )


def group_by_block(
    names: Iterable[str], *, block: Pattern[str], first: Sequence[str] = ()
) -> list[list[str]]:
    """Sort parameter names by depth: input, one group per block, output.

    Examples:
        >>> import re
        >>> group_by_block(["proj", "conv.weight", "blocks.0.fc", "blocks.1.fc"],
        ...                block=re.compile(r"^blocks[.]([0-9]+)[.]"), first=["conv"])
        [['conv.weight'], ['blocks.0.fc'], ['blocks.1.fc'], ['proj']]
    """
    entrance: list[str] = []
    blocks: dict[int, list[str]] = {}
    exit_: list[str] = []
    for name in names:
        if match := block.search(name):
            blocks.setdefault(int(match.group(1)), []).append(name)
        elif name.startswith(tuple(first)):
            entrance.append(name)
        else:
            exit_.append(name)
    groups = [entrance, *(blocks[number] for number in sorted(blocks)), exit_]
    return [group for group in groups if group]
