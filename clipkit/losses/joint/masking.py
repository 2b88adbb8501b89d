"""Which words of captions are masked in a step, and their fused states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from clipkit.distributed.row_requests import first_row
from clipkit.errors import ConfigError
from clipkit.losses.joint.draws import mix, sample_keys, sample_numbers, uniform
from clipkit.losses.joint.fused_rows import (
    Tokens,
    complete_samples,
    joint_of,
    sizes_of_ranks,
    tokens_of,
)
from clipkit.token_sequences import JointStage
from clipkit.types import Batch, Embeddings

_SHARE_MASKED: Final = 0.8
_SHARE_RANDOM: Final = 0.1
_COUNTER: Final = 2  # kinds of draws 0 and 1 are those of MatchingLoss


class MaskedTokens(NamedTuple):
    """Token ids of which some are replaced.

    Attributes:
        tokens: Token ids that the text tower reads.
        chosen: Which ids are to be predicted.
        targets: Token ids before.
    """

    tokens: Int64[Tensor, "B S"]
    chosen: Bool[Tensor, "B S"]
    targets: Int64[Tensor, "B S"]


def mask_tokens(
    tokens: Int64[Tensor, "B S"],
    eligible: Bool[Tensor, "B S"],
    keys: Int64[Tensor, " B"],
    words: Int64[Tensor, " words"],
    mask_id: int,
    probability: float = 0.15,
) -> MaskedTokens:
    """Choose tokens, and replace them as BERT does (Devlin et al. 2018, arXiv:1810.04805, 3.1).

    Of the chosen tokens 80 % become ``mask_id``, 10 % a random word, and 10 % stay. Each decision
    is a number of its sample and position.

    Args:
        tokens: Token ids.
        eligible: Which of them may be chosen.
        keys: Key of each sample; see ``sample_keys``.
        words: Token ids that a random word is taken from.
        mask_id: Token id of masked words.
        probability: Probability of an eligible token to be chosen.
    """
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    numbers = [keys[:, None] ^ mix(positions + (part << 32)) for part in range(3)]
    first, second, third = (uniform(number) for number in numbers)
    chosen = eligible & (first < probability)
    drawn = words[(third * len(words)).long().clamp(max=len(words) - 1)]
    masked = tokens.masked_fill(chosen & (second < _SHARE_MASKED), mask_id)
    becomes_random = (second >= _SHARE_MASKED) & (second < _SHARE_MASKED + _SHARE_RANDOM)
    return MaskedTokens(torch.where(chosen & becomes_random, drawn, masked), chosen, tokens)


@final
class WordMasking:
    """The choice of masked words in a step, which is that of every term with the same options.

    Args:
        mask_id: Token id of masked words.
        special_ids: Token ids that are never masked, nor taken as a random word.
        probability: Probability of a token to be chosen.
        seed: Seed of the choices.
        term: Name of the term, for errors.

    Raises:
        ConfigError: If the probability is not between 0 and 1.
    """

    def __init__(
        self, mask_id: int, special_ids: Sequence[int], probability: float, seed: int, term: str
    ) -> None:
        if not 0 < probability < 1:
            raise ConfigError(f"{term}.probability: expected 0 to 1, got {probability}")
        self.mask_id, self.special_ids = mask_id, tuple(special_ids)
        self.probability, self.seed, self.term = probability, seed, term
        self._copied: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    def check(self, joint: JointStage) -> None:
        """Refuse an encoder that cannot predict words, and ids beyond its vocabulary."""
        if "text" not in joint.fused_names or joint.vocab_size == 0:
            raise ConfigError(
                f"{self.term}: expected an encoder that fuses texts and has a word_head, got "
                f"one that fuses {', '.join(joint.fused_names)} "
                f"{'with' if joint.vocab_size else 'without'} a word_head"
            )
        if "text" not in joint.returned_names:
            raise ConfigError(
                f"{self.term}: expected a fusion that returns the tokens of text, got one that "
                f"returns those of {', '.join(joint.returned_names)}; set query: text, or use "
                f"MergedFusion"
            )
        ids = (self.mask_id, *self.special_ids)
        if not all(0 <= number < joint.vocab_size for number in ids):
            raise ConfigError(
                f"{self.term}: mask_id and special_ids: expected 0 to {joint.vocab_size - 1}, "
                f"got {self.mask_id} and {list(self.special_ids)}"
            )

    def masked(self, embeddings: Embeddings, batch: Batch | None) -> MaskedTokens:
        """Mask the captions of samples that have everything that is fused.

        Args:
            embeddings: Output of the encoder that is trained, for this rank's batch.
            batch: This rank's batch.

        Raises:
            ConfigError: As ``check``, or if the batch has no captions.
        """
        joint = joint_of(embeddings, self.term)
        self.check(joint)
        if batch is None or batch.tokens is None:
            raise ConfigError(f"{self.term}: expected a batch with captions, got none")
        mask = tokens_of(embeddings, joint, self.term)["text"].mask
        valid = complete_samples(embeddings, batch, joint)
        return self.masked_tokens(batch, batch.tokens, valid, mask, joint.vocab_size)

    def masked_tokens(
        self,
        batch: Batch,
        tokens: Int64[Tensor, "B S"],
        valid: Bool[Tensor, " B"],
        mask: Bool[Tensor, "B S"] | None,
        vocab_size: int,
    ) -> MaskedTokens:
        """Mask captions.

        Args:
            batch: Batch of this rank.
            tokens: Its token ids.
            valid: Which samples are masked.
            mask: Which tokens are not padding; None for all.
            vocab_size: Number of token ids.
        """
        device, first = tokens.device, 0
        if batch.sample_ids is None:
            first = first_row(sizes_of_ranks(batch, len(tokens)))
        ids = sample_numbers(batch, len(tokens), first, device)
        keys = sample_keys(batch, ids, self.seed, _COUNTER)
        special, words = self._ids(vocab_size, device)
        eligible = valid[:, None] & (tokens[..., None] != special).all(-1)
        if mask is not None:
            eligible = eligible & mask
        return mask_tokens(tokens, eligible, keys, words, self.mask_id, self.probability)

    def _ids(self, vocab_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the ids that are never chosen, and those of random words, copied once."""
        place = vocab_size, device
        if place not in self._copied:
            special = {*self.special_ids, self.mask_id}
            words = [number for number in range(vocab_size) if number not in special]
            self._copied[place] = (
                torch.tensor(sorted(special)).to(device, non_blocking=True),
                torch.tensor(words).to(device, non_blocking=True),
            )
        return self._copied[place]


