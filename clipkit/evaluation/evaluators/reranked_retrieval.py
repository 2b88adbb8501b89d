"""Retrieval whose best candidates a joint encoder scores again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from clipkit.errors import ConfigError, DataError, check_at_least
from clipkit.evaluation.correct_pairs import Candidates
from clipkit.evaluation.embedding import tokenizer_of
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.evaluators.retrieval import Retrieval
from clipkit.evaluation.evaluators.retrieval_outcomes import pair_outcomes
from clipkit.evaluation.joint_tokens import modality_tokens, text_tokens
from clipkit.evaluation.memory import remembering
from clipkit.evaluation.modality_pairs import ModalityPair
from clipkit.evaluation.outcomes.metrics import outcome_metrics
from clipkit.evaluation.outcomes.outcomes import Evaluation
from clipkit.metrics.ranking import PairRanks
from clipkit.metrics.reranking import reranked_pair_ranks
from clipkit.models import DualEncoder, JointEncoder, pair_scores, reranking_scores
from clipkit.models.evaluating import evaluating
from clipkit.token_sequences import TokenSequence

PREFIX = "reranked/"
"""Text before the names of the metrics after re-ranking."""
_Score = Callable[[Int64[Tensor, "pairs 2"]], Float[Tensor, " pairs"]]


@dataclass(frozen=True, slots=True)
class RerankedDirection:
    """What re-ranking changed for the queries of one direction.

    Args:
        prefix: Text before the names of metrics, such as "text_to_image/".
        first_before: Candidate that is first by similarity, of each query.
        first_after: Candidate that is first after re-ranking.
        seconds_per_query: Time of the fusion.
    """

    prefix: str
    first_before: Int64[Tensor, " queries"]
    first_after: Int64[Tensor, " queries"]
    seconds_per_query: float


@dataclass(frozen=True, slots=True)
class RerankedEvaluation:
    """A retrieval before and after re-ranking.

    Args:
        evaluation: Metrics and outcomes of both.
        pair: Images and texts that were compared, or the two modalities that are fused.
        directions: What changed, with the first and with the second of the pair as queries.
        num_best: Number of candidates of each query that were scored again.
    """

    evaluation: Evaluation
    pair: ModalityPair
    directions: tuple[RerankedDirection, RerankedDirection]
    num_best: int


@final
class RerankedRetrieval(Evaluator):
    """Retrieval by a joint encoder: its dual encoder finds K candidates, its fusion orders them.

    The final order of the K candidates is that of the scaled similarity plus the matching logit,
    see ``clipkit.models.reranking_scores``; the others keep their places. The two modalities that
    the encoder fuses are re-ranked, such as sounds and texts; retrieval between others is measured
    as before. Each rank of a process group computes everything.

    Args:
        retrieval: The retrieval that is measured before and after, also by group of queries.
        num_best: Number of candidates of each query that are scored again.

    Raises:
        ConfigError: If ``num_best`` is less than 1, or the data were opened for one modality.

    Examples:
        >>> joint = with_fusion(encoder, CrossAttentionFusion(width=16, depth=1, num_heads=2))
        >>> RerankedRetrieval(Retrieval("data/val"), num_best=5).run(joint)
        {'image_to_text/recall_at_1': ..., ...}
    """

    def __init__(self, retrieval: Retrieval, num_best: int = 20) -> None:
        check_at_least("num_best", num_best, 1)
        if retrieval.data.modality.name != "image":
            raise ConfigError(
                f"rerank: expected data that were opened without a modality, of which retrieval "
                f"reads all, got {retrieval.data.modality.name}"
            )
        self.retrieval, self.num_best, self.data = retrieval, num_best, retrieval.data
        self.primary_metric = f"{PREFIX}{retrieval.primary_metric}"

    def run(self, encoder: DualEncoder) -> dict[str, float]:
        """Return the metrics before, those after as ``reranked/NAME``, and the time per query.

        ``reranked/DIRECTION/seconds_per_query`` is the time of the fusion, with that of copying
        tokens to its device, and without that of the towers and of sorting.

        Raises:
            ConfigError: If the encoder is none that fuses two modalities.
            DataError: If no sample has both.
        """
        return self.evaluate(encoder).metrics

    def evaluate(self, encoder: DualEncoder) -> Evaluation:
        """Return the metrics and the outcome of each image and caption; see ``run``."""
        return self.compare(encoder).evaluation

    def compare(self, encoder: DualEncoder) -> RerankedEvaluation:
        """Return what ``evaluate`` does, and the first candidate of each query before and after."""
        joint = _checked(encoder)
        with remembering():
            before = self.retrieval.evaluate(encoder)
            pair = self._fused_pair(joint)
        options, device = self.retrieval.options, joint.log_logit_scale.device
        tokens = self._tokens(joint, pair, pair.first), self._tokens(joint, pair, pair.second)
        ranker = _Reranker(joint, pair, tokens, self.num_best)
        with evaluating(joint, options.precision):
            after = [
                replace(part, prefix=f"{PREFIX}{part.prefix}")
                for part in pair_outcomes(pair, self.retrieval.ks, (), device, ranker)
            ]
        metrics = {name: v for part in after for name, v in outcome_metrics(part).items()}
        assert ranker.complete is not None, "pair_outcomes calls it"
        there, back = (
            scores.direction(prefix)
            for scores, prefix in zip(ranker.complete, pair.prefixes, strict=True)
        )
        seconds = {
            f"{PREFIX}{one.prefix}seconds_per_query": one.seconds_per_query for one in (there, back)
        }
        evaluation = replace(
            before,
            metrics={**before.metrics, **metrics, **seconds},
            outcomes=(*before.outcomes, *after),
        )
        return RerankedEvaluation(evaluation, pair, (there, back), self.num_best)

    def _fused_pair(self, joint: JointEncoder) -> ModalityPair:
        """Return what is compared of the two modalities that are fused."""
        fused = {*joint.fused_names}
        pairs = self.retrieval.pairs(joint)
        found = next((pair for pair in pairs if {pair.first, pair.second} == fused), None)
        if found is None:
            raise DataError(
                f"{self.data.name}: rerank: expected samples with {' and '.join(sorted(fused))}, "
                f"which the encoder fuses, got none; what is neither image, text nor sound needs "
                f"the field that reads it: Retrieval(DATA, fields=[...])"
            )
        return found

    def _tokens(self, joint: JointEncoder, pair: ModalityPair, name: str) -> TokenSequence:
        """Return the tokens of the candidates of a modality, in their order."""
        options = self.retrieval.options
        if name == "text":
            texts = [pair.captions[row] for row in pair.candidates.caption_rows.tolist()]
            return text_tokens(
                joint, self.retrieval.tokenizer or tokenizer_of(joint), texts, options
            )
        ids, fields = pair.samples.tolist(), self.retrieval.fields
        return modality_tokens(joint, name, self.data, ids, options, fields)


@final
class _Reranker:
    """Ranks of correct pairs by the fusion, among all candidates or those of a group.

    Args:
        joint: Encoder with the fusion, in evaluation mode.
        pair: The two modalities, with all candidates.
        tokens: Tokens of the candidates of the first, and of the second.
        num_best: Number of candidates of each query that are scored again.
    """

    def __init__(
        self,
        joint: JointEncoder,
        pair: ModalityPair,
        tokens: tuple[TokenSequence, TokenSequence],
        num_best: int,
    ) -> None:
        self._joint, self._tokens, self._num_best = joint, tokens, num_best
        self._first, self._second = pair.first, pair.second
        rows = pair.candidates.caption_rows
        self._place = torch.zeros(int(rows.max()) + 1, dtype=torch.int64)
        self._place[rows] = torch.arange(len(rows))
        # of the first call, which is that of all texts
        self.complete: tuple[_Scores, _Scores] | None = None

    def __call__(self, candidates: Candidates) -> tuple[PairRanks, PairRanks]:
        """Return the ranks with the first and with the second as queries."""
        places = self._place[candidates.caption_rows]
        firsts, seconds, pairs = candidates.images, candidates.texts, candidates.pairs
        first, second = self._first, self._second

        def of_firsts(pairs: Tensor) -> Tensor:
            rows = torch.stack([pairs[:, 0], places[pairs[:, 1]]], dim=1)
            logits = pair_scores(self._joint, *self._tokens, rows, first=first, second=second)
            similarities = (firsts[pairs[:, 0]].float() * seconds[pairs[:, 1]].float()).sum(1)
            return reranking_scores(self._joint, similarities, logits, first, second)

        back = pairs.flip(1)
        scores = _Scores(of_firsts, pairs), _Scores(lambda asked: of_firsts(asked.flip(1)), back)
        ranks = (
            reranked_pair_ranks(firsts, seconds, pairs, self._num_best, scores[0]),
            reranked_pair_ranks(seconds, firsts, back, self._num_best, scores[1]),
        )
        self.complete = self.complete or scores
        return ranks


@final
class _Scores:
    """A function that adds up the seconds of its calls; it returns when its result is there.

    Args:
        score: Function that returns the scores of pairs.
        correct: The correct pairs.
    """

    def __init__(self, score: _Score, correct: Int64[Tensor, "correct 2"]) -> None:
        self._score, self._correct, self.seconds = score, correct, 0.0
        self._before: list[Tensor] = []
        self._after: list[Tensor] = []

    def __call__(self, pairs: Int64[Tensor, "pairs 2"]) -> Float[Tensor, " pairs"]:
        """Score the best candidates of queries, those of each after those of the previous one."""
        begin = time.perf_counter()
        scores = self._score(pairs)
        self.seconds += time.perf_counter() - begin
        num_best = int((pairs[:, 0] == pairs[0, 0]).sum()) if len(pairs) else 1
        best, of_query = pairs[:, 1].view(-1, num_best), scores.view(-1, num_best)
        self._before.append(best[:, 0])
        # A tie is never a win: of equal scores an incorrect candidate is first, as in recall.
        wrong = ~_are_among(pairs, self._correct).view(-1, num_best)
        tied = of_query == of_query.amax(1, keepdim=True)
        first = (tied.long() + (tied & wrong).long()).argmax(1, keepdim=True)
        self._after.append(best.gather(1, first)[:, 0])
        return scores

    def direction(self, prefix: str) -> RerankedDirection:
        """Return what the calls changed, those of all queries in their order."""
        before, after = torch.cat(self._before), torch.cat(self._after)
        return RerankedDirection(prefix, before, after, self.seconds / len(before))


def _are_among(
    pairs: Int64[Tensor, "pairs 2"], others: Int64[Tensor, "others 2"]
) -> Bool[Tensor, " pairs"]:
    """Tell which pairs are among others."""
    width = 1 + max((int(each[:, 1].max()) for each in (pairs, others) if len(each)), default=0)
    numbers, known = (each[:, 0] * width + each[:, 1] for each in (pairs, others))
    return torch.isin(numbers, known.to(numbers.device))


def _checked(encoder: Any) -> JointEncoder:
    if not isinstance(encoder, JointEncoder):
        raise ConfigError(
            f"rerank: expected an encoder with a fusion of two modalities, got "
            f"{type(encoder).__name__}; train one with clipkit.models.with_fusion"
        )
    if len(encoder.fused_names) != 2:
        raise ConfigError(
            f"rerank: expected a fusion of two modalities, a query and a candidate, got one of "
            f"{', '.join(encoder.fused_names)}"
        )
    return encoder
