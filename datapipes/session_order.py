"""Sessions on disk in an order that is a function of (seed, epoch) alone.

The whole order is never in memory: row groups are permuted, cut into windows of a few groups, and the sessions of each
window are permuted. Position p of the order is found by arithmetic, so a reader can start anywhere, and a run that is
resumed or has another number of ranks reads the same sessions at the same step.
"""

from collections import OrderedDict

import numpy as np

from skipwise.datapipes.sessions import Chosen, Sessions, SessionStore


class SessionOrder:
    """One epoch's order over a store. Its positions run from 0 to `len(store)`."""

    def __init__(self, store: SessionStore, seed: int, epoch: int, shuffle_groups: int, windows_kept: int):
        """`shuffle_groups`: row groups whose sessions are mixed; `windows_kept`: decoded windows held in memory."""
        self.store, self._seed, self._epoch, self._windows_kept = store, seed, epoch, windows_kept
        groups = self._random(0).permutation(len(store.group_sizes))
        self._windows = [groups[first : first + shuffle_groups] for first in range(0, len(groups), shuffle_groups)]
        sizes = [int(store.group_sizes[window].sum()) for window in self._windows]
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._cache: OrderedDict[int, Chosen] = OrderedDict()

    def take(self, first: int, last: int) -> list[Chosen]:
        """Returns the sessions at positions `first` to `last` (exclusive), as pieces of windows for `pad`."""
        pieces = []
        window = int(np.searchsorted(self._starts, first, side="right")) - 1
        while first < last:
            stop = min(last, int(self._starts[window + 1]))
            pieces.append(self._piece(window, first, stop))
            first, window = stop, window + 1
        return pieces

    def _piece(self, number: int, first: int, last: int) -> Chosen:
        if number not in self._cache:
            window = self.store.read(self._windows[number])
            self._cache[number] = window, self._random(1 + number).permutation(len(window.numbers))
            if len(self._cache) > self._windows_kept:
                self._cache.popitem(last=False)
        self._cache.move_to_end(number)
        window, order = self._cache[number]
        return window, order[first - self._starts[number] : last - self._starts[number]]

    def _random(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, self._epoch, purpose])


def pad(lanes: list[list[Chosen]], rows: int) -> Sessions:
    """Copies the chosen sessions of each lane into one padded block of `rows` sessions a lane."""
    placed = [(lane * rows, piece) for lane, pieces in enumerate(lanes) for piece in pieces]
    lengths = [np.diff(window.offsets)[chosen] for _, (window, chosen) in placed]
    width = max((int(part.max()) for part in lengths if len(part)), default=1) or 1
    total = len(lanes) * rows
    tracks_BT = np.full((total, width), -1, dtype=np.int64)
    skips_BT = np.zeros((total, width), dtype=np.int8)
    length_B = np.zeros(total, dtype=np.int64)
    number_B = np.full(total, -1, dtype=np.int64)
    columns = {window.contexts.shape[1] for _, (window, _) in placed if window.contexts is not None}
    contexts_BTK = np.zeros((total, width, *columns), dtype=np.uint16) if columns else None
    most = {window.profiles.shape[1] for _, (window, _) in placed if window.profiles is not None}
    profile_BK = np.full((total, *most), -1, dtype=np.int32) if most else None
    end = 0
    for (first, (window, chosen)), length in zip(placed, lengths, strict=True):
        # A lane's second piece follows its first.
        block = slice(max(first, end), max(first, end) + len(chosen))
        end = block.stop
        valid = np.arange(width) < length[:, None]
        source = (window.offsets[chosen][:, None] + np.arange(width))[valid]
        tracks_BT[block][valid] = window.tracks[source]
        skips_BT[block][valid] = window.skips[source]
        if contexts_BTK is not None and window.contexts is not None:
            contexts_BTK[block][valid] = window.contexts[source]
        if profile_BK is not None and window.profiles is not None:
            profile_BK[block] = window.profiles[chosen]
        length_B[block] = length
        number_B[block] = window.numbers[chosen]
    return Sessions(tracks_BT, skips_BT, length_B, number_B, contexts_BTK, profile_BK)
