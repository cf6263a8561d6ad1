"""Which rows of an older vocabulary belong to which tracks of a newer one, joined by DuckDB on disk."""

import os
import tempfile
from pathlib import Path

import duckdb

from skipwise.common.errors import UserError, brief
from skipwise.datapipes.vocabulary import Vocabulary


def match(old: Vocabulary, new: Vocabulary, keep: bool, vocabulary: Path, matches: Path) -> tuple[int, int, int]:
    """Writes both files and returns the rows of the new table, those kept for vanished tracks, and those matched.

    `vocabulary`: the new tracks in their rows and, with `keep`, the old tracks that are not among them, in their old
    order. `matches`: `row` in the new table, ascending, and `source`, the old one. Both appear whole or not at all.
    """
    kept = "" if keep else "WHERE false"
    with tempfile.TemporaryDirectory(dir=matches.parent, prefix=".matches.") as scratch:
        partials = [Path(scratch) / file.name for file in (vocabulary, matches)]
        try:
            with duckdb.connect(config={"temp_directory": str(Path(scratch) / "spill")}) as engine:
                for name, source in (("old", old), ("new", new)):
                    engine.read_parquet(str(source.file)).create_view(name)
                engine.execute(
                    f"""CREATE TABLE vanished AS SELECT track_id, old.row AS source,
                    {new.num_tracks} + row_number() OVER (ORDER BY old.row) - 1 AS row
                    FROM old ANTI JOIN new USING (track_id) {kept}"""
                )
                for query, partial in (
                    (
                        "SELECT track_id, row::INTEGER AS row, count FROM new UNION ALL "
                        "SELECT track_id, row::INTEGER, 0 FROM vanished",
                        partials[0],
                    ),
                    (
                        "SELECT new.row::INTEGER AS row, old.row::INTEGER AS source FROM new JOIN old USING (track_id) "
                        "UNION ALL SELECT row::INTEGER, source::INTEGER FROM vanished",
                        partials[1],
                    ),
                ):
                    engine.execute(f"COPY ({query} ORDER BY row) TO '{_quoted(partial)}' (FORMAT parquet)")
                count = engine.execute("SELECT count(*) FROM vanished").fetchall()[0][0]
                matched = engine.execute(f"SELECT count(*) FROM '{_quoted(partials[1])}'").fetchall()[0][0] - count
        except duckdb.Error as error:
            raise UserError(f"{old.file} cannot be matched with {new.file} ({brief(error)})") from error
        for partial, file in zip(partials, (vocabulary, matches), strict=True):
            os.replace(partial, file)
    return new.num_tracks + count, count, matched


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
