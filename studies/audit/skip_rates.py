"""The share of skipped plays, over all training plays and in groups of them, with intervals over sessions."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skipwise.datapipes import session_files
from skipwise.datapipes.session_files import STRENGTHS
from skipwise.datapipes.sessions import SessionStore
from skipwise.studies.audit.play_stream import Plays, read_plays
from skipwise.studies.statistics import interval, ratio_per_session

POSITIONS = 20
"""The last group of positions holds all later plays."""
TOP_VALUES = 8
"""Values of a context column that are shown, those with the most plays."""
_ALL = "all"


class SessionShares:
    """A ratio of sums over sessions, for each group of plays.

    Sessions with the same two sums are counted together, so that memory is proportional to the distinct pairs of sums.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Counter[tuple[int, int]]] = defaultdict(Counter)

    def add(self, names: list[str], group_P: np.ndarray, hit_P: np.ndarray, session_P: np.ndarray) -> None:
        """Adds plays of whole sessions: `names` are those of the groups, `group_P` their places, -1 for none."""
        chosen_P = group_P >= 0
        key, place = np.unique(session_P[chosen_P] * len(names) + group_P[chosen_P], return_inverse=True)
        plays, hits = np.bincount(place), np.bincount(place, hit_P[chosen_P]).astype(np.int64)
        found, counts = np.unique(np.column_stack([key % len(names), plays, hits]), axis=0, return_counts=True)
        for (group, size, hit), count in zip(found.tolist(), counts.tolist(), strict=True):
            self._sums[names[group]][size, hit] += count

    def figures(self) -> dict[str, dict[str, Any]]:
        """For each group: its share, the 95 % interval, plays, and sessions that have such plays."""
        figures = {}
        for name, sums in self._sums.items():
            size_M, hit_M = np.repeat(np.array(list(sums)), list(sums.values()), axis=0).T
            low, high = interval(ratio_per_session(hit_M, size_M))
            plays = int(size_M.sum())
            shares = {"share": float(hit_M.sum() / plays), "low": low, "high": high}
            figures[name] = shares | {"plays": plays, "sessions": len(size_M)}
        return figures


class SkipRates:
    """Skip rates of training plays, by what the dataset says of a play."""

    def __init__(self, columns: list[str]) -> None:
        self._strengths, self._all = SessionShares(), SessionShares()
        self._positions = SessionShares()
        self._contexts = {name: SessionShares() for name in columns}

    def add(self, plays: Plays, contexts: dict[str, pa.Array]) -> None:
        """Adds the training plays of a row group, with the values [P] of its context columns."""

        def within(group_P: np.ndarray) -> np.ndarray:
            return np.where(plays.trained_P, group_P, -1)

        every_P = np.zeros(len(plays.tracks_P), dtype=np.int64)
        for strength in range(STRENGTHS + 1):
            self._strengths.add([str(strength)], within(every_P), plays.strengths_P == strength, plays.session_P)
        self._all.add([_ALL], within(every_P), plays.skipped_P, plays.session_P)
        names = [str(place + 1) for place in range(POSITIONS - 1)] + [f"{POSITIONS} on"]
        place_P = np.minimum(plays.position_P, POSITIONS - 1)
        self._positions.add(names, within(place_P), plays.skipped_P, plays.session_P)
        for name, values_P in contexts.items():
            encoded = values_P.dictionary_encode()
            codes_P = within(encoded.indices.to_numpy())
            self._contexts[name].add(encoded.dictionary.to_pylist(), codes_P, plays.skipped_P, plays.session_P)

    def figures(self) -> dict[str, Any]:
        """`all`, `strength` (shares of all plays), `position` and `context` (skip rates of their plays)."""
        contexts = {name: shares.figures() for name, shares in self._contexts.items()}
        return {
            _ALL: self._all.figures()[_ALL],
            "strength": self._strengths.figures(),
            "position": dict(sorted(self._positions.figures().items(), key=lambda item: int(item[0].split()[0]))),
            "context": {
                name: dict(sorted(values.items(), key=lambda item: (-item[1]["plays"], item[0]))[:TOP_VALUES])
                for name, values in contexts.items()
            },
        }


def read_with_contexts(store: SessionStore) -> Iterator[tuple[Plays, dict[str, pa.Array]]]:
    """Yields the row groups of the training sessions, each with the texts of its context columns."""
    return zip(read_plays(store, "train"), _contexts(store.part("train")), strict=True)


def _contexts(part: SessionStore) -> Iterator[dict[str, pa.Array]]:
    names = part.manifest.context_columns
    for file in part.parts:
        for group in [group for group, (rows, _) in enumerate(session_files.sizes(file)) if rows]:
            columns = session_files.read_contexts(file, group, names)
            yield {name: pc.fill_null(column, "not known") for name, column in columns.items()}
