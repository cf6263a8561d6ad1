"""Random draws without state: every draw is a function of its key, so a run resumes exactly on any number of ranks.

A keyed permutation of all rows (a Feistel network, walked until it lands inside the catalogue) gives distinct
uniform tracks without a table of the catalogue's size: Black & Rogaway, "Ciphers with Arbitrary Finite Domains", 2002.
"""

import numpy as np


def mix(values: np.ndarray) -> np.ndarray:
    """Scrambles uint64 values (the finalizer of SplitMix64: Steele, Lea & Flood, OOPSLA 2014)."""
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
    bits = max(2, (size - 1).bit_length())
    rounds = 4 if bits >= 12 else 16  # halves of a few bits need more rounds before every order is equally likely
    round_keys_RB = np.stack([mix(key_B + np.uint64(number)).astype(np.uint32) for number in range(rounds)])
    sessions = np.repeat(np.arange(len(key_B)), count)
    values = np.tile(np.arange(count, dtype=np.uint32), len(key_B))
    pending = np.arange(len(values))
    while len(pending):
        walked = _feistel(values[pending], round_keys_RB[:, sessions[pending]], bits)
        values[pending] = walked
        pending = pending[walked >= size]
    return values.reshape(len(key_B), count)


def draw_unseen(key_B: np.ndarray, tracks: int, count: int, seen_BT: np.ndarray) -> np.ndarray:
    """int64 [B, count]: distinct uniform rows out of `range(tracks)`, none of them in `seen_BT` (rows; -1 is padding).

    Needs `tracks >= count + T`, which the config check guarantees before any work.
    """
    sessions, width = seen_BT.shape
    drawn = count + width
    rows = permuted(key_B, drawn, tracks).astype(np.int64)
    allowed = np.ones_like(rows, dtype=bool)
    for position in range(width):
        allowed &= rows != seen_BT[:, position, None]
    rank = allowed.cumsum(axis=1)
    return rows[allowed & (rank <= count)].reshape(sessions, count)
