"""Recommendations for a file of sessions, chunk by chunk: neither file need fit in memory.

Shape legend: S sessions of a chunk, P plays of them, B sessions of a batch, K best.
"""

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from skipwise.common.console import note, stage
from skipwise.common.errors import UserError
from skipwise.common.files import require_regular_file
from skipwise.common.outputs import atomic_output
from skipwise.components.recommend import RecommendConfig
from skipwise.datapipes.session_files import DAMAGED
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.recommend.recommender import Recommender, SessionHistory
from skipwise.retrieval.recommend.session_file import Chunk, SessionFile

_CHUNK_SESSIONS = 1 << 14
"""Many, so that the pass over all track ids that `TrackIds.rows` makes is shared by many."""
_CHUNK_ANSWERS = 1 << 21
"""Tracks recommended in a chunk at most, 24 MiB with their scores, where K allows."""


def recommend_file(config: RecommendConfig, opened: OpenExport, recommender: Recommender) -> None:
    """Writes `config.output`, whole or not at all; raises `UserError` that names the file, the row and the field."""
    began = time.perf_counter()
    source = SessionFile(config.input, opened.view)
    columns = {"tracks": pa.list_(pa.string()), "scores": pa.list_(pa.float32())}
    if source.name_type is not None:
        columns = {"session_id": source.name_type} | columns
    left_out, read = np.zeros(2, dtype=np.int64), 0
    with atomic_output(config.output, config.overwrite, _is_ours) as scratch:
        try:
            with (
                pq.ParquetWriter(scratch / "result", pa.schema(columns)) as writer,
                stage("recommending", source.sessions, "sessions") as advance,
            ):
                for chunk in source.chunks(max(1, min(_CHUNK_SESSIONS, _CHUNK_ANSWERS // config.k))):
                    answers, dropped = _answer(config, opened, recommender, source, chunk)
                    writer.write_batch(pa.record_batch(answers, schema=writer.schema))
                    left_out += dropped
                    read += len(chunk.lengths_S)
                    advance(len(chunk.lengths_S))
            if read != source.sessions:  # Arrow may end a damaged row group early without a word
                raise UserError(f"{config.input} gives {read} of its {source.sessions} rows: copy or write it again")
        except OSError as error:
            raise UserError(
                f"{config.output} cannot be written ({error.strerror or error}): free some space"
            ) from error
    took = time.perf_counter() - began
    note(f"{config.output}: {source.sessions:,} sessions in {took:.1f} s, {source.sessions / took:,.0f} a second")
    if left_out.any():
        note(f"left out {left_out[0]:,} unknown tracks; {left_out[1]:,} sessions hold no other, and have an empty list")


def _answer(
    config: RecommendConfig, opened: OpenExport, recommender: Recommender, source: SessionFile, chunk: Chunk
) -> tuple[list[pa.Array], tuple[int, int]]:
    """The output's columns, and how many tracks were left out and how many sessions that leaves empty."""
    rows_P = opened.tracks.rows(chunk.tracks_P)
    known_P = rows_P >= 0
    if config.unknown == "refuse" and not known_P.all():
        source.refuse_track(chunk, int(known_P.argmin()))
    session_P = np.repeat(np.arange(len(chunk.lengths_S)), chunk.lengths_S)[known_P]
    lengths_S = np.bincount(session_P, minlength=len(chunk.lengths_S))
    rows_SK, scores_SK = _ranked(config, recommender, lengths_S, rows_P[known_P], chunk.skipped_P[known_P])
    found_SK = rows_SK >= 0
    offsets = pa.array(np.concatenate([[0], found_SK.sum(axis=1).cumsum()]).astype(np.int32))
    answers = [
        pa.ListArray.from_arrays(offsets, opened.tracks.ids(rows_SK[found_SK]).cast(pa.string())),
        pa.ListArray.from_arrays(offsets, pa.array(scores_SK[found_SK])),
    ]
    names = [] if chunk.names_S is None else [chunk.names_S]
    return names + answers, (int((~known_P).sum()), int((lengths_S == 0).sum()))


def _ranked(
    config: RecommendConfig,
    recommender: Recommender,
    lengths_S: np.ndarray,
    rows_P: np.ndarray,
    skipped_P: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows [S, K] and scores [S, K]; sessions of like length are asked for together, for the encoder reads padding."""
    rows_SK = np.full((len(lengths_S), config.k), -1, dtype=np.int64)
    scores_SK = np.full((len(lengths_S), config.k), -np.inf, dtype=np.float32)
    starts_S = lengths_S.cumsum() - lengths_S
    order = np.argsort(lengths_S, kind="stable")
    order = order[lengths_S[order] > 0]
    for start in range(0, len(order), config.batch):
        chosen_B = order[start : start + config.batch]
        lengths_B = lengths_S[chosen_B]
        within = np.arange(lengths_B.sum()) - np.repeat(lengths_B.cumsum() - lengths_B, lengths_B)
        plays = np.repeat(starts_S[chosen_B], lengths_B) + within
        listened = SessionHistory.flat(lengths_B, rows_P[plays], skipped_P[plays])
        rows_SK[chosen_B], scores_SK[chosen_B] = recommender.recommend(listened, config.k, config.exclude, config.steer)
    return rows_SK, scores_SK


def _is_ours(file: Path) -> bool:
    """Whether this command may have written `file`, so that --overwrite may replace it."""
    try:
        require_regular_file(file)
        return {"tracks", "scores"} <= set(pq.read_schema(file).names)
    except DAMAGED:
        return False
