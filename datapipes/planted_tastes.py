"""`synthesize --planted tastes`: listeners with several sessions, each with favourites of their own.

Shape legend: S sessions, L plays of the longest, P plays.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skipwise.datapipes.negatives import keys, uniforms

SESSIONS_EACH = 10
"""Sessions of a listener."""
FAVOURITES = 0.8
"""Chance that a play is a favourite."""
SKIPPED = 0.1, 0.9
"""Chances that a favourite and any other play are skipped."""
_DAY = 86_400


def play_favourites(
    random: np.random.Generator, other_SL: np.ndarray, num_tracks: int, seed: int, first: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns tracks and skip strengths [S, L] of sessions from number `first`; `other_SL`: tracks by popularity.

    Each listener has L favourites, of the whole catalogue. With probability 0.8 a play is one that the session has not
    had, and is skipped with 0.1; any other is skipped with 0.9. Only earlier sessions say which tracks these are: of a
    session's second track the best has an HR@10 of 0.42 (10 of 19 favourites, and 0.8), and without them next to none.
    """
    key_S = keys("taste", seed, 0, _listeners(first, len(other_SL)))
    favourite_SL = (uniforms(key_S, other_SL.shape[1]) * num_tracks).astype(np.int64)
    favoured_SL = random.random(other_SL.shape) < FAVOURITES
    track_SL = np.where(favoured_SL, random.permuted(favourite_SL, axis=1), other_SL)
    skipped_SL = random.random(other_SL.shape) < np.where(favoured_SL, *SKIPPED)
    return track_SL, (skipped_SL * random.integers(1, 3, size=other_SL.shape)).astype(np.int8)


def listener_columns(first: int, session_P: np.ndarray, place_P: np.ndarray) -> dict[str, pa.Array]:
    """Returns the listener and the time, in seconds, of plays: a session a day, a play each 200 seconds.

    `session_P`: numbers of sessions less `first`; `place_P`: of the play in its session.
    """
    number_P = first + session_P
    users = pc.utf8_lpad(pa.array(number_P // SESSIONS_EACH).cast(pa.string()), 9, "0")
    time_P = _DAY * (1 + number_P % SESSIONS_EACH) + 200 * place_P
    return {"user": pc.binary_join_element_wise("u", users, "_"), "time": pa.array(time_P)}


def _listeners(first: int, count: int) -> np.ndarray:
    """The number of the listener of each session."""
    return np.arange(first, first + count) // SESSIONS_EACH
