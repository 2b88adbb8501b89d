"""Count, for each correct pair, the incorrect candidates that score at least as high."""

from __future__ import annotations

from typing import Final, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

NEAR: Final = 1e-5  # above the error of fp32 dot products of unit vectors; below it, fp64 decides
_SAME: Final = 1e-12  # above the difference of fp64 dot products of equal vectors
_FEW: Final = 64  # at most 1 of this many scores is few
_MAX_SLOTS: Final = 16  # largest number of pairs of a query that are compared one after another


class Tile:
    """Scores of some images and texts, without the correct pairs.

    Args:
        image: Unit-norm embeddings of some images.
        text: Unit-norm embeddings of some texts.
        first_image: Row of the first of these images among all images.
        first_text: Row of the first of these texts among all texts.
        pairs: Correct pairs of these images: rows among all images and all texts.
    """

    def __init__(
        self,
        image: Float[Tensor, "tile_rows D"],
        text: Float[Tensor, "tile_columns D"],
        first_image: int,
        first_text: int,
        pairs: Int64[Tensor, "pairs 2"],
    ) -> None:
        self.image, self.text = image, text
        self.first = {"image": first_image, "text": first_text}
        self.scores = image @ text.T
        row, column = pairs[:, 0] - first_image, pairs[:, 1] - first_text
        inside = (column >= 0) & (column < len(text))
        self.scores[row[inside], column[inside]] = -torch.inf

    def exact(
        self, row: Int64[Tensor, " places"], column: Int64[Tensor, " places"]
    ) -> Float[Tensor, " places"]:
        """Return scores in fp64."""
        if len(row) > self.scores.numel() // _FEW:  # a collapsed model: all scores are equal
            return (self.image.double() @ self.text.double().T)[row, column]
        return (self.image[row].double() * self.text[column].double()).sum(1)


class PairCounts:
    """Correct pairs by ascending query and score, with counts of incorrect candidates.

    Args:
        query: Row of the query of each of the P pairs.
        score: Score of each pair.
        num_queries: Number of rows on the side of the queries.
        side: Side of the queries: "image" or "text".
    """

    def __init__(
        self,
        query: Int64[Tensor, " pairs"],
        score: Float[Tensor, " pairs"],
        num_queries: int,
        side: Literal["image", "text"],
    ) -> None:
        by_score = score.argsort(stable=True)
        order = by_score[query[by_score].argsort(stable=True)]
        self.query, self._score = query[order], score[order]
        rows = torch.arange(num_queries + 1, device=query.device)
        self.start = torch.searchsorted(self.query, rows)  # first pair of each query, and P
        lowest = torch.full((num_queries,), torch.inf, dtype=torch.float64, device=query.device)
        lowest.scatter_reduce_(0, query, score, "amin")
        self._floor = (lowest - 2 * NEAR).float()  # lower scores reach no pair of the query
        self._most = int((self.start[1:] - self.start[:-1]).max())
        self._axis = 0 if side == "image" else 1
        self._side = side
        # counted[p]: candidates that reach pair p and, because it is the best that they reach, all
        # pairs of the query before it; alone[p]: candidates counted for pair p alone
        self.counted = torch.zeros(len(query), dtype=torch.int64, device=query.device)
        self.alone = torch.zeros_like(self.counted)

    def add(self, tile: Tile) -> None:
        """Count the incorrect candidates of a tile."""
        first = tile.first[self._side]
        size = tile.scores.shape[self._axis]
        reaches = tile.scores >= self._across(self._floor[first : first + size])
        is_dense = int(reaches.count_nonzero()) > reaches.numel() // _FEW
        if is_dense and self._most <= _MAX_SLOTS:
            for slot in range(self._most):
                self._add_slot(tile, first, size, slot)
            return
        row, column = reaches.nonzero(as_tuple=True)
        query = first + (row, column)[self._axis]
        score = tile.scores[row, column].double()
        end, latest = self._end(query, score - NEAR), self._end(query, score + NEAR)
        near = (end != latest).nonzero().squeeze(1)
        if len(near):
            exact = tile.exact(row[near], column[near])
            end[near] = self._end(query[near], exact + _SAME)
        best = end[end > self.start[query]] - 1
        self.counted.index_add_(0, best, torch.ones_like(best))

    def _add_slot(self, tile: Tile, first: int, size: int, slot: int) -> None:
        """Count the candidates that reach one pair of each query: that of a certain position."""
        place = self.start[first : first + size] + slot
        is_pair = place < self.start[first + 1 : first + size + 1]
        threshold = self._score.new_full((size,), torch.inf)
        threshold[is_pair] = self._score[place[is_pair]]
        reached = tile.scores > self._across((threshold + NEAR).float())
        near = (tile.scores >= self._across((threshold - NEAR).float())) & ~reached
        row, column = near.nonzero(as_tuple=True)
        if len(row):
            wanted = threshold[(row, column)[self._axis]]
            reached[row, column] = tile.exact(row, column) >= wanted - _SAME
        self.alone[place[is_pair]] += reached.sum(1 - self._axis)[is_pair]

    def _across(self, of_queries: Float[Tensor, " queries"]) -> Tensor:
        """Return a value of each query in the shape in which it is compared with a tile."""
        return of_queries[:, None] if self._axis == 0 else of_queries[None]

    def _end(
        self, query: Int64[Tensor, " places"], score: Float[Tensor, " places"]
    ) -> Int64[Tensor, " places"]:
        """Return the end of those pairs of the query that a score reaches, by bisection."""
        low, high = self.start[query], self.start[query + 1]
        for _ in range(self._most.bit_length()):
            middle = (low + high) // 2
            is_open = low < high
            is_reached = is_open & (self._score[middle.clamp(max=len(self._score) - 1)] <= score)
            low = torch.where(is_reached, middle + 1, low)
            high = torch.where(is_open & ~is_reached, middle, high)
        return low
