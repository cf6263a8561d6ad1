"""Groups of test targets for breakdowns: repeated or new, by position, popularity, age of the track, context type."""

from functools import partial

import numpy as np
import pyarrow as pa

from skipwise.common.errors import UserError, brief
from skipwise.common.tables import open_table
from skipwise.datapipes.session_files import AGES, DAMAGED
from skipwise.datapipes.sessions import SessionStore
from skipwise.studies.comparison import Grouping
from skipwise.training.evaluation.records import TargetRanks

CONTEXT = "context_type"
"""The column of where a play came from."""
_DAY = 24
_AGES = {
    "under a day": _DAY,
    "under a week": 7 * _DAY,
    "under 4 weeks": 28 * _DAY,
    "under 13 weeks": 91 * _DAY,
    "under a year": 365 * _DAY,
    "a year or more": np.inf,
}
"""The hours below which a track is of each group."""
_UNPLAYED = "0 not played in training"


def groupings(store: SessionStore, counts_N: np.ndarray) -> Grouping:
    """What a table breaks its figures down by. `counts_N`: each track's training plays."""
    found: Grouping = {
        "new or repeated target": lambda ranks: np.where(ranks.repeated, "repeated", "new"),
        "position in the session": lambda ranks: by_number(ranks.position + 1),
        "target's popularity": partial(_popularity, counts_N),
    }
    if not (counts_N > 0).all() or has_ages(store):
        found["age of the target's track"] = partial(_age, store, counts_N)
    if CONTEXT in store.manifest.context_columns:
        found["target's context type"] = partial(_of_plays, store, CONTEXT, "unknown")
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


def _age(store: SessionStore, counts_N: np.ndarray, ranks: TargetRanks) -> np.ndarray:
    """How long before the target its track was first played in the log, where plays have times; apart, tracks without
    a play in training."""
    groups_N = np.full(len(ranks.session), "1 played in training", dtype=object)
    if has_ages(store):
        names = np.array([f"{number} {name}" for number, name in enumerate(_AGES, 1)])
        hours_N = _of_plays(store, AGES, "0", ranks).astype(np.int64)
        groups_N = names[np.searchsorted([*_AGES.values()], hours_N, side="right")]
    return np.where(counts_N[ranks.target] > 0, groups_N, _UNPLAYED).astype(str)


def has_ages(store: SessionStore) -> bool:
    """Whether the dataset says how old tracks were at its plays."""
    try:
        with open_table(store.parts[0]) as table:
            return AGES in table.schema.names
    except DAMAGED as error:
        raise UserError(f"{store.path} cannot be read ({brief(error)}): run prepare again") from error


def _of_plays(store: SessionStore, column: str, missing: str, ranks: TargetRanks) -> np.ndarray:
    """What a column of the dataset says of the targets' plays, as text; `missing` where it says nothing."""
    found = np.full(len(ranks.session), missing, dtype=object)
    first = 0
    try:
        for part in store.parts:
            with open_table(part) as table:
                for batch in table.batches(1 << 16, [column]):
                    lists = batch.column(0)
                    here_N = (ranks.session >= first) & (ranks.session < first + len(lists))
                    at_N = lists.offsets.to_numpy()[ranks.session[here_N] - first] + ranks.position[here_N]
                    values = lists.values.take(pa.array(at_N)).cast(pa.string()).fill_null(missing)
                    found[here_N] = values.to_numpy(zero_copy_only=False)
                    first += len(lists)
        return found.astype(str)
    except DAMAGED as error:
        raise UserError(f"{store.path}: '{column}' cannot be read ({brief(error)}): run prepare again") from error
