"""The export, top to bottom: every rank writes and checks its own rows, and rank 0 publishes what all agreed on."""

import platform
import time
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datapipes.errors import UserError
from datapipes.manifest import MANIFEST
from datapipes.sessions import SessionStore
from datapipes.vocabulary import Vocabulary
from models.encoder import Encoder
from models.rows import own_rows
from retrieval.comparison import Comparison, compare_program
from retrieval.encoder import input_contract, write_program
from retrieval.manifest import ExportManifest, is_export
from retrieval.parts import check_part, part_name, write_part
from retrieval.space import check_space
from retrieval.together import aside_together, gather_objects, together
from training.build import build_model, check, stateless, table_weight
from training.checkpoint import load_best
from training.checkpoint_index import FileRecord
from training.config import RunConfig
from training.distributed import logger, rank, ranks
from training.run import RunDirectory

PROGRAM = "encoder.pt2"
_BATCH = 64


def write_export(run_path: str, output: Path, overwrite: bool) -> None:
    """Exports the best weights of a run to `output`, whole or not at all. Needs a process group."""
    began = time.perf_counter()
    torch.set_float32_matmul_precision("highest")
    run, store, config = together(lambda: _open(run_path))
    with aside_together(output, overwrite, is_export) as scratch:
        together(lambda: check_space(scratch, output, run.record["rows"], config.table.dim) if rank() == 0 else None)
        result = scratch / "result"
        together(lambda: (result / part_name(rank())).parent.mkdir(parents=True, exist_ok=True))
        model = build_model(config, store.tracks, run.record["rows"])
        load_best(model, run.path)
        model.eval()
        encoder, dim = model.module.learner.encoder, config.table.dim
        first, rows_RD = own_rows(table_weight(model), rank(), ranks())
        part = together(lambda: _write_rows(result, run.vocabulary, first, rows_RD))
        together(lambda: write_program(result / PROGRAM, encoder, dim) if rank() == 0 else None)
        compared = compare_program(result / PROGRAM, config, store, model)
        parts = gather_objects(part)
        together(lambda: _write_manifest(result, run, encoder, parts, compared) if rank() == 0 else None)
    logger.info(
        f"{output}: {run.record['rows']:,} rows of {dim} in {len(parts)} part{'s' if len(parts) > 1 else ''}, "
        f"{sum(part['bytes'] for part in parts):,} bytes, in {time.perf_counter() - began:.1f} s; every part equals "
        f"the table bit for bit, the encoder program the model to {compared.largest_difference:.1e} on "
        f"{compared.sessions:,} sessions"
    )


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


def _write_rows(result: Path, vocabulary: Vocabulary, first: int, rows_RD: Tensor) -> dict[str, Any]:
    """This rank's part, written and compared, as the manifest lists it."""
    name = part_name(rank())
    write_part(result / name, vocabulary, first, rows_RD)
    check_part(result / name, vocabulary, first, rows_RD)
    record = asdict(FileRecord.of(result, name))
    return {"file": record.pop("file"), "first_row": first, "rows": len(rows_RD)} | record


def _write_manifest(
    result: Path, run: RunDirectory, encoder: Encoder, parts: list[dict[str, Any]], compared: Comparison
) -> None:
    dim = run.config.table.dim
    manifest = ExportManifest(
        rows=run.record["rows"],
        dim=dim,
        dtype="float32",
        vocabulary_hash=run.record["rows_hash"],
        parts=parts,
        encoder=asdict(FileRecord.of(result, PROGRAM)) | input_contract(encoder, dim),
        compared=asdict(compared),
        recipe=run.record["recipe"],
        config=asdict(run.config),
        trained=run.record,
        versions={"python": platform.python_version()} | {name: version(name) for name in ("torch", "pyarrow")},
    )
    manifest.write(result)
    if ExportManifest.read(result) != manifest:
        raise UserError(f"{MANIFEST} read back differs from what was written: check the disk, then export again")
