"""Random draws without state: every draw is a function of its key, and so the same after a resume and on any ranks.

A keyed permutation of all rows (a Feistel network, applied until the value is a row) gives distinct uniform tracks
without a table of the catalogue's size: Black & Rogaway, "Ciphers with Arbitrary Finite Domains", 2002.
"""

import numpy as np

STRIDE = 64
"""Places of the pool between the windows of successive sessions: a batch of 256 with 1000 negatives each draws from
17,000 rows instead of 256,000."""


def mix(values: np.ndarray) -> np.ndarray:
    """Hashes uint64 values (the finalizer of SplitMix64: Steele, Lea & Flood, OOPSLA 2014)."""
    values = values.astype(np.uint64)
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def keys(purpose: str, seed: int, epoch: int, numbers: np.ndarray) -> np.ndarray:
    """One uint64 key for each of `numbers` [B] (session numbers or steps), distinct by purpose, seed and epoch."""
    key = np.zeros(len(numbers), dtype=np.uint64)
    purpose_number = int.from_bytes(purpose.encode()[:8].ljust(8, b"\0"), "little")
    with np.errstate(over="ignore"):
        for part in (purpose_number, seed, epoch, numbers):
            key = mix(key + np.asarray(part).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15))
    return key


def uniforms(key_B: np.ndarray, count: int) -> np.ndarray:
    """float64 [B, count] in [0, 1)."""
    with np.errstate(over="ignore"):
        bits = mix(key_B[:, None] + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return (bits >> np.uint64(11)) * (1.0 / (1 << 53))


def _feistel(values: np.ndarray, round_keys: np.ndarray, bits: int) -> np.ndarray:
    """One pass of the network over uint32 `values` [M]; `round_keys` is [rounds, M]."""
    left_bits, right_bits = bits - bits // 2, bits // 2
    left, right = values >> np.uint32(right_bits), values & np.uint32((1 << right_bits) - 1)
    for round_key in round_keys:
        scrambled = (right ^ round_key) * np.uint32(0x9E3779B1)
        scrambled ^= scrambled >> np.uint32(15)
        scrambled *= np.uint32(0x85EBCA77)
        scrambled ^= scrambled >> np.uint32(13)
        left, right = right, left ^ (scrambled & np.uint32((1 << left_bits) - 1))
        left_bits, right_bits = right_bits, left_bits
    return (left << np.uint32(right_bits)) | right


def permuted(key_B: np.ndarray, count: int, size: int) -> np.ndarray:
    """uint32 [B, count]: where each key's permutation of `range(size)` sends 0, 1, ... count - 1."""
    places = np.tile(np.arange(count, dtype=np.uint32), len(key_B))
    return _permute(key_B, np.repeat(np.arange(len(key_B)), count), places, size).reshape(len(key_B), count)


def draw_pool(key: np.uint64, first: int, count: int, num_tracks: int) -> np.ndarray:
    """Returns int64 [count]: places `first` to `first + count` of an endless list of tracks.

    The list repeats one permutation of all tracks, so any `num_tracks` neighbours are distinct.
    """
    places = (first + np.arange(min(count, num_tracks))) % num_tracks
    rows = _permute(np.array([key]), np.zeros(1, dtype=np.int64), places.astype(np.uint32), num_tracks).astype(np.int64)
    return rows if count <= num_tracks else rows[np.arange(count) % num_tracks]


def _permute(key_B: np.ndarray, owner_M: np.ndarray, places_M: np.ndarray, size: int) -> np.ndarray:
    """uint32 [M]: where the permutation of each place's owner sends it; one owner may stand for all."""
    bits = max(2, (size - 1).bit_length())
    rounds = 4 if bits >= 12 else 16  # halves of a few bits need more rounds before every order is equally likely
    round_keys_RB = np.stack([mix(key_B + np.uint64(number)).astype(np.uint32) for number in range(rounds)])
    values = places_M.copy()
    pending = np.arange(len(values))
    while len(pending):
        owners = owner_M if len(owner_M) == 1 else owner_M[pending]
        moved = _feistel(values[pending], round_keys_RB[:, owners], bits)
        values[pending] = moved
        pending = pending[moved >= size]
    return values


Windows = tuple[np.ndarray, np.ndarray]
"""For each session, from and until which place of the pool its negatives lie (int64 [B, 2]), and (session, place) of
its own tracks in there (int64 [X, 2], ascending)."""


def shared_windows(place_BS: np.ndarray, count: int) -> Windows:
    """Returns windows of the whole pool of `count`; `place_BS`: the place of each session's tracks in it, or -1."""
    sessions = len(place_BS)
    return np.tile(np.array([0, count]), (sessions, 1)), _distinct(place_BS, np.zeros(sessions, dtype=np.int64), count)


def own_windows(place_BS: np.ndarray, count: int, num_tracks: int) -> Windows:
    """Each session starts `STRIDE` places after the one before, and takes `count` tracks that it does not contain, or
    all of those where they are fewer.

    A window is longer by the number of its session's tracks in it. `place_BS`: the first place of
    each of them in the pool, or -1; in a small catalogue they repeat every `num_tracks` places.
    """
    start_B = np.arange(len(place_BS)) * STRIDE
    session_X, after_X = _distinct(place_BS, start_B, num_tracks).T
    count_B = np.minimum(count, num_tracks - np.bincount(session_X, minlength=len(start_B)))
    # The n-th own track after the start is in the window if fewer than its `count` others precede it.
    inside = after_X - (np.arange(len(session_X)) - np.searchsorted(session_X, session_X)) < count_B[session_X]
    session_X, after_X = session_X[inside], after_X[inside]
    until_B = start_B + count_B + np.bincount(session_X, minlength=len(start_B))
    return np.stack([start_B, until_B], axis=1), np.stack([session_X, start_B[session_X] + after_X], axis=1)


def _distinct(place_BS: np.ndarray, start_B: np.ndarray, period: int) -> np.ndarray:
    """int64 [X, 2]: (session, places after its start) of each place at or after the start; each once, ascending."""
    session_X, column_X = np.nonzero(place_BS >= 0)
    after_X = (place_BS[session_X, column_X] - start_B[session_X]) % period
    return np.stack(np.divmod(np.unique(session_X * period + after_X), period), axis=1)


def draw_unseen(key_B: np.ndarray, num_tracks: int, count: int, seen_BT: np.ndarray) -> np.ndarray:
    """int64 [B, count]: distinct uniform rows below `num_tracks`, none of them in `seen_BT` (rows; -1 is padding).

    Where a session leaves fewer than `count`, all of them, and -1 after them.
    """
    sessions, width = seen_BT.shape
    rows = permuted(key_B, min(count + width, num_tracks), num_tracks).astype(np.int64)
    allowed = np.ones_like(rows, dtype=bool)
    for position in range(width):
        allowed &= rows != seen_BT[:, position, None]
    place = allowed.cumsum(axis=1)
    allowed &= place <= count
    unseen = np.full((sessions, count), -1)
    session_M, column_M = np.nonzero(allowed)
    unseen[session_M, place[session_M, column_M] - 1] = rows[session_M, column_M]
    return unseen
