"""The export, top to bottom: every rank writes and checks its own rows, and rank 0 publishes what all agreed on."""

import io
import platform
import time
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from skipwise.common.distributed import gather_objects, logger, on_all_ranks, rank, world_size
from skipwise.common.errors import UserError
from skipwise.common.outputs import atomic_output_on_all_ranks
from skipwise.common.versions import need_extra
from skipwise.datapipes.manifest import MANIFEST
from skipwise.datapipes.sessions import SessionStore
from skipwise.models.encoder import Encoder
from skipwise.models.rows import own_rows
from skipwise.retrieval.export.delta import Since, changed_rows, open_since, since_record, write_gone
from skipwise.retrieval.export.encoder_program import input_contract, write_program
from skipwise.retrieval.export.files import write_checked
from skipwise.retrieval.export.live import LiveRows
from skipwise.retrieval.export.onnx_program import load_onnx, write_onnx
from skipwise.retrieval.export.parts import check_part, check_tracks, part_name, tracks_name, write_part, write_tracks
from skipwise.retrieval.export.space import check_space
from skipwise.retrieval.export.verify import compare_programs
from skipwise.retrieval.export_manifest import ExportManifest, is_export
from skipwise.retrieval.formats import PLAIN, Kind, check_kind
from skipwise.training.build import build_model, check, stateless, table_weight
from skipwise.training.checkpoint.checkpoint_index import FileRecord
from skipwise.training.checkpoint.checkpoints import load_best
from skipwise.training.config import RunConfig
from skipwise.training.run.directory import RunDirectory

PROGRAM, ONNX, QUERIES = "encoder.pt2", "encoder.onnx", "queries.npy"
_BATCH = 64


def write_export(
    run_path: str, output: Path, overwrite: bool, kind: Kind = PLAIN, only_new_since: str = "", onnx: bool = False
) -> None:
    """Exports the best weights of a run to `output`, whole or not at all. Needs a process group."""
    began = time.perf_counter()
    torch.set_float32_matmul_precision("highest")
    on_all_ranks(lambda: _check_tools(kind, onnx))
    run, store, config = on_all_ranks(lambda: _open(run_path))
    with atomic_output_on_all_ranks(output, overwrite, is_export) as scratch:
        result = scratch / "result"
        since = open_since(only_new_since, run, scratch) if only_new_since else None
        model = build_model(config, store.num_tracks, run.record.num_rows)
        load_best(model, run.path)
        model.eval()
        encoder, dim = model.module.learner.encoder, config.table.dim
        rows, new = _choose(since, LiveRows(run.vocabulary, *own_rows(table_weight(model), rank(), world_size())))
        counts = gather_objects((len(rows), new))
        exported = sum(count for count, _ in counts)
        on_all_ranks(lambda: check_space(scratch, output, exported, dim, kind.dtype) if rank() == 0 else None)
        first = sum(count for count, _ in counts[: rank()])
        written = gather_objects(on_all_ranks(lambda: _write_rows(result, rows, kind, first), _cannot_write))
        opset = on_all_ranks(
            lambda: _write_encoders(result, encoder, dim, onnx) if rank() == 0 else None, _cannot_write
        )
        loaders = {"the encoder program": lambda: torch.export.load(str(result / PROGRAM)).module()}
        if onnx:
            loaders["the encoder for ONNX"] = lambda: load_onnx(result / ONNX)
        compared, queries_SD = compare_programs(loaders, config, store, model)
        fields = {
            "rows": exported,
            "dim": dim,
            "format": kind.format,
            "dtype": kind.dtype,
            "parts": [part for part, _ in written],
            "tracks": [tracks for _, tracks in written if tracks],
            "compared": asdict(compared["the encoder program"]),
        }

        def describe() -> None:
            if onnx:
                different = compared["the encoder for ONNX"].largest_difference
                fields["onnx"] = _record(result, ONNX) | {"opset": opset, "largest_difference": different}
            if since:
                gone = write_gone(since, result, run.record.num_rows)
                new_rows = sum(new for _, new in counts)
                fields["since"] = since_record(since, run.record.num_rows, exported, new_rows, gone)
            fields["queries"] = _write_queries(result, queries_SD)
            _write_manifest(result, run, encoder, fields)

        on_all_ranks(lambda: describe() if rank() == 0 else None, _cannot_write)
    parts, compared = fields["parts"], fields["compared"]
    held = "the table bit for bit" if kind.dtype == "float32" else f"the table's conversion to {kind.dtype} bit for bit"
    logger.info(
        f"{output}: {exported:,} rows of {dim} {kind.dtype} in {len(parts)} part{'s' if len(parts) > 1 else ''}, "
        f"{sum(part['bytes'] for part in parts):,} bytes, in {time.perf_counter() - began:.1f} s; every part equals "
        f"{held}, the encoder program the model to {compared['largest_difference']:.1e} on "
        f"{compared['sessions']:,} sessions"
    )


