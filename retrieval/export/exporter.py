"""The export, top to bottom: every rank writes and checks its own rows, and rank 0 publishes what all agreed on."""

import io
import platform
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from skipwise.common.distributed import gather_objects, logger, on_all_ranks, on_rank_0, rank, world_size
from skipwise.common.errors import UserError
from skipwise.common.outputs import atomic_output_on_all_ranks
from skipwise.common.product_precision import set_product_precision
from skipwise.common.versions import need_extra
from skipwise.datapipes.manifest import MANIFEST
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.signals import Signals
from skipwise.models.dial import dialled
from skipwise.models.encoder import Encoder
from skipwise.models.query_encoder import EncoderShape, load_query_encoder
from skipwise.models.rows import own_rows
from skipwise.models.table import SIGNAL_TABLE
from skipwise.retrieval.export.config import ExportConfig
from skipwise.retrieval.export.delta import changed_rows, delta_entry, open_since
from skipwise.retrieval.export.encoder_program import (
    QueryFunction,
    input_contract,
    load_onnx,
    write_checked,
    write_onnx,
    write_program,
    write_weights,
)
from skipwise.retrieval.export.examples import example_sessions
from skipwise.retrieval.export.exported_names import named_vocabulary, words_entry
from skipwise.retrieval.export.parts import (
    TableRows,
    check_part,
    check_tracks,
    checked,
    part_name,
    tracks_name,
    write_part,
    write_tracks,
)
from skipwise.retrieval.export.verify import compare_programs
from skipwise.retrieval.export_manifest import (
    ExportManifest,
    OnnxEntry,
    PartEntry,
    ProgramEntry,
    QueriesEntry,
    WeightsEntry,
    is_export,
    record_of,
)
from skipwise.retrieval.formats import PartFormat, row_bytes
from skipwise.retrieval.row_delta import AppliedEntry
from skipwise.retrieval.skip_entries import DialPoint, KeepEntry, SignalEntry
from skipwise.studies.dial_curve import Curve, measure_curve
from skipwise.training.build import build_model, stateless, table_weight, track_rows
from skipwise.training.checkpoint.checkpoints import load_best
from skipwise.training.checks import check
from skipwise.training.config import RunConfig
from skipwise.training.config_fields import as_json
from skipwise.training.follow.rows_in_use import rows_in_use
from skipwise.training.run.directory import RunDirectory

WEIGHTS, PROGRAM, ONNX, QUERIES = "encoder.safetensors", "encoder.pt2", "encoder.onnx", "queries.npy"
_BATCH = 64
_AGAIN = "check the disk, then export again"


