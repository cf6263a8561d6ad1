"""Writes `features/` of a dataset that is otherwise whole, in the order of its rows.

What is normalized or has a code follows from the tracks that training plays. Shape legend: N tracks, B tracks of a
block, Z values.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from skipwise.common.console import note, stage
from skipwise.common.errors import UserError
from skipwise.common.files import FileRecord
from skipwise.datapipes.config import HELD_OUT
from skipwise.datapipes.counts import train_counts
from skipwise.datapipes.exact_files import parquet, quoted, write
from skipwise.datapipes.manifest import VOCABULARY, Manifest
from skipwise.datapipes.prepare.config import PrepareConfig
from skipwise.datapipes.prepare.feature_table import TABLE, Column, column_of
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.track_features import FEATURES, FeatureEntry

LARGEST = 10.0
"""Deviations from the mean, at which numbers are cut."""
WIDEST = 1 << 16
"""Numbers of a vector."""
_BLOCK = 1 << 16
_MOST_FLOAT = float(np.finfo(np.float32).max)
_FAR = 1000.0
"""A number of a vector above which training hardly goes well."""
_MANY = 1000
"""Values of one track, all of which each step that has the track looks up."""


def write_features(
    engine: duckdb.DuckDBPyConnection, config: PrepareConfig, columns: list[Column], result: Path, manifest: Manifest
) -> Manifest:
    """Writes the files and the manifest again, with their entries; `columns`: those of `feature_table.read_table`."""
    store = SessionStore(str(result))
    heard_N = train_counts(store.part("train"), held_out=0 if store.unseen else HELD_OUT["validation"]) > 0
    heard = pa.table({"row": pa.array(np.flatnonzero(heard_N).astype(np.int32))})
    engine.register("heard", heard)
    vocabulary = parquet(result / VOCABULARY)
    engine.execute(f"CREATE VIEW vocabulary AS SELECT * FROM {vocabulary}").fetchall()
    if not columns:
        types = dict.fromkeys(manifest.track_columns, "VARCHAR")
        columns = [column_of(config.output, name, types, config) for name in config.features]
        engine.execute(
            f"CREATE VIEW {TABLE} AS SELECT * EXCLUDE (row, count, track_id), track_id AS id FROM vocabulary"
        )
    engine.execute(f"""
        CREATE VIEW of_rows AS SELECT row, {TABLE}.* EXCLUDE (id) FROM vocabulary LEFT JOIN {TABLE} ON track_id = id
    """).fetchall()
    (result / FEATURES).mkdir()
    entries = []
    with stage("writing features", len(columns), "columns") as advance:
        for place, column in enumerate(columns):
            writer = _Files(engine, result / FEATURES, place, column, len(heard_N), str(config.track_features))
            entries.append(writer.values() if column.kind == "values" else writer.numbers())
            advance(1)
    for entry in entries:
        if not entry.tracks:
            note(f"warning: nothing is known of any track by '{entry.name}'")
    changed = manifest.model_copy(update={"features": entries})
    changed.write(result)
    return changed


@dataclass(frozen=True)
class _Files:
    """The files of one column."""

    engine: duckdb.DuckDBPyConnection
    folder: Path
    place: int
    column: Column
    num_tracks: int
    source: str

    def numbers(self) -> FeatureEntry:
        """A number or a vector of each track."""
        sql, mean, deviation, width = quoted(self.column.name), 0.0, 1.0, 1
        if self.column.kind == "number":
            finite = f"{sql} IS NOT NULL AND isfinite({sql}::DOUBLE)"
            ((found, spread),) = self.engine.execute(f"""
                SELECT avg({sql}::DOUBLE), stddev_pop({sql}::DOUBLE) FROM of_rows JOIN heard USING (row) WHERE {finite}
            """).fetchall()
            mean, deviation = float(found or 0.0), float(spread or 0.0) or 1.0
            if not np.isfinite([mean, deviation]).all():
                raise UserError(
                    f"{self.source}: numbers of '{self.column.name}' are too large for their mean and deviation: "
                    "correct them, or leave the column out of --features"
                )
        else:
            ((least, width),) = self.engine.execute(f"SELECT min(len({sql})), max(len({sql})) FROM of_rows").fetchall()
            width = int(width or 1)
            if least is not None and (least != width or not 1 <= width <= WIDEST):
                raise UserError(
                    f"{self.source}: vectors of '{self.column.name}' have {least} to {width} numbers, expected as many "
                    f"each, 1 to {WIDEST:,}: correct them, or leave the column out of --features"
                )
        file, known, farthest = self.folder / f"{self.place}-numbers.npy", 0, 0.0
        with open(file, "wb") as stream:
            shape = {"descr": "<f4", "fortran_order": False, "shape": (self.num_tracks, width)}
            np.lib.format.write_array_header_1_0(stream, shape)
            clipped, readable = (LARGEST, np.inf) if self.column.kind == "number" else (np.inf, _MOST_FLOAT)
            for block in self._blocks(f"SELECT {sql} AS value FROM of_rows ORDER BY row"):
                values_BW, known_B = _numbers(block, width, readable)
                values_BW = np.clip((values_BW - mean) / deviation, -clipped, clipped) * known_B[:, None]
                stream.write(values_BW.astype("<f4").data.cast("B") if values_BW.size else b"")
                known += int(known_B.sum())
                farthest = max(farthest, float(np.abs(values_BW).max(initial=0.0)))
        if self.column.kind == "vector" and farthest > _FAR:
            note(
                f"warning: vectors of '{self.column.name}' have numbers up to {farthest:.3g}, which are read as they "
                "are: scale them so that most lie between -1 and 1"
            )
        return self._entry(width, known, mean=mean, deviation=deviation)

    def values(self) -> FeatureEntry:
        """The codes of each track's categories; a value is a code where a track of the training has it."""
        self.engine.execute(f"""
            CREATE OR REPLACE TABLE mentions AS SELECT DISTINCT row, trim(value) AS value FROM (
                SELECT row, unnest({self.column.values}) AS value FROM of_rows) WHERE NOT missing(value)""").fetchall()
        self.engine.execute("""
            CREATE OR REPLACE TABLE known_values AS
            SELECT value, (row_number() OVER (ORDER BY md5(value), value) - 1)::INTEGER AS code, tracks FROM (
                SELECT value, count(*) AS tracks FROM mentions JOIN heard USING (row) GROUP BY value)""").fetchall()
        ((width, known, unknown),) = self.engine.execute("""
            SELECT (SELECT count(*) FROM known_values), count(DISTINCT row) FILTER (code IS NOT NULL),
                count_if(code IS NULL) FROM mentions LEFT JOIN known_values USING (value)""").fetchall()
        counts_N = np.zeros(self.num_tracks, dtype=np.int64)
        ((total,),) = self.engine.execute("SELECT count(*) FROM mentions JOIN known_values USING (value)").fetchall()
        with open(self.folder / f"{self.place}-codes.npy", "wb") as stream:
            shape = {"descr": "<i4", "fortran_order": False, "shape": (total,)}
            np.lib.format.write_array_header_1_0(stream, shape)
            for block in self._blocks(
                "SELECT row, code FROM mentions JOIN known_values USING (value) ORDER BY row, code"
            ):
                counts_N += np.bincount(block["row"].to_numpy(), minlength=self.num_tracks)
                stream.write(block["code"].to_numpy().astype("<i4").tobytes())
        if (most := int(counts_N.max(initial=0))) > _MANY:
            note(
                f"warning: {int((counts_N > _MANY).sum()):,} tracks have more than {_MANY:,} values of "
                f"'{self.column.name}', one of them {most:,}: every step looks up all of each track; keep those that "
                "say most"
            )
        np.save(self.folder / f"{self.place}-offsets.npy", np.append(0, counts_N.cumsum()).astype("<i8"))
        write(
            self.engine.sql("SELECT value, code, tracks FROM known_values ORDER BY code"),
            self.folder / f"{self.place}-values.parquet",
        )
        return self._entry(max(width, 1), known, unknown=unknown)

    def _blocks(self, query: str) -> Iterator[pa.RecordBatch]:
        with closing(self.engine.sql(query).to_arrow_reader(_BLOCK)) as reader:
            yield from reader

    def _entry(self, width: int, tracks: int, **more: Any) -> FeatureEntry:
        names = ("codes.npy", "offsets.npy", "values.parquet") if self.column.kind == "values" else ("numbers.npy",)
        files = {f"{self.place}-{name}": FileRecord.of(self.folder, f"{self.place}-{name}").sha256 for name in names}
        return FeatureEntry(
            name=self.column.name, kind=self.column.kind, width=width, tracks=tracks, files=files, **more
        )


def _numbers(block: pa.RecordBatch, width: int, readable: float) -> tuple[np.ndarray, np.ndarray]:
    """float64 [B, width] with 0 for what is no finite number or beyond `readable`, and bool [B]: of which tracks any
    is known."""
    column = block["value"]
    if not pa.types.is_list(column.type) and not pa.types.is_fixed_size_list(column.type):
        values_BW = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)[:, None]
    else:
        values_BW = np.full((len(column), width), np.nan)
        there = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
        flat = column.drop_null().flatten().cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        values_BW[there] = flat.reshape(len(there), width)
    finite_BW = np.isfinite(values_BW) & (np.abs(values_BW) <= readable)
    return np.where(finite_BW, values_BW, 0.0), finite_BW.any(axis=1)
