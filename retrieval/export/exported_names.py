"""What the tracks of an export are called, and the index of their words."""

import sqlite3
from pathlib import Path

import duckdb

from skipwise.common.distributed import on_all_ranks, rank
from skipwise.common.errors import UserError, brief
from skipwise.datapipes.exact_files import parquet
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.vocabulary import Vocabulary
from skipwise.datapipes.vocabulary_match import match
from skipwise.retrieval.export_manifest import CountedEntry, record_of
from skipwise.retrieval.word_index import write_words
from skipwise.training.run.directory import RunDirectory

WORDS = "words.sqlite"


def named_vocabulary(data: str, run: RunDirectory, scratch: Path) -> Vocabulary:
    """The run's vocabulary, with what a dataset says of tracks where the run says nothing; all ranks call it together.

    Raises `UserError` for a dataset without names.
    """
    target = scratch / "named.parquet"

    def add_names() -> None:
        if rank() == 0:
            named = Vocabulary.of(SessionStore(data))
            if not named.names():
                raise UserError(f"--names {data} does not say what tracks are called: prepare it with --title")
            named.check()
            match(named, run.vocabulary, False, target, scratch / "named-matches.parquet")

    on_all_ranks(add_names)
    return Vocabulary(target, run.record.num_rows, run.record.rows_hash, "export again")


def words_entry(vocabulary: Vocabulary, result: Path, scratch: Path) -> CountedEntry | None:
    """Writes the index of a whole table; None where its tracks have neither. DuckDB sorts by popularity, and spills."""
    columns = [name for name in ("title", "artist") if name in vocabulary.names()]
    if not columns:
        return None
    text = f"concat_ws(' ', {', '.join(columns)}) AS text"
    query = f"SELECT row, {text} FROM {parquet(vocabulary.file)} ORDER BY count DESC, row"
    try:
        with duckdb.connect(config={"temp_directory": str(scratch / "spill")}) as engine:
            blocks = (batch.to_pydict().values() for batch in engine.sql(query).to_arrow_reader(1 << 16))
            count = write_words(result / WORDS, (track for block in blocks for track in zip(*block, strict=True)))
    except (duckdb.Error, sqlite3.Error) as error:
        raise UserError(
            f"{WORDS} cannot be written ({brief(error)}): free the disk, or take a Python whose sqlite3 has FTS5"
        ) from error
    return record_of(CountedEntry, result, WORDS, rows=count)
