"""Groups of test targets for breakdowns: repeated or new, by position, by popularity, and by context type."""

from functools import partial

import numpy as np
import pyarrow as pa

from skipwise.common.errors import UserError, brief
from skipwise.common.tables import open_table
from skipwise.datapipes.session_files import DAMAGED
from skipwise.datapipes.sessions import SessionStore
from skipwise.studies.comparison import Grouping
from skipwise.training.evaluation.records import TargetRanks

CONTEXT = "context_type"
"""The column of where a play came from."""


def groupings(store: SessionStore, counts_N: np.ndarray) -> Grouping:
    """What a table breaks its figures down by. `counts_N`: each track's training plays."""
    found: Grouping = {
        "new or repeated target": lambda ranks: np.where(ranks.repeated, "repeated", "new"),
        "position in the session": lambda ranks: by_number(ranks.position + 1),
        "target's popularity": partial(_popularity, counts_N),
    }
    if CONTEXT in store.manifest.context_columns:
        found["target's context type"] = partial(_context, store)
    return found


def by_number(numbers_N: np.ndarray) -> np.ndarray:
    """[N] labels: each number by itself, or quintiles where there are more than ten."""
    if len(np.unique(numbers_N)) <= 10:
        return np.char.zfill(numbers_N.astype(str), len(str(numbers_N.max())))
    edges = np.unique(np.quantile(numbers_N, [0.2, 0.4, 0.6, 0.8], method="nearest"))
    bounds = [numbers_N.min(), *(edges + 1), numbers_N.max() + 1]
    width = len(str(numbers_N.max()))
    names = np.array([f"{low:0{width}}-{high - 1:0{width}}" for low, high in zip(bounds, bounds[1:], strict=False)])
    return names[np.searchsorted(edges, numbers_N)]


def _popularity(counts_N: np.ndarray, ranks: TargetRanks) -> np.ndarray:
    """Fifths of the test targets by how often their target was played in training."""
    plays = counts_N[ranks.target]
    edges = np.quantile(plays, [0.8, 0.6, 0.4, 0.2], method="nearest")
    return np.array(["1 most played", "2", "3", "4", "5 least played"])[(plays[:, None] < edges).sum(axis=1)]


def _context(store: SessionStore, ranks: TargetRanks) -> np.ndarray:
    """The target's context type in the log, such as a playlist or the catalogue."""
    found = np.full(len(ranks.session), "unknown", dtype=object)
    first = 0
    try:
        for part in store.parts:
            with open_table(part) as table:
                for batch in table.batches(1 << 16, [CONTEXT]):
                    lists = batch.column(0)
                    here_N = (ranks.session >= first) & (ranks.session < first + len(lists))
                    at_N = lists.offsets.to_numpy()[ranks.session[here_N] - first] + ranks.position[here_N]
                    values = lists.values.take(pa.array(at_N)).cast(pa.string()).fill_null("unknown")
                    found[here_N] = values.to_numpy(zero_copy_only=False)
                    first += len(lists)
        return found.astype(str)
    except DAMAGED as error:
        raise UserError(f"{store.path}: '{CONTEXT}' cannot be read ({brief(error)}): run prepare again") from error
