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

from datapipes.errors import UserError
from datapipes.manifest import MANIFEST
from datapipes.sessions import SessionStore
from models.encoder import Encoder
from models.rows import own_rows
from retrieval.extras import need_extra
from retrieval.kinds import PLAIN, Kind, check_kind
from retrieval.manifest import ExportManifest, is_export
from retrieval.writing.comparison import compare_programs
from retrieval.writing.encoder import input_contract, write_program
from retrieval.writing.files import write_checked
from retrieval.writing.live import LiveRows
from retrieval.writing.onnx_program import load_onnx, write_onnx
from retrieval.writing.parts import check_part, check_tracks, part_name, tracks_name, write_part, write_tracks
from retrieval.writing.since import Since, changed_rows, open_since, since_record, write_gone
from retrieval.writing.space import check_space
from retrieval.writing.together import aside_together, gather_objects, together
from training.build import build_model, check, stateless, table_weight
from training.checkpoint import load_best
from training.checkpoint_index import FileRecord
from training.config import RunConfig
from training.distributed import logger, rank, ranks
from training.run import RunDirectory

PROGRAM, ONNX, QUERIES = "encoder.pt2", "encoder.onnx", "queries.npy"
_BATCH = 64


def write_export(
    run_path: str, output: Path, overwrite: bool, kind: Kind = PLAIN, only_new_since: str = "", onnx: bool = False
) -> None:
    """Exports the best weights of a run to `output`, whole or not at all. Needs a process group."""
    began = time.perf_counter()
    torch.set_float32_matmul_precision("highest")
    together(lambda: _check_tools(kind, onnx))
    run, store, config = together(lambda: _open(run_path))
    with aside_together(output, overwrite, is_export) as scratch:
        result = scratch / "result"
        since = open_since(only_new_since, run, scratch) if only_new_since else None
        model = build_model(config, store.tracks, run.record["rows"])
        load_best(model, run.path)
        model.eval()
        encoder, dim = model.module.learner.encoder, config.table.dim
        rows, new = _choose(since, LiveRows(run.vocabulary, *own_rows(table_weight(model), rank(), ranks())))
        counts = gather_objects((len(rows), new))
        exported = sum(count for count, _ in counts)
        together(lambda: check_space(scratch, output, exported, dim, kind.dtype) if rank() == 0 else None)
        first = sum(count for count, _ in counts[: rank()])
        written = gather_objects(together(lambda: _write_rows(result, rows, kind, first)))
        opset = together(lambda: _write_encoders(result, encoder, dim, onnx) if rank() == 0 else None)
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
                gone = write_gone(since, result, run.record["rows"])
                new_rows = sum(new for _, new in counts)
                fields["since"] = since_record(since, run.record["rows"], exported, new_rows, gone)
            fields["queries"] = _write_queries(result, queries_SD)
            _write_manifest(result, run, encoder, fields)

        together(lambda: describe() if rank() == 0 else None)
    parts, compared = fields["parts"], fields["compared"]
    held = "the table bit for bit" if kind.dtype == "float32" else f"the table's conversion to {kind.dtype} bit for bit"
    logger.info(
        f"{output}: {exported:,} rows of {dim} {kind.dtype} in {len(parts)} part{'s' if len(parts) > 1 else ''}, "
        f"{sum(part['bytes'] for part in parts):,} bytes, in {time.perf_counter() - began:.1f} s; every part equals "
        f"{held}, the encoder program the model to {compared['largest_difference']:.1e} on "
        f"{compared['sessions']:,} sessions"
    )


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
    batch = _BATCH * ranks()
    config = stateless(
        replace(
            run.config,
            data=replace(run.config.data, batch_size=batch, lanes=ranks(), shuffle_groups=1, workers=0),
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
    chosen_R, new = together(lambda: changed_rows(since, rows.first, rows.rows_RD))
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
        vocabulary_hash=run.record["rows_hash"],
        encoder=_record(result, PROGRAM) | input_contract(encoder, run.config.table.dim),
        recipe=run.record["recipe"],
        config=asdict(run.config),
        trained=run.record,
        versions={"python": platform.python_version()} | {name: version(name) for name in ("torch", "pyarrow")},
        **({"onnx": {}, "index": {}, "since": {}} | fields),
    )
    manifest.write(result)
    if ExportManifest.read(result) != manifest:
        raise UserError(f"{MANIFEST} read back differs from what was written: check the disk, then export again")
