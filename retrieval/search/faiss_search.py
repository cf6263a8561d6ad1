"""An approximate search: FAISS finds candidates, and their own vectors give their scores.

Shape legend: Q queries, D width, K best, X rows to leave out of a query, W candidates of a query, S queries for which
the index found too few.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from skipwise.common.versions import import_faiss
from skipwise.models.topk import best_of
from skipwise.retrieval.search.allowed import Allowed
from skipwise.retrieval.search.config import FEW_ROWS
from skipwise.retrieval.search.exact import ExactSearch, none_found
from skipwise.retrieval.search.faiss_build import query_points, scan_rows
from skipwise.retrieval.vectors import Vectors

_QUERIES = 128
"""Queries whose candidates are in memory at once."""
_FEW_SHARE = 1 / 32
"""Where at most this share of all rows is allowed, the exact search of these alone takes less than the index."""
_WIDENED_BY = 2000
"""Rows left out of a query that are made up for by as many more candidates. With more the exact search is taken."""


class IndexSearch:
    """A `Search`. Scores are inner products in float32 whatever the index holds; of equal scores the lower row comes
    first, as in the exact search. Thread-safe."""

    def __init__(self, index: Any, vectors: Vectors, settings: dict[str, int]):
        """`index`: FAISS's, whose row r is row r of `vectors`, or the point of it (`faiss_build`).

        `settings`: `efSearch` of a graph, `nprobe` of an inverted file, and `shortlist`, the fewest candidates that are
        scored again (0 where not given).
        """
        self._faiss, self._index, self._vectors, self._settings = import_faiss(), index, vectors, settings
        self._exact = ExactSearch(vectors)
        self._scans = isinstance(index, self._faiss.IndexFastScan)
        """Whether all rows are read, by codes: FAISS then leaves none out, and finds none where all score alike."""

    @property
    def num_rows(self) -> int:
        """Rows that the index knows."""
        return int(self._index.ntotal)

    def over(self, vectors: Vectors) -> "IndexSearch":
        """The same index, whose candidates are scored by other vectors, as many."""
        found = IndexSearch(self._index, vectors, self._settings)
        found._exact = self._exact.over(vectors)
        return found

    def changed(self, rows_X: np.ndarray) -> None:
        """See `Search`: the index itself stays as it is."""
        self._exact.changed(rows_X)

    def search(
        self, queries_QD: Tensor, k: int, excluded_QX: Tensor, allowed: Allowed | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Search`. A row that the index does not find is missing, even where it is among the best.

        Among few allowed rows the exact search finds the best; among more it does so for queries of which thousands of
        rows are left out, and for those for which the index finds fewer than `k`. In place of `fastscan` it answers
        wherever not all rows are allowed.
        """
        if allowed is None and not self._scans:
            return self._in_parts(queries_QD, k, excluded_QX)
        if allowed and (self._scans or allowed.count <= max(FEW_ROWS, _FEW_SHARE * allowed.num_rows)):
            return self._exact.search(queries_QD, k, excluded_QX, allowed)
        if excluded_QX.shape[1] <= _WIDENED_BY:
            rows_QK, scores_QK = self._in_parts(queries_QD, k, excluded_QX, allowed)
        else:
            rows_QK, scores_QK = none_found(queries_QD, k)
            few_Q = (excluded_QX >= 0).sum(dim=1) <= _WIDENED_BY
            rows_QK[few_Q], scores_QK[few_Q] = self._in_parts(queries_QD[few_Q], k, excluded_QX[few_Q], allowed)
        if len(short_S := (rows_QK[:, -1] < 0).nonzero().squeeze(1)):
            found = self._exact.search(queries_QD[short_S], k, excluded_QX[short_S], allowed)
            rows_QK[short_S], scores_QK[short_S] = found
        return rows_QK, scores_QK

    def _in_parts(
        self, queries_QD: Tensor, k: int, excluded_QX: Tensor, allowed: Allowed | None = None
    ) -> tuple[Tensor, Tensor]:
        found = [
            self._search(part_QD, k, part_QX, allowed)
            for part_QD, part_QX in zip(queries_QD.split(_QUERIES), excluded_QX.split(_QUERIES), strict=True)
        ]
        rows_QK, scores_QK = (torch.cat(pieces) for pieces in zip(*found, strict=True))
        return rows_QK, scores_QK

    def _search(
        self, queries_QD: Tensor, k: int, excluded_QX: Tensor, allowed: Allowed | None
    ) -> tuple[Tensor, Tensor]:
        left_out = int((excluded_QX >= 0).sum(dim=1).max()) if excluded_QX.numel() else 0
        shortlist = self._settings.get("shortlist", 0)
        width = max(k + left_out, shortlist) if allowed is None else max(k, shortlist) + left_out
        width = min(self._index.ntotal, width)
        if not width or not len(queries_QD):
            return none_found(queries_QD, k)
        asked_QD = queries_QD.numpy()
        if self._scans:
            asked_QD = scan_rows(asked_QD)
        elif self._index.d > queries_QD.shape[1]:
            asked_QD = query_points(asked_QD)
        _, rows_QW = self._index.search(asked_QD, width, params=self._parameters(width, allowed))
        # In ascending order, so that of equal scores the lower row comes first.
        rows_QW = torch.from_numpy(np.sort(rows_QW, axis=1))
        scores_QW = self._scores(queries_QD, rows_QW)
        place_QX = torch.searchsorted(rows_QW, excluded_QX).clamp(max=width - 1)
        query_P, left_out_P = (rows_QW.gather(1, place_QX) == excluded_QX).nonzero(as_tuple=True)
        rows_QW[query_P, place_QX[query_P, left_out_P]] = -1
        scores_QW.masked_fill_(rows_QW < 0, float("-inf"))
        missing = (0, max(k - width, 0))
        return best_of(pad(rows_QW, missing, value=-1), pad(scores_QW, missing, value=float("-inf")), k)

    def _scores(self, queries_QD: Tensor, rows_QW: Tensor) -> Tensor:
        taken = self._vectors.take(np.maximum(rows_QW.numpy(), 0).ravel())
        vectors_QWD = torch.from_numpy(taken).view(*rows_QW.shape, -1)
        return torch.bmm(vectors_QWD, queries_QD[:, :, None]).squeeze(2)

    def _parameters(self, width: int, allowed: Allowed | None) -> Any:
        """Passed with each call: threads would share what is set on the index itself.

        The fewer rows are allowed, the more of the index is gone through: a graph in proportion, as it ends when it has
        seen `efSearch` rows, lists by the root, which kept the recall where it was.
        """
        selector, wider = None, 1.0
        if allowed is not None:
            selector = self._faiss.IDSelectorBitmap(allowed.bits)
            wider = allowed.num_rows / allowed.count
        if "efSearch" in self._settings:
            wide = math.ceil(max(self._settings["efSearch"], width) * wider)
            return self._faiss.SearchParametersHNSW(efSearch=wide, sel=selector)
        if "nprobe" in self._settings:
            probes = min(self._index.nlist, math.ceil(self._settings["nprobe"] * math.sqrt(wider)))
            return self._faiss.SearchParametersIVF(nprobe=probes, sel=selector)
        return None if allowed is None else self._faiss.SearchParameters(sel=selector)