def write_export(config: ExportConfig) -> None:
    """Exports the best weights of a run, whole or not at all. Needs a process group."""
    began = time.perf_counter()
    set_product_precision("highest")
    kind = PartFormat(config.format, config.dtype)
    on_all_ranks(kind.check)
    if config.onnx:
        on_all_ranks(lambda: need_extra("onnx", "--onnx"))
    run, store, run_config = on_all_ranks(lambda: _open(config.run, config))
    dim = run_config.row_table.dim
    with atomic_output_on_all_ranks(config.output, config.overwrite, is_export) as scratch:
        result = scratch / "result"
        used = on_rank_0(lambda: rows_in_use(run, scratch))
        num_rows = used.num_rows
        since = open_since(config.only_new_since, run, scratch) if config.only_new_since else None
        vocabulary = named_vocabulary(config.names, run, scratch) if config.names else used.vocabulary
        known = store.num_tracks, run.table_rows, run.record.contexts, store.features
        model = build_model(run_config, *known, to_load=True)
        load_best(model, run.path)
        model.eval()
        encoder = model.module.learner.encoder
        signals = Signals.of(run_config.data.inputs, run.record.contexts)
        widths = run_config.table.dim, run_config.loss.keep_width
        shape = EncoderShape.of(*widths, signals, run_config.data.profile, run_config.encoder.times)
        signals_MD = signal_rows(model) if signals.columns else None
        rows, num_new = TableRows(vocabulary, *track_rows(model, store.features, num_rows)), 0
        if since:
            chosen_R, num_new = on_all_ranks(lambda: changed_rows(since, rows.first, rows.rows_RD))
            rows = replace(rows, chosen_R=chosen_R)
        counts = gather_objects((len(rows), num_new))
        exported, num_new = (sum(column) for column in zip(*counts, strict=True))
        on_rank_0(lambda: _check_space(scratch, config.output, exported, dim, kind))
        first = sum(count for count, _ in counts[: rank()])
        with ThreadPoolExecutor(1) as beside:  # mostly Arrow's work, which leaves Python to the tracing of the encoder
            writing = beside.submit(_write_rows, result, rows, kind, first)
            opset = on_rank_0(lambda: _write_encoders(result, encoder, shape, signals_MD, config.onnx), _cannot_write)
            loaders: dict[str, Callable[[], QueryFunction]] = {
                "the encoder program": lambda: torch.export.load(str(result / PROGRAM)).module(),
                "the encoder rebuilt from its weights": lambda: load_query_encoder(
                    encoder.config, shape, load_file(result / WEIGHTS)
                ),
            }
            if config.onnx:
                loaders["the encoder for ONNX"] = lambda: load_onnx(result / ONNX)
            compared, outputs_SX = compare_programs(loaders, run_config, store, model)
            written = gather_objects(on_all_ranks(writing.result, _cannot_write))
        keep = keep_entry(shape.keep_dim, measure_curve(run_config, store, model)) if shape.keep_dim else None
        queries_SD = dialled(torch.from_numpy(outputs_SX), shape.keep_dim, 1.0).numpy()
        program = compared["the encoder program"]
        parts = [part for part, _ in written]
        wanted = 0 if since else config.examples
        examples = on_rank_0(lambda: example_sessions(store, run_config.data.skip_up_to, wanted))

        def describe() -> None:
            queries = io.BytesIO()
            np.save(queries, queries_SD)
            write_checked(result / QUERIES, queries.getvalue())
            onnx = None
            if opset:
                difference = compared["the encoder for ONNX"].largest_difference
                onnx = record_of(OnnxEntry, result, ONNX, opset=opset, largest_difference=difference)
            manifest = ExportManifest(
                rows=exported,
                dim=dim,
                format=kind.format,
                dtype=kind.dtype,
                vocabulary_hash=used.rows_hash,
                parts=parts,
                tracks=[tracks for _, tracks in written if tracks],
                names=rows.names,
                words=None if since else words_entry(vocabulary, result, scratch),
                encoder=record_of(ProgramEntry, result, PROGRAM, **input_contract(encoder.config, shape)),
                weights=record_of(WeightsEntry, result, WEIGHTS, config=asdict(encoder.config)),
                keep=keep,
                examples=examples,
                signals=[SignalEntry.of(column) for column in signals.columns],
                onnx=onnx,
                queries=record_of(QueriesEntry, result, QUERIES, rows=len(queries_SD), dial=1.0 if keep else None),
                since=delta_entry(since, result, num_rows, exported, num_new) if since else None,
                delta=AppliedEntry(number=used.delta.number, hash=used.delta.hash) if used.delta.number else None,
                compared=asdict(program),
                recipe=run.record.recipe,
                config=as_json(run.config),
                trained=run.record.model_dump(by_alias=True),
                versions={"python": platform.python_version()} | {name: version(name) for name in ("torch", "pyarrow")},
            )
            manifest.write(result)
            if ExportManifest.read(result) != manifest:
                raise UserError(f"{MANIFEST} read back differs from what was written: {_AGAIN}")

        on_rank_0(describe, _cannot_write)
    held = "the table bit for bit" if kind.dtype == "float32" else f"the table's conversion to {kind.dtype} bit for bit"
    logger.info(
        f"{config.output}: {exported:,} rows of {dim} {kind.dtype} in {len(parts)} part{'s' * (len(parts) > 1)}, "
        f"{sum(part.bytes for part in parts):,} bytes, in {time.perf_counter() - began:.1f} s; every part equals "
        f"{held}, the encoder program the model to {program.largest_difference:.1e} on {program.sessions:,} sessions"
    )
    if examples:
        logger.info(
            f"it holds {len(examples)} sessions of the test, for the page to start from (--examples 0 for none)"
        )


