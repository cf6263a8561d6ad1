"""By what test sessions are told apart in a table's breakdowns: length, popularity of the target, context type."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datapipes.sessions import SessionStore
from training.records import Ranks
from training.study.comparison import Grouping

_MOST_LENGTHS = 10
_CONTEXT = "context_type"


def groupings(store: SessionStore, counts_N: np.ndarray) -> Grouping:
    """`counts_N`: each track's training plays."""
    found: Grouping = {"session length": _length, "target's popularity": _popularity(counts_N)}
    if _CONTEXT in store.manifest.context_columns:
        found["target's context type"] = _context(store)
    return found


def _length(ranks: Ranks) -> np.ndarray:
    """Each length by itself, or quintiles of the sessions where there are many."""
    lengths = ranks.position + 1
    if len(np.unique(lengths)) <= _MOST_LENGTHS:
        return np.char.zfill(lengths.astype(str), len(str(lengths.max())))
    edges = np.unique(np.quantile(lengths, [0.2, 0.4, 0.6, 0.8], method="nearest"))
    bounds = [lengths.min(), *(edges + 1), lengths.max() + 1]
    width = len(str(lengths.max()))
    names = np.array([f"{low:0{width}}-{high - 1:0{width}}" for low, high in zip(bounds, bounds[1:], strict=False)])
    return names[np.searchsorted(edges, lengths)]


def _popularity(counts_N: np.ndarray) -> Callable[[Ranks], np.ndarray]:
    """Fifths of the test sessions by how often their target was played in training."""

    def label(ranks: Ranks) -> np.ndarray:
        plays = counts_N[ranks.target]
        edges = np.quantile(plays, [0.8, 0.6, 0.4, 0.2], method="nearest")
        fifth = (plays[:, None] < edges).sum(axis=1)
        return np.array(["1 most played", "2", "3", "4", "5 least played"])[fifth]

    return label


def _context(store: SessionStore) -> Callable[[Ranks], np.ndarray]:
    """Where the listener was when the target was played, as the log says."""

    def label(ranks: Ranks) -> np.ndarray:
        last = []
        for part in store.parts:
            for batch in pq.ParquetFile(part).iter_batches(columns=[_CONTEXT]):
                lists = batch.column(0)
                last.append(lists.values.take(pa.array(lists.offsets.to_numpy()[1:] - 1)).cast(pa.string()))
        labels = pa.chunked_array(last).fill_null("unknown").to_numpy()
        return labels[ranks.session].astype(str)

    return label
