"""The rows of an export as other systems take them, part by part: neither the table nor a part is in memory at once.

Shape legend: B rows of a batch, D width.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from skipwise.common.errors import UserError, brief
from skipwise.common.tables import read_table
from skipwise.datapipes.session_files import DAMAGED
from skipwise.retrieval.export_manifest import ExportManifest
from skipwise.retrieval.formats import decode
from skipwise.retrieval.open_export import check_file, part_pieces

DIGEST = "skipwise_digest"
"""The column or field that tells whether a row has changed."""


class ExportedRows(NamedTuple):
    """A batch."""

    tracks: list[str]
    vectors_BD: np.ndarray
    """float32; with a keep head [e | f]."""
    names: list[dict[str, str]]
    """What each track is called, without what is not known."""
    digests: list[str]
    """Of vector and names, 16 digits."""

    def only(self, places: list[int]) -> "ExportedRows":
        """The rows at these places of the batch."""
        lists = ([of[place] for place in places] for of in (self.tracks, self.names, self.digests))
        tracks, names, digests = lists
        return ExportedRows(tracks, self.vectors_BD[places], names, digests)  # type: ignore[arg-type]


def exported_rows(export: Path, manifest: ExportManifest, size: int) -> Iterator[ExportedRows]:
    """All rows in batches of at most `size`. Raises `UserError` for a file that is not what was exported."""
    for number, part in enumerate(manifest.parts):
        entry = manifest.tracks[number] if manifest.tracks else part
        for record in {part.file: part, entry.file: entry}.values():
            check_file(export, record)
        try:
            named = read_table(export / entry.file, ["track_id", *manifest.names])
            for piece in part_pieces(export, manifest, part):
                for start in range(0, len(piece.encoded), size):
                    vectors_BD = decode(piece.encoded[start : start + size], manifest.dtype)
                    columns = named.slice(piece.first - part.first_row + start, len(vectors_BD)).to_pydict()
                    yield _rows(columns, np.ascontiguousarray(vectors_BD))
        except (*DAMAGED, RuntimeError) as error:
            raise UserError(f"{export / part.file} cannot be read ({brief(error)}): export again") from error


def _rows(columns: dict[str, list[str | None]], vectors_BD: np.ndarray) -> ExportedRows:
    tracks = [str(track) for track in columns.pop("track_id")]
    values = zip(*columns.values(), strict=True) if columns else [()] * len(tracks)
    names = [{name: of for name, of in zip(columns, row, strict=True) if of is not None} for row in values]
    digests = []
    for vector_D, of in zip(vectors_BD, names, strict=True):
        digest = hashlib.blake2b(vector_D.tobytes(), digest_size=8)
        digest.update(repr(sorted(of.items())).encode())
        digests.append(digest.hexdigest())
    return ExportedRows(tracks, vectors_BD, names, digests)


def version_of(manifest: ExportManifest) -> str:
    """Of the rows and the names: equal for two exports of the same files."""
    files = [record.sha256 for record in (*manifest.parts, *manifest.tracks)]
    gone = [manifest.since.gone_tracks.sha256] if manifest.since else []
    return hashlib.sha256("\n".join([*files, *gone]).encode()).hexdigest()
