"""The kinds of index, how each is built for a table of a given size, and the settings it is tried at.

All search by inner product: the vectors are not normalised, as their norms are part of what the model learned. The
graph of HNSW does so by way of `nearest`.
Whatever is drawn follows from fixed seeds, so on one thread the same export gives the same index, bit for bit. With
more threads the graph of HNSW depends on which row was added first.

Shape legend: N rows of the table, D width, T rows to train on.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from skipwise.common.errors import UserError
from skipwise.common.versions import import_faiss
from skipwise.retrieval.search.faiss_nearest import as_points, largest_norm, point_width
from skipwise.retrieval.vectors import Vectors

Kind = Literal["flat", "ivfpq", "hnsw"]
"""Exact, over the export's own vectors; inverted lists of product-quantized rows; a graph of neighbours."""

POINTS = 39
"""Rows that k-means wants for each centroid: FAISS's own bound, below which it warns."""
_TRAINED_ON = 64
"""Rows for each list that k-means is given."""
_CODE_NUMBERS = 4
"""Numbers of a row that one code stands for."""
LINKS, WIDTH_WHILE_BUILDING = 32, 100
_BLOCK_ROWS = 1 << 14
_SEED = 0


@dataclass(frozen=True)
class Built:
    """An index, and what it was built with."""

    index: Any
    parameters: dict[str, int]
    inserted: Callable[[np.ndarray], np.ndarray] = lambda rows_ND: rows_ND
    """From rows [N, D] to what the index holds of them."""


def smallest(kind: Kind) -> int:
    """The fewest rows that this kind can be built of."""
    return POINTS << 4 if kind == "ivfpq" else 1


def build(kind: Kind, vectors: Vectors, rows: int, dim: int) -> Built:
    """Builds `ivfpq` or `hnsw` of at least `smallest(kind)` rows, block by block."""
    built = {"ivfpq": _ivfpq, "hnsw": _hnsw}[kind](vectors, rows, dim)
    with tqdm(total=rows, desc=f"adding to {kind}", leave=False, mininterval=1) as bar:
        for _, block_BD in vectors.blocks(_BLOCK_ROWS):
            built.index.add(built.inserted(_finite(block_BD.numpy())))
            bar.update(len(block_BD))
    return built


def settings(kind: Kind, built: Built | None, k: int) -> list[dict[str, int]]:
    """What `IndexSearch` is tried with, to find `k` rows."""
    if kind == "flat":
        return [{}]
    if kind == "hnsw":
        return [{"efSearch": width} for width in sorted({k, *(2**power for power in range(4, 10))}) if width >= k]
    probes = sorted({min(2**power, built.parameters["nlist"]) for power in range(2, 10)})
    return [{"nprobe": nprobe, "shortlist": shortlist} for shortlist in (k, 4 * k) for nprobe in probes]


def _ivfpq(vectors: Vectors, rows: int, dim: int) -> Built:
    """About 4 * sqrt(N) lists, codes of one byte for four numbers; where N is small, both as fine as it can train."""
    faiss = import_faiss()
    lists = max(1, min(int(4 * math.sqrt(rows)), rows // POINTS))
    bits = min(8, int(math.log2(rows / POINTS)))
    codes = dim // _CODE_NUMBERS
    index = faiss.IndexIVFPQ(faiss.IndexFlatIP(dim), dim, lists, codes, bits, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = index.pq.cp.seed = _SEED
    trained_on = min(rows, max(_TRAINED_ON * lists, POINTS << bits))
    chosen_T = np.random.default_rng(_SEED).choice(rows, trained_on, replace=False)
    index.train(_finite(vectors.take(np.sort(chosen_T))))
    return Built(index, {"nlist": lists, "codes": codes, "bits": bits, "trained_on": trained_on})


def _hnsw(vectors: Vectors, rows: int, dim: int) -> Built:
    """A graph over points of 16-bit numbers: they only lead the way, as found rows are scored by their own vectors."""
    faiss = import_faiss()
    index = faiss.IndexHNSWSQ(point_width(dim), faiss.ScalarQuantizer.QT_fp16, LINKS, faiss.METRIC_L2)
    index.hnsw.efConstruction = WIDTH_WHILE_BUILDING
    largest = largest_norm(vectors)
    return Built(index, {"M": LINKS, "efConstruction": WIDTH_WHILE_BUILDING}, lambda rows: as_points(rows, largest))


def _finite(vectors_ND: np.ndarray) -> np.ndarray:
    if not np.isfinite(vectors_ND).all():
        raise UserError("the export's embeddings hold numbers that are not finite: export a run that did not diverge")
    return vectors_ND
