"""Ranking of the answers of a visual dialogue by the fusion of a joint encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor

from clipkit.data.samples.candidates import Turn, TurnFields, read_turn
from clipkit.data.samples.content import IMAGES_AND_SOUNDS, sample_errors
from clipkit.data.text.turns import turn_tokens
from clipkit.distributed.agreement import same_errors
from clipkit.errors import ConfigError, DataError
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.datasets.loading import decoded_chunks, ids_of_rank, texts_in_data_order
from clipkit.evaluation.datasets.opening import as_dataset
from clipkit.evaluation.embedding import tokenizer_of
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.evaluators.label_head import in_data_order
from clipkit.evaluation.inference import EmbedOptions
from clipkit.evaluation.outcomes.metrics import outcome_metrics
from clipkit.evaluation.outcomes.outcomes import Evaluation, distinct_keys
from clipkit.evaluation.outcomes.turns import turn_outcomes
from clipkit.metrics.candidates import candidate_measures
from clipkit.models import DualEncoder, JointEncoder
from clipkit.models.evaluating import evaluating
from clipkit.token_sequences import TokenSequence

_TASK: Final = "dialogue"
_GAIN: Final = "ndcg"


class ScoredTurn(NamedTuple):
    """A turn whose candidates were scored.

    Attributes:
        key: Name of the sample.
        image: Digest of its image file.
        turn: The turn.
        scores: Matching logit of each candidate, float32.
    """

    key: str
    image: str
    turn: Turn
    scores: Float[Tensor, " candidates"]


@final
class DialogueRanking(Evaluator):
    """Rank of the right answer among the candidates of each turn of a visual dialogue.

    A turn is an image, what was said before, a question, and candidates (Das et al. 2017,
    arXiv:1611.08669). The fusion of a ``JointEncoder`` scores the image with each candidate after
    the dialogue; the candidates are ordered by the matching logit. Metrics are the means of
    ``clipkit.metrics.candidate_measures``: ``mrr``, ``recall_at_1``, ``recall_at_5``,
    ``recall_at_10``, ``mean_rank``, and ``ndcg`` over the turns that have relevance. A tie is never
    won. Intervals draw complete images, because turns about one image depend on one another.

    Args:
        data: Folder, URL or pattern of shards, a table, or an opened data set, with a turn in the
            JSON of each sample.
        split: Folder inside ``data``, in CLIP_benchmark's layout.
        turn: Fields that hold a turn.
        options: Batch size (samples, and pairs of an image and a text), number of workers, limit,
            precision, progress bar.

    Raises:
        DataError: If the data cannot be found, or a sample has no turn.

    Examples:
        >>> joint = with_fusion(encoder, CrossAttentionFusion(width=16, depth=1, num_heads=2))
        >>> turn = TurnFields(question="json:name", candidates="json:keywords", correct="cls")
        >>> data = open_dataset("data/val")
        >>> metrics = DialogueRanking(data, turn=turn, options=EmbedOptions(limit=2)).run(joint)
        >>> sorted(metrics)
        ['mean_rank', 'mrr', 'recall_at_1', 'recall_at_10', 'recall_at_5']
    """

    primary_metric = "mrr"

    def __init__(
        self,
        data: str | Path | EvaluationDataset,
        split: str = "test",
        turn: TurnFields = TurnFields(),
        options: EmbedOptions = EmbedOptions(),
    ) -> None:
        self.data = as_dataset(data, split)
        self.turn, self.options = turn, options

    def run(self, encoder: DualEncoder) -> dict[str, float]:
        """Return the metrics.

        Raises:
            ConfigError: If the encoder is none that fuses images and texts alone.
        """
        return self.evaluate(encoder).metrics

    def evaluate(self, encoder: DualEncoder) -> Evaluation:
        """Return the metrics and the outcome of each turn; see ``run``."""
        joint = _checked(encoder)
        with same_errors():
            scored = self.score(joint)
            of_rank = _columns(scored)
        ids, device = ids_of_rank(self.data, self.options), joint.log_logit_scale.device
        columns = {name: in_data_order(column.to(device), ids) for name, column in of_rank.items()}
        if columns[_GAIN].isnan().all():
            del columns[_GAIN]
        keys = distinct_keys(texts_in_data_order([one.key for one in scored], device))
        images = texts_in_data_order([one.image for one in scored], device)
        outcomes = turn_outcomes(keys, images, columns, columns.pop("chosen"))
        return Evaluation(outcome_metrics(outcomes), (outcomes,))

    def score(self, joint: JointEncoder) -> list[ScoredTurn]:
        """Score the candidates of the turns of this rank.

        Raises:
            DataError: If a sample has no turn.
        """
        ids, scored = iter(ids_of_rank(self.data, self.options)), list[ScoredTurn]()
        encode, device = tokenizer_of(joint).encode, joint.log_logit_scale.device
        with evaluating(joint, self.options.precision):
            own = ids_of_rank(self.data, self.options)
            for chunk in decoded_chunks(joint, self.data, own, self.options, digests=True):
                turns = [self._turn(next(ids)) for _ in chunk.keys]
                images = joint.read_image(*chunk.on(device)).tokens
                texts = [turn_tokens(turn.context, _distinct(turn), encode) for turn in turns]
                scores = map(_of_all, turns, self._scores(joint, images, texts))
                scored += map(ScoredTurn, chunk.keys, chunk.files, turns, scores)
        return scored

    def _turn(self, number: int) -> Turn:
        raw = self.data.members(number, leave_out=IMAGES_AND_SOUNDS)
        with sample_errors(self.data.name, raw.key):
            turn = read_turn(raw.members, self.turn)
        if turn is None:
            raise DataError(
                f"{self.data.name}: {raw.key}: {_TASK} needs a list of candidates in "
                f"{self.turn.candidates}, got none"
            )
        return turn

    def _scores(
        self, joint: JointEncoder, images: TokenSequence, texts: Sequence[Sequence[list[int]]]
    ) -> list[Float[Tensor, " texts"]]:
        """Return the matching logits of each image with each of its texts."""
        device, pad = joint.log_logit_scale.device, tokenizer_of(joint).pad
        pairs = [(row, ids) for row, own in enumerate(texts) for ids in own]
        logits = []
        for start in range(0, len(pairs), self.options.batch_size):
            rows, ids = zip(*pairs[start : start + self.options.batch_size], strict=True)
            text = joint.read_text(pad(ids).to(device)).tokens
            image = images.rows(torch.tensor(rows, device=device))
            pooled = joint.fuse({"image": image, "text": text}).pooled
            logits.append(joint.match(pooled).float().cpu())
        return list(torch.split(torch.cat(logits), [len(own) for own in texts]))


def _distinct(turn: Turn) -> list[str]:
    """Return equal candidates once, so that they get the same score."""
    return list(dict.fromkeys(turn.candidates))


def _of_all(turn: Turn, scores: Float[Tensor, " distinct"]) -> Float[Tensor, " candidates"]:
    place = {text: at for at, text in enumerate(_distinct(turn))}
    return scores[[place[text] for text in turn.candidates]]


def _columns(scored: Sequence[ScoredTurn]) -> dict[str, Float[Tensor, " N"]]:
    """Return the measures of turns, and the position of the best candidate; also of no turn."""
    good = [
        None if one.turn.relevance is None else torch.tensor(one.turn.relevance) for one in scored
    ]
    measures = candidate_measures(
        [one.scores for one in scored], [one.turn.correct for one in scored], good
    )
    unknown = torch.full((len(scored),), torch.nan, dtype=torch.float64)
    chosen = torch.tensor([int(one.scores.argmax()) for one in scored], dtype=torch.float64)
    return {_GAIN: unknown, **measures, "chosen": chosen}


def _checked(encoder: Any) -> JointEncoder:
    if not isinstance(encoder, JointEncoder) or {*encoder.fused_names} != {"image", "text"}:
        raise ConfigError(
            f"{_TASK}: expected an encoder with a fusion of images and texts, got "
            f"{type(encoder).__name__}; train one with clipkit.models.with_fusion and "
            f"clipkit.losses.CandidateLoss"
        )
    return encoder
