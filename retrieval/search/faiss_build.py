"""The kinds of FAISS index, how each is built for a table of a given size, and the settings it is tried at.

All search by inner product: the vectors are not normalized, as their norms are part of what the model learned.
Random choices follow from fixed seeds, so on one thread the same export gives the same index, bit for bit. With more
threads the graph of HNSW depends on which row was added first.

HNSW is made for distances. By inner product itself, rows of large norm are neighbours of all others and rows of small
norm of none, so that a walk along the graph misses these. Therefore the graph holds points: rows divided by the
largest norm, with one more number that brings each to norm 1. Then |query - row|^2 = 2 - 2 * <query, row> for a query
of norm 1, and the order is that of the inner products.
Bachrach et al., Speeding Up the Xbox Recommender System Using a Euclidean Transformation for Inner-Product Spaces,
RecSys 2014.

Zeros fill up the width of a point, which changes no distance: FAISS builds and searches graphs of 16-bit numbers five
times as fast where it is a multiple of 16 (measured: 15,200 against 2,500 rows of 144 and 129 numbers a second).

Shape legend: N rows, Q queries, D width, E = `point_width(D)`, T rows to train on.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from skipwise.common.errors import UserError
from skipwise.common.versions import import_faiss
from skipwise.retrieval.search.config import IndexKind
from skipwise.retrieval.vectors import Vectors

_ROWS_A_CENTROID = 39
"""FAISS's own bound, below which its k-means warns."""
_TRAINED_ON = 64
"""Rows for each list that k-means is trained on."""
_CODE_NUMBERS = 4
"""Numbers of a row that one code of a byte stands for."""
_SCAN_NUMBERS, _SCAN_BITS = 2, 4
"""Those of the codes that are all gone through, and the bits of these."""
_SCAN_TRAINED_ON = 100_000
_LINKS, _WIDTH_WHILE_BUILDING = 32, 100
_BLOCK_ROWS = 1 << 14
_SEED = 0
_POINT_MULTIPLE = 16


@dataclass(frozen=True)
class BuiltIndex:
    """An index, and what it was built with."""

    index: Any
    parameters: dict[str, int]
    inserted: Callable[[np.ndarray], np.ndarray] = lambda rows_ND: rows_ND
    """From rows [N, D] to what the index holds of them."""


def fewest_rows(kind: IndexKind) -> int:
    """The fewest rows that this kind can be built of."""
    return _ROWS_A_CENTROID << 4 if kind in ("ivfpq", "fastscan") else 1


def build(kind: IndexKind, vectors: Vectors, num_rows: int) -> BuiltIndex:
    """Builds a kind other than `flat` of at least `fewest_rows(kind)` rows, block by block."""
    built = {"fastscan": _fastscan, "ivfpq": _ivfpq, "hnsw": _hnsw}[kind](vectors, num_rows)
    with tqdm(total=num_rows, desc=f"adding to {kind}", leave=False, mininterval=1) as bar:
        for _, block_BD in vectors.blocks(_BLOCK_ROWS):
            built.index.add(built.inserted(_finite(block_BD.numpy())))
            bar.update(len(block_BD))
    return built


def search_settings(kind: IndexKind, built: BuiltIndex | None, k: int) -> list[dict[str, int]]:
    """What `IndexSearch` is tried with, to find `k` rows; `built` is None for `flat`."""
    if built is None:
        return [{}]
    if kind == "hnsw":
        return [{"efSearch": width} for width in sorted({k, *(2**power for power in range(4, 10))}) if width >= k]
    if kind == "fastscan":
        return [{"shortlist": shortlist} for shortlist in (k, 2 * k, 4 * k, 16 * k)]
    probes = sorted({min(2**power, built.parameters["nlist"]) for power in range(2, 10)})
    return [{"nprobe": nprobe, "shortlist": shortlist} for shortlist in (k, 2 * k, 4 * k) for nprobe in probes]


