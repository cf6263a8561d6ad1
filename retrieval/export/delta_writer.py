"""Writes the deltas of a run that follows: every rank its own changed rows, rank 0 the rest and the whole."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pyarrow as pa
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from skipwise.common.claims import claimed
from skipwise.common.distributed import gather_objects, on_all_ranks, on_rank_0, rank
from skipwise.common.errors import UserError, brief
from skipwise.common.files import FileRecord
from skipwise.common.locks import LOCK, locked
from skipwise.common.mirrors import publish
from skipwise.common.outputs import refuse_url
from skipwise.common.stores import Place
from skipwise.common.tables import write_table
from skipwise.common.work_folders import work_folder
from skipwise.datapipes.manifest import MANIFEST
from skipwise.models.query_encoder import weights_of
from skipwise.retrieval.export.exporter import signal_rows
from skipwise.retrieval.row_delta import (
    ENCODER,
    TRACKS,
    DeltaManifest,
    DeltaPart,
    Deltas,
    delta_name,
    hash_of,
    record_hash,
)
from skipwise.training.follow.publishing import DeltaPoint, TableChange
from skipwise.training.run.directory import RunDirectory


class DeltaWriter:
    """A `Publisher` into a folder, local or in an object store."""

    def __init__(self, folder: str, kept: int):
        """`kept`: how many of the newest deltas stay; older ones are removed."""
        if Place.of(folder) is None:
            refuse_url(Path(folder), "--stream.deltas")
        self._folder, self._place, self._kept = Path(work_folder(folder)), Place.of(folder), kept

    @contextmanager
    def held(self, init_from: str) -> Iterator[None]:
        """See `Publisher`. Rank 0 holds the lock in the folder, or the claim on the place in the store."""
        found, other = self._folder.exists(), "choose another --stream.deltas"
        with ExitStack() as holds:

            def hold() -> None:
                if rank() == 0:
                    if self._place:
                        holds.enter_context(claimed(self._place, other))
                    else:
                        self._folder.mkdir(parents=True, exist_ok=True)
                        holds.callback(_remove_empty, self._folder, found)
                        holds.enter_context(locked(self._folder / LOCK, self._folder, other))
                    self._refuse_others(init_from)

            on_all_ranks(hold, self._cannot_write)
            yield

    def _refuse_others(self, init_from: str) -> None:
        deltas = Deltas(str(self._place or self._folder))
        if deltas.base() not in (None, _base(init_from)):
            raise UserError(
                f"--stream.deltas {deltas.folder} holds deltas that begin with another run than {init_from}: name "
                "another folder, or remove that one"
            )

    def __call__(self, change: TableChange, last: DeltaPoint) -> DeltaPoint:
        """See `Publisher`. Raises the same `UserError` on every rank where the folder cannot be written."""
        name, encoder = delta_name(last.number + 1), change.model.module.learner.encoder
        scratch = self._folder / f".{name}.partial"
        on_rank_0(lambda: _make(scratch), self._cannot_write)
        part = f"rows-{rank():05}.safetensors"

        def write_rows() -> DeltaPart:
            if not scratch.is_dir():
                raise UserError(
                    f"{self._folder}, where deltas are written, is not there on every machine: name a folder that all "
                    "of them share, or set SKIPWISE_CACHE to one"
                )
            _save({"rows": change.rows_X.contiguous(), "values": change.rows_XD.contiguous()}, scratch / part)
            return DeltaPart(**FileRecord.of(scratch, part).model_dump(), rows=len(change.rows_X))

        parts = gather_objects(on_all_ranks(write_rows, self._cannot_write))
        signals_MD = signal_rows(change.model) if change.run.config.data.inputs else None

        def finish() -> DeltaPoint:
            _write_tracks(scratch / TRACKS, change)
            state: dict[str, Tensor] = weights_of(encoder, signals_MD)
            _save(state, scratch / ENCODER)
            manifest = DeltaManifest(
                number=last.number + 1,
                previous=last.hash,
                base=last.base or _base(change.run.config.init_from),
                rows_hash=change.run.record.rows_hash,
                table_rows=change.num_rows,
                dim=change.run.config.row_table.dim,
                parts=parts,
                tracks=FileRecord.of(scratch, TRACKS),
                encoder=FileRecord.of(scratch, ENCODER),
                part=change.part,
                heard_until=change.heard_until,
            )
            (scratch / MANIFEST).write_text(manifest.text(), encoding="utf-8")
            self._appear(scratch, name, manifest)
            return DeltaPoint(number=manifest.number, hash=hash_of(manifest.text()), base=manifest.base)

        return on_rank_0(finish, self._cannot_write)

    def _appear(self, scratch: Path, name: str, manifest: DeltaManifest) -> None:
        """Puts the delta in the place of one of its number, which a run that was killed has left."""
        target = self._folder / name
        if target.exists():
            old = self._folder / f".{name}.old"
            shutil.rmtree(old, ignore_errors=True)
            os.rename(target, old)
            shutil.rmtree(old, ignore_errors=True)
        os.rename(scratch, target)
        gone = delta_name(manifest.number - self._kept) if manifest.number > self._kept else None
        if self._place:
            publish(target, self._place / name)
        if gone:
            if self._place:
                for file in (self._place / gone).files():
                    (self._place / gone / file).remove()
            shutil.rmtree(self._folder / gone, ignore_errors=True)

    def _cannot_write(self, why: str) -> str:
        return f"--stream.deltas {self._place or self._folder} cannot take a delta ({why}): fix that and run this again"


def _remove_empty(folder: Path, found: bool) -> None:
    """Removes a folder that was made for deltas, where none has come."""
    if not found:
        with suppress(OSError):
            folder.rmdir()


def _base(init_from: str) -> str:
    return record_hash(RunDirectory.open(init_from).record.model_dump(by_alias=True))


def _save(tensors: dict[str, Tensor], file: Path) -> None:
    """As safetensors, which others than this user may read where they may read the folder; raises `OSError`."""
    try:
        save_file(tensors, file)
    except SafetensorError as error:
        raise OSError(brief(error)) from error
    file.chmod(file.parent.stat().st_mode & 0o666)


def _make(scratch: Path) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)


def _write_tracks(file: Path, change: TableChange) -> None:
    rows = sorted(change.tracks)
    names = sorted({name for row in rows for name in change.tracks[row].names})
    columns = {
        "row": pa.array(rows, pa.int64()),
        "track_id": pa.array([change.tracks[row].track for row in rows], pa.string()),
    }
    columns |= {name: pa.array([change.tracks[row].names.get(name) for row in rows], pa.string()) for name in names}
    write_table(pa.table(columns), file)
