"""The push, top to bottom: what the destination has, what differs from it, and what is no longer in the export."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from skipwise.common.console import note, stage
from skipwise.common.errors import UserError, brief
from skipwise.common.mirrors import local
from skipwise.common.tables import read_table
from skipwise.datapipes.session_files import DAMAGED
from skipwise.retrieval.export_manifest import ExportManifest
from skipwise.retrieval.open_export import check_file
from skipwise.retrieval.push.config import PushConfig
from skipwise.retrieval.push.destination import Destination, PushedState
from skipwise.retrieval.push.exported_rows import ExportedRows, exported_rows, version_of
from skipwise.retrieval.push.pgvector_destination import PgvectorDestination
from skipwise.retrieval.push.qdrant_destination import QdrantDestination

_DESTINATIONS: dict[str, Callable[[PushConfig, int, list[str]], Destination]] = {
    "qdrant": QdrantDestination,
    "pgvector": PgvectorDestination,
}


def push_export(config: PushConfig) -> None:
    """Makes the destination's rows those of the export, and prints how many were written and taken out.

    Rows whose digests it has are not sent, so that a push after an interrupted one goes on. Raises `UserError` for a
    destination that cannot be reached or holds something else, and for a delta that does not fit what it holds.
    """
    began = time.perf_counter()
    export = local(config.export)
    manifest = ExportManifest.read(export)
    wanted = state_of(manifest)
    destination = _DESTINATIONS[config.to](config, manifest.dim, manifest.names)
    with _reached(config, destination), destination:
        before = destination.state()
        if before == wanted:
            note(f"{config.name} has this export already")
        else:
            _check_delta(config, manifest, before, wanted)
            destination.mark(before.model_copy(update={"pushing": wanted.version}))
            written, deleted = _write(config, export, manifest, destination)
            rows = manifest.since.table_rows if manifest.since else manifest.rows
            if (count := destination.count()) != rows:
                raise UserError(
                    f"{config.name} has {count:,} rows where {rows:,} belong: another program writes to it, or what "
                    "the delta is counted from is not there; push an export of the whole table"
                )
            destination.mark(wanted)
            seconds = time.perf_counter() - began
            note(f"{config.name}: {rows:,} rows, {written:,} written and {deleted:,} taken out in {seconds:.1f} s")
        if config.alias:
            destination.turn(config.alias)


def state_of(manifest: ExportManifest) -> PushedState:
    """What the destination says once it has this export."""
    keep = manifest.keep
    return PushedState(
        version=version_of(manifest),
        vocabulary_hash=manifest.vocabulary_hash,
        recipe=manifest.recipe,
        dim=manifest.dim,
        keep_dim=keep.dim if keep else 0,
        dial=keep.dial if keep else 0.0,
    )


def _check_delta(config: PushConfig, manifest: ExportManifest, before: PushedState, wanted: PushedState) -> None:
    since = manifest.since
    if since is None or before.vocabulary_hash == since.rows_hash and before.pushing in ("", wanted.version):
        return
    raise UserError(
        f"{config.export} holds only what changed since {since.run}, and {config.name} has other rows than that run's: "
        "push an export of the whole table"
    )


def _write(config: PushConfig, export: Path, manifest: ExportManifest, destination: Destination) -> tuple[int, int]:
    """How many rows were written, and how many taken out."""
    there = dict(destination.digests())
    gone = set() if manifest.since else {*there}
    written = 0
    with stage("pushing", manifest.rows, "rows") as advance:
        for rows in exported_rows(export, manifest, config.batch):
            gone.difference_update(rows.tracks)
            changed = _changed(rows, there)
            if len(changed.tracks):
                destination.upsert(changed)
            written += len(changed.tracks)
            advance(len(rows.tracks))
    left = [track for track in _gone(export, manifest) if track in there] if manifest.since else sorted(gone)
    for first in range(0, len(left), config.batch):
        destination.delete(left[first : first + config.batch])
    return written, len(left)


def _changed(rows: ExportedRows, there: dict[str, str]) -> ExportedRows:
    pairs = enumerate(zip(rows.tracks, rows.digests, strict=True))
    return rows.only([place for place, (track, digest) in pairs if there.get(track) != digest])


def _gone(export: Path, manifest: ExportManifest) -> list[str]:
    """The tracks that only the older run has."""
    assert manifest.since is not None
    record = manifest.since.gone_tracks
    check_file(export, record)
    try:
        tracks: list[str] = read_table(export / record.file, ["track_id"])["track_id"].to_pylist()
    except DAMAGED as error:
        raise UserError(f"{export / record.file} cannot be read ({brief(error)}): export again") from error
    return tracks


@contextmanager
def _reached(config: PushConfig, destination: Destination) -> Iterator[None]:
    try:
        yield
    except destination.errors as error:
        raise UserError(
            f"{config.to} at {config.url} failed ({brief(error)}): check --url and its rights, then push "
            "again, which goes on with what is missing"
        ) from error
