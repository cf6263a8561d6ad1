"""Sessions on disk: row groups of a dataset directory, read and checked.

Shape legend: S sessions, P plays, K tracks of a profile or context columns.
"""

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
    profile_BK: np.ndarray | None = None
    """int32: rows of what the listener kept in the sessions before, the last ones first, -1 behind them; None where
    profiles are not read."""

    def profiles(self, most: int) -> np.ndarray:
        """int64 [B, K]: their first `most` columns; -1 where no profiles are read."""
        if self.profile_BK is None:
            return np.full((len(self.length_B), most), -1, dtype=np.int64)
        return self.profile_BK[:, :most].astype(np.int64)


@dataclass
class _Window:
    """Sessions of a few row groups, flat: session i is `tracks[offsets[i] : offsets[i + 1]]`."""

    offsets: np.ndarray
    tracks: np.ndarray
    skips: np.ndarray
    numbers: np.ndarray
    contexts: np.ndarray | None = None
    """uint16 [plays, K]."""
    profiles: np.ndarray | None = None
    """int32 [sessions, K], see `Sessions`."""


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
    profile = 0
    """The most tracks that are read of a profile."""
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

    def profiling(self, most: int) -> "SessionStore":
        """Returns the same sessions with profiles of up to `most` tracks; raises `UserError` where the dataset has
        shorter ones, or none."""
        if most > (has := self.manifest.profile):
            raise UserError(
                f"{self.path} has {f'profiles of up to {has} tracks' if has else 'no profiles of listeners'}: prepare "
                f"the log again with --profile {most}, or set --data.profile {has}"
            )
        if not most:
            return self
        store = copy(self)
        store._whole = copy(self._whole)
        store.profile = store._whole.profile = most
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
        if self.profile:
            window.profiles = np.concatenate([self._profiles(int(index)) for index in groups])
        if self._row_of is not None:
            window = _mapped(window, self._row_of)
        return window if self._left_out_N is None else self._filtered(window, self._left_out_N)

    def _filtered(self, window: _Window, left_out_N: np.ndarray) -> _Window:
        left_P = np.repeat(window.offsets[1:], np.diff(window.offsets)) - np.arange(len(window.tracks))
        read_P = ~left_out_N[window.tracks] | (left_P <= self._always_read)
        return _chosen(window, window.tracks, read_P, np.where(left_out_N, -1, np.arange(len(left_out_N))))

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

    def _profiles(self, index: int) -> np.ndarray:
        """int32 [sessions, K] of a row group, the last tracks first."""
        (file, group), most = self._groups[index], self.manifest.profile
        where = f"{file}, row group {group}"
        lists = session_files.read_profiles(file, group, int(self.group_sizes[index]), most)
        if len(lists.rows) and not 0 <= lists.rows.min() <= lists.rows.max() < self.manifest.counts["tracks"]:
            raise UserError(f"{where}: a profile has a row that no track has: run prepare again")
        if self.manifest.profile_checksums.get(file.name, [])[group : group + 1] != [session_files.checksum(lists)]:
            raise UserError(f"{where}: its profiles are not what prepare wrote, by their checksum: run prepare again")
        place_SK = np.arange(self.profile)
        last_S = np.cumsum(lists.lengths) - 1
        real_SK = place_SK < lists.lengths[:, None]
        return np.append(lists.rows, np.int32(-1))[np.where(real_SK, last_S[:, None] - place_SK, -1)]


def _mapped(window: _Window, row_of: np.ndarray) -> _Window:
    rows_P = row_of[window.tracks]
    return _chosen(window, rows_P, rows_P >= 0, row_of)


def _chosen(window: _Window, tracks_P: np.ndarray, chosen_P: np.ndarray, row_of: np.ndarray) -> _Window:
    """The chosen plays alone, of these tracks; `row_of`: the row of each track of a profile, -1 for none."""
    offsets = np.append(0, chosen_P.cumsum())[window.offsets]
    contexts = None if window.contexts is None else window.contexts[chosen_P]
    profiles = window.profiles
    if profiles is not None:
        profiles = np.append(row_of, -1)[profiles].astype(np.int32)
        profiles = np.take_along_axis(profiles, (profiles < 0).argsort(axis=1, kind="stable"), axis=1)
    return _Window(offsets, tracks_P[chosen_P], window.skips[chosen_P], window.numbers, contexts, profiles)
