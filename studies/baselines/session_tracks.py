"""The tracks of every session's training part, flat in memory, for baselines that compare sessions.

Shape legend: N sessions, P distinct tracks of a session, all sessions one after another.
"""

from dataclasses import dataclass

import numpy as np

from skipwise.datapipes.sessions import SessionStore


@dataclass(frozen=True)
class SessionTracks:
    """Session i holds the entries `offsets[i]` to `offsets[i + 1]` (exclusive). 8 bytes an entry, 8 a session."""

    offsets: np.ndarray
    """int64 [N + 1]."""
    tracks_P: np.ndarray
    """int32: rows of tracks, ascending within a session."""
    positions_P: np.ndarray
    """int32: the track's last position in the session's training part; the first track's is 0."""

    @property
    def sizes_N(self) -> np.ndarray:
        """int64 [N]: distinct tracks of each session."""
        return np.diff(self.offsets)


def read_session_tracks(store: SessionStore, held_out: int) -> SessionTracks:
    """All sessions of the store in file order, read row group by row group, without their last `held_out` plays."""
    sizes, tracks, positions = [], [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for group in range(len(store.group_sizes)):
        window = store.read(np.array([group]))
        lengths = np.maximum(np.diff(window.offsets) - held_out, 0)
        place = ranges(window.offsets[:-1], lengths)
        session, track, position = last_plays(
            np.repeat(np.arange(len(lengths)), lengths), window.tracks[place].astype(np.int64), store.num_tracks
        )
        sizes.append(np.bincount(session, minlength=len(lengths)))
        tracks.append(track.astype(np.int32))
        positions.append((position - (lengths.cumsum() - lengths)[session]).astype(np.int32))
    offsets = np.concatenate([[0], *sizes]).cumsum()
    return SessionTracks(offsets, np.concatenate(tracks), np.concatenate(positions))


def last_plays(session: np.ndarray, track: np.ndarray, num_tracks: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each distinct track of each session once: session, track, and the index of its last play.

    `session`, `track`: int64, of plays in play order, sessions ascending. Ordered by session, then by track.
    """
    key = session * num_tracks + track
    distinct, from_end = np.unique(key[::-1], return_index=True)
    return distinct // num_tracks, distinct % num_tracks, len(key) - 1 - from_end


def ranges(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """int64: `first[0]`, `first[0] + 1`, ... (`counts[0]` of them), then `first[1]`, ..."""
    return np.arange(counts.sum()) + np.repeat(first - (counts.cumsum() - counts), counts)