class Places(NamedTuple):
    """Where the chosen words of some samples are.

    Attributes:
        rows: Sample of each word, counted from the first of these.
        positions: Its position in the caption.
    """

    rows: Int64[Tensor, " words"]
    positions: Int64[Tensor, " words"]


def chosen_places(chosen: Bool[Tensor, "B S"], micro_batch_size: int | None) -> dict[int, Places]:
    """Return the places of the chosen words of each micro-batch, by its first sample.

    Their number decides the shapes that follow: a GPU is waited for here, once.

    Args:
        chosen: Which words are chosen.
        micro_batch_size: Samples of a micro-batch; None for all.
    """
    size = micro_batch_size or max(1, len(chosen))
    parts = torch.split(chosen, size)
    counts = on_the_host(torch.stack([part.sum() for part in parts]))
    # the chosen ones first, in their order
    order = chosen.flatten().to(torch.uint8).argsort(descending=True, stable=True)
    length = chosen.shape[1]
    return {
        number * size: Places(words // length - number * size, words % length)
        for number, words in enumerate(torch.split(order[: sum(counts)], counts))
    }


def on_the_host(counts: Int64[Tensor, " parts"]) -> list[int]:
    """Return numbers that a GPU has computed."""
    numbers: list[int] = counts.tolist()
    return numbers


def chosen_states(
    joint: JointStage, tokens: Tokens, masked: MaskedTokens, rows: slice, places: Places
) -> Float[Tensor, "words width"]:
    """Return the fused states of the chosen words of some samples.

    Args:
        joint: Encoder whose text tower reads the masked captions.
        tokens: Tokens of the samples, of that encoder; those of the captions are not read.
        masked: Masked captions.
        rows: Samples.
        places: Where the chosen words of these samples are.
    """
    others = {n: tokens[n].rows(rows) for n in joint.fused_names if n != "text"}
    text = joint.read_text_tokens(masked.tokens[rows])
    return joint.fuse({**others, "text": text}).tokens["text"][places]
