"""Sessions that equal another one, and tracks that a session plays again."""

from typing import Any, get_args

import numpy as np

from skipwise.datapipes.manifest import Split
from skipwise.datapipes.negatives import mix
from skipwise.datapipes.sessions import SessionStore
from skipwise.studies.audit.play_stream import Plays, read_plays


def repetition(store: SessionStore) -> dict[str, Any]:
    """Shares over the whole dataset. A duplicate has all tracks of another session, in the same order.

    `duplicate_sessions`: sessions but for the first of each kind; `test_sessions_in_training`: test sessions with the
    tracks of a training session, None where the split is by position.
    """
    digests: dict[Split, list[np.ndarray]] = {split: [] for split in get_args(Split)}
    plays = repeated = sessions = repeating = 0
    for split in digests if store.unseen else [*digests][:1]:
        for piece in read_plays(store, split):
            digests[split].append(_digests(piece))
            again_P = _heard_before(piece)
            plays += len(again_P)
            repeated += int(again_P.sum())
            sessions += len(digests[split][-1])
            repeating += len(np.unique(piece.session_P[again_P]))
    found = {split: np.concatenate(parts) for split, parts in digests.items() if parts}
    known = np.isin(found["test"], found["train"]).mean() if store.unseen else None
    return {
        "duplicate_sessions": 1 - len(np.unique(np.concatenate(list(found.values())))) / sessions,
        "test_sessions_in_training": None if known is None else float(known),
        "sessions_with_a_repeated_track": repeating / sessions,
        "repeated_plays": repeated / plays,
    }


def _digests(plays: Plays) -> np.ndarray:
    """uint64 [M]: a hash of each session's tracks and their order."""
    with np.errstate(over="ignore"):
        place_P = mix(plays.position_P + 1) + plays.tracks_P.astype(np.uint64)
        return np.add.reduceat(mix(place_P), np.unique(plays.start_P))


def _heard_before(plays: Plays) -> np.ndarray:
    """bool [P]: the session has played the track before."""
    order_P = np.lexsort((plays.tracks_P, plays.session_P))  # stable: in play order within a track
    same_P = np.diff(plays.tracks_P[order_P], prepend=-1) == 0
    same_P &= np.diff(plays.session_P[order_P], prepend=-1) == 0
    again_P = np.empty(len(order_P), dtype=bool)
    again_P[order_P] = same_P
    return again_P
