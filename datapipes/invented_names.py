"""Titles and artists that nobody has, for synthetic logs: a function of seed and number, so that none is kept."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_SYLLABLES = (
    *("bel", "cor", "dan", "el", "fa", "gor", "hal", "is", "jo", "ka", "lin", "mar", "nel", "o", "pen", "quin"),
    *("ra", "sol", "tam", "ul", "ven", "wil", "yar", "zo", "ber", "cla", "dri", "fen", "gal", "hu", "kel", "lo"),
)
_ENDINGS = ("a", "berg", "dale", "den", "er", "ford", "in", "ley", "lo", "mar", "ne", "o", "ra", "ris", "ton", "vik")
_HOW = (
    *("bright", "broken", "burning", "distant", "early", "empty", "endless", "falling", "first", "frozen", "gentle"),
    *("golden", "hidden", "hollow", "last", "lonely", "lost", "lucky", "midnight", "moving", "northern", "open"),
    *("paper", "quiet", "restless", "second", "silver", "sleeping", "small", "southern", "sudden", "wild"),
)
_WHAT = (
    *("avenue", "bell", "bridge", "candle", "city", "cloud", "corner", "dancer", "door", "dream", "engine", "fever"),
    *("field", "fire", "garden", "harbour", "heart", "highway", "horizon", "island", "kite", "ladder", "lantern"),
    *("letter", "machine", "mirror", "moon", "morning", "mountain", "ocean", "orchard", "parade", "promise", "radio"),
    *("rain", "river", "road", "room", "satellite", "shadow", "signal", "smoke", "snow", "stranger", "summer", "sun"),
    *("thunder", "tide", "tower", "train", "valley", "wave", "weekend", "whisper", "window", "winter", "wire", "year"),
)
_DO = ("call", "carry", "chase", "count", "find", "follow", "forget", "hold", "keep", "leave", "paint", "wake")
TRACKS_PER_ARTIST = 12


def titles(seed: int, number_N: np.ndarray) -> pa.Array:
    """The title of each track by its number; two tracks may have the same."""
    one, two = _drawn(seed, 0, number_N), _drawn(seed, 1, number_N)
    how, what, where = _word(_HOW, one, 8), _word(_WHAT, one, 16), _place(two)
    kinds = [
        _joined(how, what),
        _joined(_fixed("the"), what, _fixed("of"), where),
        _joined(_word(_DO, one, 24), _fixed("the"), how, what),
        _joined(how, what, _fixed("in"), where),
        _joined(what, _fixed("and"), _word(_WHAT, two, 24)),
        _joined(where, what),
    ]
    return pc.utf8_title(_chosen(one % len(kinds), kinds))


def artists(seed: int, number_N: np.ndarray, starts_C: np.ndarray) -> pa.Array:
    """The artist of each track; some 12 tracks of a cluster have the same.

    `starts_C`: the number that each cluster begins with, and the end of the last. of an artist are of all popularities.
    """
    cluster_N = np.searchsorted(starts_C, number_N, side="right") - 1
    size_N = np.diff(starts_C)[cluster_N]
    place_N = number_N - starts_C[cluster_N]
    artist_N = starts_C[cluster_N] + place_N % np.maximum(size_N // TRACKS_PER_ARTIST, 1)
    one, two = _drawn(seed, 2, artist_N), _drawn(seed, 3, artist_N)
    person = _joined(_place(one), _place(two))
    kinds = [person, person, _joined(_fixed("the"), _word(_HOW, one, 40), _plural(_word(_WHAT, two, 40))), _place(one)]
    return pc.utf8_title(_chosen(one % 4, kinds))


def _drawn(seed: int, purpose: int, number_N: np.ndarray) -> np.ndarray:
    """uint64: independent bits for each number (SplitMix64)."""
    start = np.uint64((seed * 0x9E3779B97F4A7C15 + purpose) % 2**64)
    value = number_N.astype(np.uint64) * np.uint64(4) + start
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
    return value ^ (value >> np.uint64(31))


def _word(words: Sequence[str], bits_N: np.ndarray, shift: int) -> pa.Array:
    return pa.array(words).take(pa.array((bits_N >> np.uint64(shift)) % np.uint64(len(words))))


def _place(bits_N: np.ndarray) -> pa.Array:
    """A name of two or three syllables."""
    parts = [_word(_SYLLABLES, bits_N, 32), _word(("", *_SYLLABLES), bits_N, 44), _word(_ENDINGS, bits_N, 56)]
    return pc.binary_join_element_wise(*parts, "")


def _fixed(word: str) -> pa.Scalar:
    return pa.scalar(word)


def _plural(words: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(words, "s", "")


def _joined(*parts: pa.Array | pa.Scalar) -> pa.Array:
    return pc.binary_join_element_wise(*parts, " ")


def _chosen(kind_N: np.ndarray, kinds: list[pa.Array]) -> pa.Array:
    return pc.choose(pa.array(kind_N.astype(np.int64)), *kinds)
