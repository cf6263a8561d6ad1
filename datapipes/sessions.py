"""Sessions on disk in an order that is a function of (seed, epoch) alone.

The whole order is never in memory: row groups are permuted, cut into windows of a few groups, and the sessions of each
window are permuted. Position p of the order is found by arithmetic, so a reader can start anywhere, and a run that is
resumed or has another number of ranks reads the same sessions at the same step.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from skipwise.common.errors import UserError
from skipwise.common.mirrors import local
from skipwise.datapipes import session_files
from skipwise.datapipes.manifest import SESSIONS, Manifest, Split
from skipwise.datapipes.track_features import TrackFeatures


@dataclass
class Sessions:
    """Padded sessions: `tracks_BT` int64 rows (-1 is padding), `skips_BT` int8 strengths, `number_B` int64."""

    tracks_BT: np.ndarray
    skips_BT: np.ndarray
    length_B: np.ndarray
    number_B: np.ndarray
    contexts_BTK: np.ndarray | None = None
    """uint16: codes of the context columns that are read, 0 for what is not known; None where none are."""


@dataclass
class _Window:
    """Sessions of a few row groups, flat: session i is `tracks[offsets[i] : offsets[i + 1]]`."""

    offsets: np.ndarray
    tracks: np.ndarray
    skips: np.ndarray
    numbers: np.ndarray
    contexts: np.ndarray | None = None
    """uint16 [plays, K]."""


Chosen = tuple[_Window, np.ndarray]
"""A window, and the indices of some of its sessions."""


class SessionStore:
    """Reads row groups of a dataset directory (docs/architecture.md, "Dataset directory"); opens them on use.

    One in an object store is brought here whole: the first batches of an epoch have sessions of almost every file.

    Row groups are counted from 0 in this store; sessions have the number that they have in the whole dataset.
    """

    contexts: Mapping[str, Sequence[str]] = MappingProxyType({})
    """The context columns that are read, each with the values that have a code: their places, from 1."""
    features: TrackFeatures | None = None
    """What is read of tracks."""
    _left_out_N: np.ndarray | None = None
    """bool [num_tracks]: tracks whose plays are left out."""
    _always_read = 0
    """Of each session's last plays, this many are read all the same."""
    _row_of: np.ndarray | None = None

    def __init__(self, path: str):
        self.path, self._whole = local(path), self
        self.manifest = Manifest.read(self.path)
        self.num_tracks = self.manifest.counts["tracks"]
        self.parts = [self.path / SESSIONS / name for name in sorted(self.manifest.parts)]
        self._groups: list[tuple[Path, int]] = []
        sizes, self._most_plays = [], self.manifest.counts["plays"]
        for file in self.parts:
            groups, expected = session_files.sizes(file), self.manifest.parts[file.name]
            found = [sessions for sessions, _ in groups]
            if sum(found) != expected:
                raise UserError(
                    f"{file} holds {sum(found)} sessions where the manifest says {expected}: run prepare again"
                )
            checksums = self.manifest.checksums.get(file.name, [])
            if self.manifest.checksums and len(found) != len(checksums):
                raise UserError(
                    f"{file} holds {len(found)} row groups where the manifest has {len(checksums)} checksums: "
                    f"run prepare again"
                )
            for group, (sessions, plays) in enumerate(groups):
                if plays > (most := min(sessions * self.manifest.session_lengths["max"], self._most_plays)):
                    raise UserError(
                        f"{file}, row group {group}: holds {plays:,} plays where the manifest allows {most:,}: "
                        "run prepare again"
                    )
            filled = [group for group, rows in enumerate(found) if rows]
            self._groups += [(file, group) for group in filled]
            sizes += [found[group] for group in filled]
        self.group_sizes = np.array(sizes, dtype=np.int64)
        self._first_numbers = np.cumsum(self.group_sizes) - self.group_sizes
        if len(self) != self.manifest.counts["sessions"]:
            raise UserError(
                f"{self.path}/{SESSIONS} holds {len(self)} sessions where its manifest says "
                f"{self.manifest.counts['sessions']}: run prepare again"
            )

    def __len__(self) -> int:
        return int(self.group_sizes.sum())

    @property
    def unseen(self) -> bool:
        """Whether the dataset is split by whole sessions, so that training has seen nothing of the others."""
        return bool(self.manifest.split_parts)

    def part(self, *splits: Split) -> "SessionStore":
        """Returns the sessions of these splits: all of them where the split is by position."""
        if not self.unseen:
            return self
        whole = self._whole
        names = {name for split in splits for name in self.manifest.split_parts[split]}
        chosen = np.array([file.name in names for file, _ in whole._groups], dtype=bool)
        part = copy(whole)
        part.parts = [file for file in whole.parts if file.name in names]
        part._groups = [whole._groups[group] for group in np.flatnonzero(chosen)]
        part.group_sizes, part._first_numbers = whole.group_sizes[chosen], whole._first_numbers[chosen]
        return part

    def reading(self, contexts: Mapping[str, Sequence[str]]) -> "SessionStore":
        """Returns the same sessions with these context columns; raises `UserError` for one that the dataset lacks.

        The values may be another dataset's: what this one says beside them is read as not known.
        """
        for name in contexts:
            if name not in self.manifest.context_columns:
                has = ", ".join(self.manifest.context_columns) or "none"
                raise UserError(
                    f"{self.path} has no context column '{name}' (it has {has}): prepare it again with it in --context"
                )
        store = copy(self)
        store._whole = copy(self._whole)
        store.contexts = store._whole.contexts = contexts
        return store

    def featuring(self, features: "TrackFeatures | tuple[str, ...]") -> "SessionStore":
        """Returns the same sessions with these columns of the dataset's features, or with another dataset's."""
        if not features:
            return self
        if isinstance(features, tuple):
            features = TrackFeatures.open(self.path, self.manifest.features, features, self.num_tracks)
        store = copy(self)
        store._whole = copy(self._whole)
        store.features = store._whole.features = features
        return store

    def without(self, tracks_N: np.ndarray, always_read: int) -> "SessionStore":
        """Returns the same sessions without the plays of these tracks (bool [num_tracks]), but for the last ones of
        each session, `always_read` of them; sessions may be left with few tracks, or none."""
        store = copy(self)
        store._left_out_N, store._always_read = tracks_N, always_read
        return store

    def mapped(self, row_of: np.ndarray, num_tracks: int) -> "SessionStore":
        """Returns the same sessions by the rows of another vocabulary, of `num_tracks` tracks.

        `row_of`: int64, the row there of each track here, -1 for none: such a play is left out, as if it never was.
        """
        store = copy(self)
        store._whole = copy(self._whole)
        for one in (store, store._whole):
            one._row_of, one.num_tracks = row_of, num_tracks
        return store

    def read(self, groups: np.ndarray) -> _Window:
        """Returns the sessions of these row groups in file order.

        Raises `UserError` where their number, lengths, rows, strengths or checksum differ from the manifest.
        """
        offsets, tracks, skips, numbers = [np.zeros(1, dtype=np.int64)], [], [], []
        contexts = [self._contexts(int(index)) for index in groups] if self.contexts else []
        for index in groups:
            rows = self._checked(int(index))
            offsets.append(offsets[-1][-1] + np.cumsum(rows.lengths))
            tracks.append(rows.tracks)
            skips.append(rows.skips)
            numbers.append(self._first_numbers[index] + np.arange(len(rows.lengths)))
        window = _Window(*(np.concatenate(pieces) for pieces in (offsets, tracks, skips, numbers)))
        window.contexts = np.concatenate(contexts) if contexts else None
        if self._row_of is not None:
            window = _mapped(window, self._row_of)
        return window if self._left_out_N is None else self._filtered(window, self._left_out_N)

    def _filtered(self, window: _Window, left_out_N: np.ndarray) -> _Window:
        left_P = np.repeat(window.offsets[1:], np.diff(window.offsets)) - np.arange(len(window.tracks))
        read_P = ~left_out_N[window.tracks] | (left_P <= self._always_read)
        return _chosen(window, window.tracks, read_P)

    def _checked(self, index: int) -> session_files.Rows:
        file, group = self._groups[index]
        rows, where = session_files.read(file, group, self._most_plays), f"{file}, row group {group}"
        shortest, longest = (self.manifest.session_lengths[name] for name in ("min", "max"))
        session_files.refuse_faults(rows, self.manifest.counts["tracks"], shortest, longest, where)
        checksums = self.manifest.checksums.get(file.name)
        if checksums and session_files.checksum(rows) != checksums[group]:
            raise UserError(f"{where}: its data are not what prepare wrote, by their checksum: run prepare again")
        return rows

    def _contexts(self, index: int) -> np.ndarray:
        """uint16 [plays, K] of a row group."""
        file, group = self._groups[index]
        columns = session_files.read_contexts(file, group, [*self.contexts], self._most_plays)
        checksums, codes = self.manifest.context_checksums.get(file.name, {}), []
        for name, values in self.contexts.items():
            words = session_files.Words.of(columns[name])
            if name in checksums and checksums[name][group : group + 1] != [words.checksum]:
                raise UserError(
                    f"{file}, row group {group}: '{name}' is not what prepare wrote, by its checksum: run prepare again"
                )
            codes.append(words.codes(values))
        return np.stack(codes, axis=1)


def _mapped(window: _Window, row_of: np.ndarray) -> _Window:
    rows_P = row_of[window.tracks]
    return _chosen(window, rows_P, rows_P >= 0)


def _chosen(window: _Window, tracks_P: np.ndarray, chosen_P: np.ndarray) -> _Window:
    """The chosen plays alone, of these tracks."""
    offsets = np.append(0, chosen_P.cumsum())[window.offsets]
    contexts = None if window.contexts is None else window.contexts[chosen_P]
    return _Window(offsets, tracks_P[chosen_P], window.skips[chosen_P], window.numbers, contexts)


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
        length_B[block] = length
        number_B[block] = window.numbers[chosen]
    return Sessions(tracks_BT, skips_BT, length_B, number_B, contexts_BTK)