def _ivfpq(vectors: Vectors, num_rows: int) -> BuiltIndex:
    """About 4 * sqrt(N) lists, codes of one byte for four numbers; for a small N both as fine as it can train."""
    faiss, dim = import_faiss(), vectors.dim
    lists = max(1, min(int(4 * math.sqrt(num_rows)), num_rows // _ROWS_A_CENTROID))
    bits = min(8, int(math.log2(num_rows / _ROWS_A_CENTROID)))
    codes = dim // _CODE_NUMBERS
    index = faiss.IndexIVFPQ(faiss.IndexFlatIP(dim), dim, lists, codes, bits, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = index.pq.cp.seed = _SEED
    trained_on = min(num_rows, max(_TRAINED_ON * lists, _ROWS_A_CENTROID << bits))
    index.train(_some(vectors, num_rows, trained_on))
    return BuiltIndex(index, {"nlist": lists, "codes": codes, "bits": bits, "trained_on": trained_on})


def _some(vectors: Vectors, num_rows: int, trained_on: int) -> np.ndarray:
    """float32 [T, D]."""
    chosen_T = np.random.default_rng(_SEED).choice(num_rows, trained_on, replace=False)
    return _finite(vectors.take(np.sort(chosen_T)))


def _fastscan(vectors: Vectors, num_rows: int) -> BuiltIndex:
    """Codes of four bits for two numbers, which a processor looks up in its registers: all rows are gone through."""
    index = scan_index(vectors.dim)
    index.pq.cp.seed = _SEED
    trained_on = min(num_rows, _SCAN_TRAINED_ON)
    index.train(scan_rows(_some(vectors, num_rows, trained_on)))
    parameters = {"codes": index.pq.M, "bits": _SCAN_BITS, "trained_on": trained_on}
    return BuiltIndex(index, parameters, scan_rows)


def scan_index(dim: int) -> Any:
    """An empty `fastscan` index of rows of `dim` numbers."""
    faiss, codes = import_faiss(), -(-dim // _SCAN_NUMBERS)
    return faiss.IndexPQFastScan(_SCAN_NUMBERS * codes, codes, _SCAN_BITS, faiss.METRIC_INNER_PRODUCT)


def scan_rows(rows_ND: np.ndarray) -> np.ndarray:
    """Rows or queries, with a 0 behind an odd number of numbers."""
    odd = rows_ND.shape[1] % _SCAN_NUMBERS
    return np.pad(rows_ND, ((0, 0), (0, _SCAN_NUMBERS - odd))) if odd else rows_ND


def _hnsw(vectors: Vectors, num_rows: int) -> BuiltIndex:
    """A graph over points of 16-bit numbers: they only lead to candidates, which are scored by their own vectors."""
    faiss = import_faiss()
    index = faiss.IndexHNSWSQ(point_width(vectors.dim), faiss.ScalarQuantizer.QT_fp16, _LINKS, faiss.METRIC_L2)
    index.hnsw.efConstruction = _WIDTH_WHILE_BUILDING
    largest = max((float(block_BD.norm(dim=1).max()) for _, block_BD in vectors.blocks()), default=0.0) or 1.0
    parameters = {"M": _LINKS, "efConstruction": _WIDTH_WHILE_BUILDING}
    return BuiltIndex(index, parameters, lambda rows_ND: _points(rows_ND, largest))


def _finite(vectors_ND: np.ndarray) -> np.ndarray:
    if not np.isfinite(vectors_ND).all():
        raise UserError("the export's embeddings hold numbers that are not finite: export a run that did not diverge")
    return vectors_ND


def point_width(dim: int) -> int:
    """E: one more than D, rounded up."""
    return -(-(dim + 1) // _POINT_MULTIPLE) * _POINT_MULTIPLE


def _points(rows_ND: np.ndarray, largest: float) -> np.ndarray:
    """float32 [N, E] on the unit sphere; `largest`: the largest norm of all rows."""
    rows, dim = rows_ND.shape
    points_NE = np.zeros((rows, point_width(dim)), dtype=np.float32)
    np.divide(rows_ND, np.float32(largest), out=points_NE[:, :dim])
    points_NE[:, dim] = np.sqrt(np.maximum(1 - np.square(points_NE[:, :dim]).sum(axis=1), 0))
    return points_NE


def query_points(queries_QD: np.ndarray) -> np.ndarray:
    """float32 [Q, E]: a query's own norm changes nothing in the order of its answers."""
    norms_Q1 = np.linalg.norm(queries_QD, axis=1, keepdims=True)
    dim = queries_QD.shape[1]
    return np.pad(queries_QD / np.where(norms_Q1 > 0, norms_Q1, 1), ((0, 0), (0, point_width(dim) - dim)))