def keep_entry(dim: int, curve: Curve) -> KeepEntry:
    """What the manifest says of a keep head."""
    points = []
    for dial, row in curve.rows.items():
        found = {name: figure["mean"] for name, figure in row["figures"].items()}
        points.append(
            DialPoint(
                dial=dial,
                hr_at_10=found["hr@10"],
                kept_hr_at_10=found.get("kept_hr@10"),
                skipped_hr_at_10=found.get("skipped_hr@10"),
                pairs_in_order=found.get("pairs_in_order"),
                skip_rate=found.get("listed_skips", 0.0),
                gain=row["difference"].get(curve.gained) if dial else None,
            )
        )
    return KeepEntry(dim=dim, dial=curve.auto, curve=points, targets=curve.targets, split=curve.split)


def _cannot_write(reason: str) -> str:
    return f"the export cannot be written ({reason}): free the disk or choose another --output"


def _open(run_path: str, config: ExportConfig) -> tuple[RunDirectory, SessionStore, RunConfig]:
    """The run, its data, and the config to build its model with here."""
    run = RunDirectory.open(run_path)
    if run.config.follow and (config.names or config.only_new_since):
        raise UserError(
            f"{run_path} follows {run.config.follow}: it is exported without --names and --only-new-since; names come "
            "with its parts, and serve --deltas takes what changes"
        )
    store = run.open_store()
    # Row-wise, so that no rank holds the whole table, whatever it was trained with; as many lanes as ranks, so that
    # any number of ranks works.
    batch = _BATCH * world_size()
    run_config = stateless(
        replace(
            run.config,
            data=replace(run.config.data, batch_size=batch, lanes=world_size(), shuffle_groups=1, workers=0),
            evaluate=replace(run.config.evaluate, batch_size=batch),
            table=replace(run.config.table, sharding="row_wise"),
        )
    )
    check(run_config, store)
    if rank() == 0:
        run.vocabulary.check()
    return run, store, run_config


def _check_space(scratch: Path, output: Path, num_rows: int, dim: int, kind: PartFormat) -> None:
    """Raises `UserError` where the file system of `scratch` has less room than the embeddings alone take."""
    needed, free = num_rows * row_bytes(dim, kind.dtype), shutil.disk_usage(scratch).free
    if needed > free:
        raise UserError(
            f"{output} needs {needed / 1e6:,.1f} MB for {num_rows:,} rows of {dim} {kind.dtype} and its file system "
            f"has {free / 1e6:,.1f} MB free: free some, or choose another --output"
        )


def _write_rows(result: Path, rows: TableRows, kind: PartFormat, first: int) -> tuple[PartEntry, PartEntry | None]:
    """This rank's part, written and compared, and the file of its ids if it has one.

    `first`: the export's row that it begins with.
    """
    name = part_name(rank(), kind)
    (result / name).parent.mkdir(parents=True, exist_ok=True)
    write_part(result / name, rows, kind)
    record = checked(result, name, lambda file: check_part(file, rows, kind))
    part = PartEntry(**record.model_dump(), first_row=first, rows=len(rows))
    if kind.holds_tracks:
        return part, None
    name = tracks_name(rank())
    (result / name).parent.mkdir(exist_ok=True)
    write_tracks(result / name, rows)
    record = checked(result, name, lambda file: check_tracks(file, rows))
    return part, PartEntry(**record.model_dump(), first_row=first, rows=len(rows))


def signal_rows(model: DistributedModelParallel) -> Tensor:
    """[M, D]: the whole table of signals, on every rank."""
    weight = table_weight(model, SIGNAL_TABLE)
    parts = gather_objects(own_rows(weight, rank(), world_size())[1].cpu().numpy())
    return torch.from_numpy(np.concatenate(parts))


def _write_encoders(
    result: Path, encoder: Encoder, shape: EncoderShape, signals_MD: Tensor | None, onnx: bool
) -> int | None:
    """Weights and program, and the program for ONNX if asked; returns the opset of that."""
    result.mkdir(exist_ok=True)
    write_weights(result / WEIGHTS, encoder, signals_MD)
    program = write_program(result / PROGRAM, encoder, shape, signals_MD)
    return write_onnx(result / ONNX, program) if onnx else None
