"""A label head whose classes are described by texts that the text tower embeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from clipkit.class_names import read_class_names
from clipkit.distributed.collectives import world_size
from clipkit.errors import ConfigError, check_at_least
from clipkit.models.heads.label_head import LabelHead, check_scale, check_sizes
from clipkit.templates import PLACEHOLDER, check_templates, fill_template

TextTowerCall = Callable[[Int64[Tensor, "prompts S"]], Float[Tensor, "prompts D"]]


@final
class PrototypeLabelHead(LabelHead):
    """Cosine similarity of image and class text, times a separate trainable scale.

    The prototype of a class is the mean of the unit-norm embeddings of its texts, scaled to unit
    norm (Radford et al. 2021, section 3.1.4). Labels train the text tower, too, unless
    ``refresh_every`` makes the prototypes constant between refreshes. Evaluation always uses the
    current text tower.

    Args:
        embedding_dim: Components of an embedding.
        class_names: Names in the order of the labels, or a file with one name per line. They may
            differ from the class names of the data.
        templates: Texts with ``{}`` for the class name; None for the name alone.
        scale: Initial scale, linear. It is not shared with the contrastive loss, whose temperature
            the label loss would change.
        refresh_every: Steps between two computations of the prototypes, without gradient; None to
            compute them in every step with gradient, which costs a pass over all texts.
        num_tokens: Length of the longest text in tokens, from a checkpoint; None to determine it
            in ``read_texts``.

    Attributes:
        prompt_names: Class names in the texts.

    Raises:
        ConfigError: If there are no names, a template has no ``{}``, or a number is not
            positive.

    Examples:
        >>> head = PrototypeLabelHead(8, ["cat", "dog"], ["a photo of a {}"])
        >>> head.num_classes, head.sentences
        (2, ['a photo of a cat', 'a photo of a dog'])
    """

    tokens: Int64[Tensor, "prompts S"]
    prototypes: Float[Tensor, "C D"]
    num_steps: Int64[Tensor, ""]

    def __init__(
        self,
        embedding_dim: int,
        class_names: list[str] | str,
        templates: list[str] | None = None,
        scale: float = 16.0,
        refresh_every: int | None = None,
        num_tokens: int = 0,
    ) -> None:
        names = list(class_names)
        if isinstance(class_names, str):
            names = read_class_names(class_names, "label_head.class_names")
        if "" in names:
            raise ConfigError(
                f"label_head.class_names: class {names.index('')} has no name; a text needs one"
            )
        check_sizes(embedding_dim, len(names))
        check_scale(scale)
        check_at_least("label_head.refresh_every", refresh_every, 1)
        super().__init__()
        self.embedding_dim, self.num_classes = embedding_dim, len(names)
        self.prompt_names, self.refresh_every = names, refresh_every
        self.class_names = list(names)
        self.templates = check_templates(templates or [PLACEHOLDER], "label_head.templates")
        self._start_scale = scale
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        num_sentences = len(names) * len(self.templates)
        self.register_buffer("tokens", torch.zeros(num_sentences, num_tokens, dtype=torch.int64))
        self.register_buffer("prototypes", torch.zeros(len(names), embedding_dim))
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))
        # Reading the buffer in every step would wait for a GPU. A step that is left out restores
        # the buffer and not this until ``leave_out`` is called; a checkpoint makes both equal, as
        # in a run that continues from it.
        self._known_steps: tuple[Tensor, int] | None = None
        self._evaluated: tuple[list[int], Tensor] | None = None
        self.register_state_dict_pre_hook(_forget_steps)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_forget_all)  # type: ignore[no-untyped-call]

    @property
    def teaches_text_tower(self) -> bool:
        """Whether prototypes are computed with gradient, not kept between refreshes."""
        return self.refresh_every is None

    @property
    def sentences(self) -> list[str]:
        """Texts for the text tower: all templates of the first class, then of the second, ..."""
        return [
            fill_template(template, name)
            for name in self.prompt_names
            for template in self.templates
        ]

    def read_texts(self, tokenize: Callable[[Sequence[str]], Int64[Tensor, "prompts S"]]) -> None:
        """Tokenize the texts; call this once, before the first pass."""
        self.tokens = tokenize(self.sentences).to(self.prototypes.device)

    def forward(self, image: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Score the classes by the prototypes of the last refresh."""
        return self._against(image, self.prototypes)

    def score(self, image: Float[Tensor, "B D"], text_tower: TextTowerCall) -> Float[Tensor, "B C"]:
        """Score the classes by the current text tower.

        Raises:
            ConfigError: If ``read_texts`` was never called.
        """
        if not self.training or not torch.is_grad_enabled():
            return self._against(image, self._in_evaluation(text_tower))
        if self.refresh_every is None:
            return self._against(image, self._read_classes(text_tower))
        steps = self._read_steps()
        if steps % self.refresh_every == 0:
            with torch.no_grad():
                self.prototypes.copy_(self._read_classes(text_tower))
                if world_size() > 1:  # with dropout each rank draws others
                    dist.broadcast(self.prototypes, 0)
            self.num_steps += 1
        else:
            # The buffer stands still where a refresh is due that this process does not know of,
            # because the step that did it was left out: also a run that was killed repeats it.
            self.num_steps += self.num_steps % self.refresh_every != 0
        self._known_steps = (self.num_steps, steps + 1)
        return self._against(image, self.prototypes.clone())

    def leave_out(self) -> None:
        """Follow buffers that were restored because a step was left out; call it on every rank.

        The next step reads the number of steps again, and repeats a refresh that was lost.
        """
        self._known_steps = None

    def train(self, mode: bool = True) -> PrototypeLabelHead:
        """Set the mode; an evaluation begins without prototypes of an earlier one.

        Weights of FSDP2 that are gathered do not tell that they have changed.
        """
        super().train(mode)
        self._evaluated = None
        return self

    def config(self) -> dict[str, Any]:
        """Plain arguments that build this head again."""
        return {
            "embedding_dim": self.embedding_dim,
            "class_names": list(self.prompt_names),
            "templates": list(self.templates),
            "scale": self._start_scale,
            "refresh_every": self.refresh_every,
            "num_tokens": self.tokens.shape[1],
        }

    def _read_steps(self) -> int:
        """Return the number of steps, read from the buffer only if that is another one now.

        ``torch.func.functional_call`` replaces buffers for a pass, and ``to`` for good.
        """
        if self._known_steps is not None and self._known_steps[0] is self.num_steps:
            return self._known_steps[1]
        return int(self.num_steps)

    def _against(
        self, image: Float[Tensor, "B D"], prototypes: Float[Tensor, "C D"]
    ) -> Float[Tensor, "B C"]:
        return self.log_scale.exp() * (F.normalize(image, dim=-1) @ prototypes.to(image.dtype).T)

    def _read_classes(self, text_tower: TextTowerCall) -> Float[Tensor, "C D"]:
        if not self.tokens.shape[1]:
            raise ConfigError(
                "label_head: its texts are not tokenized; call "
                "encoder.label_head.read_texts(tokenizer) first (clipkit fit does)"
            )
        sentences = F.normalize(text_tower(self.tokens).float(), dim=-1)
        means = sentences.view(self.num_classes, len(self.templates), -1).mean(1)
        return F.normalize(means, dim=-1)

    @torch.inference_mode(False)  # kept prototypes must work in passes with gradients, too
    @torch.no_grad()
    def _in_evaluation(self, text_tower: TextTowerCall) -> Float[Tensor, "C D"]:
        """Return current prototypes, computed again only if the text tower's weights changed."""
        weights = list(text_tower.parameters()) if isinstance(text_tower, nn.Module) else []
        # Inference tensors have no version counter: with them, compute every time.
        changes = [] if any(w.is_inference() for w in weights) else [w._version for w in weights]
        changes.append(self.tokens.data_ptr())
        if len(changes) == 1 or self._evaluated is None or self._evaluated[0] != changes:
            self._evaluated = (changes, self._read_classes(text_tower))
        return self._evaluated[1].to(self.prototypes.device)


def _forget_steps(head: nn.Module, *_: Any) -> None:
    """Let the next step read the number of steps again."""
    assert isinstance(head, PrototypeLabelHead)
    head._known_steps = None


def _forget_all(head: nn.Module, *_: Any) -> None:
    """Follow the buffers and weights of a checkpoint."""
    assert isinstance(head, PrototypeLabelHead)
    head._known_steps, head._evaluated = None, None