def _cannot_write(reason: str) -> str:
    return f"the export cannot be written ({reason}): free the disk or choose another --output"


def _check_tools(kind: Kind, onnx: bool) -> None:
    check_kind(kind)
    if onnx:
        need_extra("onnx", "--onnx")


def _open(run_path: str) -> tuple[RunDirectory, SessionStore, RunConfig]:
    """The run, its data, and the config to build its model with here."""
    run = RunDirectory.open(run_path)
    store = run.open_store()
    # Row-wise, so that no rank holds the whole table, whatever it was trained with; as many lanes as ranks, so that
    # any number of those will do.
    batch = _BATCH * world_size()
    config = stateless(
        replace(
            run.config,
            data=replace(run.config.data, batch_size=batch, lanes=world_size(), shuffle_groups=1, workers=0),
            evaluate=replace(run.config.evaluate, batch_size=batch),
            table=replace(run.config.table, sharding="row_wise"),
        )
    )
    check(config, store)
    if rank() == 0:
        run.vocabulary.check()
    return run, store, config


def _choose(since: Since | None, rows: LiveRows) -> tuple[LiveRows, int]:
    """What this rank exports of its rows, and how many of them are of tracks that are new since then."""
    if since is None:
        return rows, 0
    chosen_R, new = on_all_ranks(lambda: changed_rows(since, rows.first, rows.rows_RD))
    return replace(rows, chosen_R=chosen_R), new


def _write_rows(result: Path, rows: LiveRows, kind: Kind, first: int) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """This rank's part, written and compared, as the manifest lists it, and the file of its ids if it has one.

    `first`: the export's row that it begins with.
    """
    name = part_name(rank(), kind)
    (result / name).parent.mkdir(parents=True, exist_ok=True)
    write_part(result / name, rows, kind)
    check_part(result / name, rows, kind)
    place = {"first_row": first, "rows": len(rows)}
    if kind.holds_tracks:
        return _record(result, name) | place, None
    tracks = tracks_name(rank())
    (result / tracks).parent.mkdir(exist_ok=True)
    write_tracks(result / tracks, rows)
    check_tracks(result / tracks, rows)
    return _record(result, name) | place, _record(result, tracks) | place


def _write_encoders(result: Path, encoder: Encoder, dim: int, onnx: bool) -> int | None:
    """The program, and for ONNX too if asked; returns the opset of that."""
    program = write_program(result / PROGRAM, encoder, dim)
    return write_onnx(result / ONNX, program) if onnx else None


def _write_queries(result: Path, queries_SD: np.ndarray) -> dict[str, Any]:
    content = io.BytesIO()
    np.save(content, queries_SD)
    write_checked(result / QUERIES, content.getvalue())
    return _record(result, QUERIES) | {"rows": len(queries_SD)}


def _record(result: Path, name: str) -> dict[str, Any]:
    return asdict(FileRecord.of(result, name))


def _write_manifest(result: Path, run: RunDirectory, encoder: Encoder, fields: dict[str, Any]) -> None:
    manifest = ExportManifest(
        vocabulary_hash=run.record.rows_hash,
        encoder=_record(result, PROGRAM) | input_contract(encoder, run.config.table.dim),
        recipe=run.record.recipe,
        config=asdict(run.config),
        trained=run.record.to_json(),
        versions={"python": platform.python_version()} | {name: version(name) for name in ("torch", "pyarrow")},
        **({"onnx": {}, "index": {}, "since": {}} | fields),
    )
    manifest.write(result)
    if ExportManifest.read(result) != manifest:
        raise UserError(f"{MANIFEST} read back differs from what was written: check the disk, then export again")
