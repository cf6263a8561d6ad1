"""What the listener of each session kept in the sessions before it.

Shape legend: S sessions, P plays of these and of the listener's sessions before the first one, C lists of all profiles.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skipwise.datapipes.config import HELD_OUT
from skipwise.datapipes.session_files import PROFILE
from skipwise.datapipes.view import counts_as_kept


class Profiles:
    """Adds profiles to the sessions of a dataset, a few at a time, in the order of listeners and of time.

    A profile has the last `size` kept plays of sessions that are in the dataset, are of the same listener, came before,
    and are of the same split or of an earlier one (train, validation, test): what training reads is never held out.
    Where the split is by position, the last tracks of sessions are left out, which are targets of validation and test.
    Of the listener under way that many plays a split are held in memory.
    """

    def __init__(self, size: int, num_splits: int):
        """`num_splits`: 1 where the split is by position."""
        self._size, self._num_splits = size, num_splits
        self._listener = ""
        self._tracks_P, self._split_P = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.uint8)

    def added(self, sessions: pa.Table, split_S: np.ndarray) -> pa.Table:
        """Returns the sessions with their profiles, rows in play order.

        `sessions`: those behind the last ones, with ids of the form `listener#number`; `split_S`: the place of the
        split that has each, with sessions that are not in the dataset above all.
        """
        tracks, strengths = (sessions[name].combine_chunks() for name in ("tracks", "skips"))
        lengths_S = tracks.value_lengths().to_numpy().astype(np.int64)
        first_S, new_S = self._listeners(sessions["session_id"]), np.cumsum(lengths_S)
        left_P = np.repeat(new_S, lengths_S) - np.arange(lengths_S.sum())
        fit_P = counts_as_kept(strengths.flatten().to_numpy())
        if self._num_splits == 1:
            fit_P &= left_P > HELD_OUT["validation"]
        carried = len(self._tracks_P)
        tracks_P = np.concatenate([self._tracks_P, tracks.flatten().to_numpy()])
        split_P = np.concatenate([self._split_P, np.where(fit_P, np.repeat(split_S, lengths_S), 255).astype(np.uint8)])
        start_S = carried + new_S - lengths_S
        # The plays of a listener begin with their first session here, or with what was carried.
        of_first_S = np.where(first_S, start_S, 0)
        of_listener_S = np.maximum.accumulate(of_first_S)
        rows_SK = np.full((len(sessions), self._size), -1, dtype=np.int32)
        for split in range(self._num_splits):
            places = np.flatnonzero(split_P <= split)
            mine = np.flatnonzero(split_S == split)
            until, since = (np.searchsorted(places, of[mine]) for of in (start_S, of_listener_S))
            place_SK = until[:, None] - self._size + np.arange(self._size)
            real_SK = place_SK >= since[:, None]
            rows_SK[mine] = np.where(real_SK, tracks_P[np.append(places, 0)[np.where(real_SK, place_SK, -1)]], -1)
        self._carry(tracks_P, split_P, int(of_listener_S[-1]))
        offsets = np.concatenate([[0], np.cumsum((rows_SK >= 0).sum(axis=1))])
        profiles = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(rows_SK[rows_SK >= 0]))
        return sessions.append_column(PROFILE, profiles)

    def _listeners(self, ids: pa.ChunkedArray) -> np.ndarray:
        """bool [S]: which sessions are the first of a listener here, who is not the last one's before."""
        names = pc.replace_substring_regex(ids.combine_chunks(), r"#\d+$", "")
        before = pa.concat_arrays([pa.array([self._listener], names.type), names[:-1]])
        self._listener = names[-1].as_py()
        return np.asarray(pc.not_equal(names, before).to_numpy(zero_copy_only=False), dtype=bool)

    def _carry(self, tracks_P: np.ndarray, split_P: np.ndarray, first: int) -> None:
        """Keeps what later sessions of the last listener may have: of each split and those before, the last plays."""
        places = [first + np.flatnonzero(split_P[first:] <= split)[-self._size :] for split in range(self._num_splits)]
        kept = np.unique(np.concatenate(places))
        self._tracks_P, self._split_P = tracks_P[kept], split_P[kept]
