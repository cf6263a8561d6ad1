"""An open export whose rows change: deltas are written into its table, and rows for new tracks stand behind it.

Shape legend: R rows, X changed rows, D width, W numbers of an encoded row.
"""

from dataclasses import dataclass, replace

import numpy as np

from skipwise.common.errors import UserError, brief
from skipwise.models.query_encoder import EncoderShape, load_query_encoder
from skipwise.retrieval.formats import encode_rows
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.row_delta import RowDelta, record_hash
from skipwise.retrieval.vectors import Piece, Vectors

_LEAST_ROOM = 1 << 12
"""Rows for which there is room at first; later there is room for as many again as there are."""


@dataclass(frozen=True)
class Applied:
    """The last delta that is in a table, and the sequence that it belongs to."""

    number: int
    hash: str
    heard_until: float = 0.0


class LiveExport:
    """An export, changed by deltas one after the other."""

    def __init__(self, opened: OpenExport):
        """The table of `opened` is the one that is written into: nobody else may use it."""
        self.opened = opened
        delta = opened.manifest.delta
        self.applied = Applied(delta.number, delta.hash) if delta else Applied(0, "")
        self._own_RW = opened.vectors.encoded()
        self._new_RW = np.zeros((_LEAST_ROOM, *self._own_RW.shape[1:]), dtype=self._own_RW.dtype)

    def follows(self, delta: RowDelta) -> bool:
        """Whether the delta is the next one; raises `UserError` where it is of another sequence or another model."""
        manifest, own = delta.manifest, self.opened.manifest
        if (manifest.number, manifest.previous) != (self.applied.number + 1, self.applied.hash):
            return False
        begins = own.delta is None and self.applied.number == 0
        if begins and (manifest.base, manifest.rows_hash) != (record_hash(own.trained), own.vocabulary_hash):
            raise UserError(
                f"{self.opened.path} is no export of the run that the deltas go on from: export that run, the one of "
                "--init-from, or the run that follows"
            )
        if manifest.dim != own.dim or manifest.table_rows < own.rows:
            raise UserError(f"{self.opened.path} has {own.rows} rows of {own.dim}, the delta other ones: export again")
        return True

    def prepare(self, delta: RowDelta) -> "Change":
        """What the delta makes of the export, computed beside it: nothing of it changes yet."""
        manifest, own = delta.manifest, self.opened
        if not own.manifest.weights:
            raise UserError(f"{own.path} has no weights of an encoder: export again")
        keep_dim = own.manifest.keep.dim if own.manifest.keep else 0
        times = own.manifest.weights.config.times
        # A run that writes deltas reads no profiles.
        shape = EncoderShape.of(manifest.dim - keep_dim, keep_dim, own.view.signals, profile=0, times=times)
        try:
            encoder = load_query_encoder(own.manifest.weights.config, shape, delta.encoder)
            tracks = own.tracks.changed(
                delta.tracks["row"].to_numpy(),
                delta.tracks["track_id"],
                {name: delta.tracks[name] for name in own.tracks.names if name in delta.tracks.column_names},
            )
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"delta {manifest.number} does not fit {own.path} ({brief(error)}): export again"
            ) from error
        if len(tracks) != manifest.table_rows:
            raise UserError(
                f"delta {manifest.number} names {len(tracks)} tracks of {manifest.table_rows}: export the run again"
            )
        encoded_XW = encode_rows(delta.values_XD, own.manifest.dtype)
        if (num_new := manifest.table_rows - len(self._own_RW)) > len(self._new_RW):
            grown_RW = np.zeros((2 * num_new, *self._new_RW.shape[1:]), dtype=self._new_RW.dtype)
            grown_RW[: len(self._new_RW)] = self._new_RW
            self._new_RW = grown_RW  # who reads the former one keeps it
        described = own.manifest.model_copy(update={"rows": manifest.table_rows})
        vectors = self._vectors(manifest.table_rows)
        opened = replace(own, manifest=described, tracks=tracks, vectors=vectors, encoder=encoder)
        return Change(self, delta, encoded_XW, opened)

    def commit(self, change: "Change") -> None:
        """Writes the rows into the table: nobody may be reading it."""
        rows_X, own = change.delta.rows_X, len(self._own_RW)
        num_own = int(np.searchsorted(rows_X, own))
        self._own_RW[rows_X[:num_own]] = change.encoded_XW[:num_own]
        self._new_RW[rows_X[num_own:] - own] = change.encoded_XW[num_own:]
        self.opened = change.opened
        self.applied = Applied(change.delta.manifest.number, change.delta.hash, change.delta.manifest.heard_until)

    def _vectors(self, rows: int) -> Vectors:
        dtype, own = self.opened.manifest.dtype, len(self._own_RW)
        new_RW = self._new_RW[: rows - own]
        pieces = [Piece(0, self._own_RW, dtype), *([Piece(own, new_RW, dtype)] if len(new_RW) else [])]
        return Vectors(pieces)


@dataclass(frozen=True)
class Change:
    """A delta that is ready to be written into a table."""

    of: LiveExport
    delta: RowDelta
    encoded_XW: np.ndarray
    opened: OpenExport
    """The export with it."""
