"""How good and how fast a search is: recall against the exact search, and queries per second, on real queries.

Shape legend: S queries, D width, K best.
"""

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from skipwise.retrieval.search.exact import ExactSearch, Search
from skipwise.retrieval.vectors import Vectors

AT_A_TIME = 64
"""Queries of one call, as a busy server batches them."""
_PASSES = 3


@dataclass(frozen=True)
class Measured:
    """One kind at one setting."""

    kind: str
    search: dict[str, int]
    """See `IndexSearch`."""
    recall_at_10: float
    recall_at_k: float
    queries_per_s: float

    def record(self) -> dict[str, Any]:
        """As the manifest lists it."""
        return asdict(self)


@dataclass(frozen=True)
class Truth:
    """Queries, and the exact answers to them."""

    queries_SD: Tensor
    rows_SK: Tensor
    scores_SK: Tensor

    @classmethod
    def of(cls, vectors: Vectors, queries_SD: Tensor, k: int) -> "Truth":
        """K is `k`."""
        return cls(queries_SD, *ask(ExactSearch(vectors), queries_SD, k))


def measure(kind: str, settings: dict[str, int], search: Search, truth: Truth) -> Measured:
    """Asks every query for its best K, `AT_A_TIME` in one call, and counts the fastest of several passes."""
    k = truth.rows_SK.shape[1]
    seconds = []
    for _ in range(_PASSES):
        began = time.perf_counter()
        rows_SK, scores_SK = ask(search, truth.queries_SD, k)
        seconds.append(time.perf_counter() - began)
    of_10, of_k = (recall(rows_SK, scores_SK, truth, at) for at in (10, k))
    return Measured(kind, settings, of_10, of_k, len(truth.queries_SD) / min(seconds))


def recall(rows_SK: Tensor, scores_SK: Tensor, truth: Truth, at: int) -> float:
    """The share of each query's exact best `at` rows that are among its first `at` found; a row whose score equals the
    last of those best is as good. Where the table has fewer rows, the share of all."""
    there_SK = truth.rows_SK[:, :at] >= 0
    found_SKK = rows_SK[:, :at, None] == truth.rows_SK[:, None, :at]
    lowest_S1 = truth.scores_SK[:, :at].masked_fill(~there_SK, float("inf")).min(dim=1, keepdim=True).values
    good_SK = found_SKK.any(dim=2) | (scores_SK[:, :at] >= lowest_S1)
    return float((good_SK & (rows_SK[:, :at] >= 0)).sum() / there_SK.sum())


def ask(search: Search, queries_SD: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Each query's best `k`, `AT_A_TIME` queries in one call, with nothing left out."""
    found = [
        search.search(part_QD, k, torch.empty(len(part_QD), 0, dtype=torch.int64))
        for part_QD in queries_SD.split(AT_A_TIME)
    ]
    rows_SK, scores_SK = (torch.cat(pieces) for pieces in zip(*found, strict=True))
    return rows_SK, scores_SK
