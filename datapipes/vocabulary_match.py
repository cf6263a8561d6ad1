"""Which rows of an older vocabulary belong to which tracks of a newer one, joined by DuckDB on disk."""

import os
import tempfile
from pathlib import Path

import duckdb

from skipwise.common.errors import UserError, brief
from skipwise.common.tables import count_rows
from skipwise.datapipes.exact_files import parquet, quoted, write
from skipwise.datapipes.vocabulary import Vocabulary

SCRATCH = ".matches."
"""How the name of its scratch directory begins."""


def match(old: Vocabulary, new: Vocabulary, keep: bool, vocabulary: Path, matches: Path) -> tuple[int, int, int]:
    """Writes both files and returns the rows of the new table, those kept for vanished tracks, and those matched.

    `vocabulary`: the new tracks in their rows and, with `keep`, the old tracks that are not among them, in their old
    order; a track is called what the new vocabulary says, or else the old one. `matches`: `row` in the new table,
    ascending, and `source`, the old one. Both appear whole or not at all.
    """
    kept = "" if keep else "WHERE false"
    known = {name: {column.lower() for column in of.names()} for name, of in (("old", old), ("new", new))}
    names = {name.lower(): quoted(name) for name in [*old.names(), *new.names()]}
    either = "".join(f", coalesce(new.name_{at}, old.name_{at}) AS {name}" for at, name in enumerate(names.values()))
    of_vanished = "".join(f", name_{at}" for at in range(len(names)))
    with tempfile.TemporaryDirectory(dir=matches.parent.absolute(), prefix=SCRATCH) as scratch:
        partials = [Path(scratch) / file.name for file in (vocabulary, matches)]
        parquet(old.file, new.file, *partials)  # raises for a path that DuckDB cannot be given
        try:
            with duckdb.connect(config={"temp_directory": str(Path(scratch) / "spill")}) as engine:
                for name, source in (("old", old), ("new", new)):
                    own = "".join(
                        f", {column if key in known[name] else 'NULL::VARCHAR'} AS name_{at}"
                        for at, (key, column) in enumerate(names.items())
                    )
                    engine.execute(
                        f"CREATE VIEW {name} AS SELECT track_id, row, count{own} FROM {parquet(source.file)}"
                    )
                engine.execute(
                    f"""CREATE TABLE vanished AS SELECT track_id, old.row AS source,
                    {new.num_tracks} + row_number() OVER (ORDER BY old.row) - 1 AS row{of_vanished}
                    FROM old ANTI JOIN new USING (track_id) {kept}"""
                )
                tracks = engine.sql(
                    f"SELECT new.track_id, new.row::INTEGER AS row, new.count{either} "
                    f"FROM new {'LEFT JOIN old USING (track_id)' if names else ''} UNION ALL "
                    f"SELECT track_id, row::INTEGER, 0{of_vanished} FROM vanished ORDER BY row"
                )
                rows_of_both = engine.sql(
                    "SELECT new.row::INTEGER AS row, old.row::INTEGER AS source FROM new JOIN old USING (track_id) "
                    "UNION ALL SELECT row::INTEGER, source::INTEGER FROM vanished ORDER BY row"
                )
                write(tracks, partials[0])
                write(rows_of_both, partials[1])
        except duckdb.Error as error:
            raise UserError(f"{old.file} cannot be matched with {new.file} ({brief(error)})") from error
        rows, matched = (count_rows(partial) for partial in partials)
        for partial, file in zip(partials, (vocabulary, matches), strict=True):
            os.replace(partial, file)
    count = rows - new.num_tracks
    return rows, count, matched - count
