"""The index of words of an export whose tracks have titles or artists."""

from pathlib import Path

import duckdb

from skipwise.datapipes.exact_files import parquet
from skipwise.datapipes.vocabulary import Vocabulary
from skipwise.retrieval.export_manifest import CountedEntry, record_of
from skipwise.retrieval.word_index import write_words

WORDS = "words.sqlite"


def words_entry(vocabulary: Vocabulary, result: Path, scratch: Path) -> CountedEntry | None:
    """Writes the index of a whole table; None where its tracks have neither. DuckDB sorts by popularity, and spills."""
    columns = [name for name in ("title", "artist") if name in vocabulary.names()]
    if not columns:
        return None
    with duckdb.connect(config={"temp_directory": str(scratch / "spill")}) as engine:
        text = f"concat_ws(' ', {', '.join(columns)}) AS text"
        query = f"SELECT row, {text} FROM {parquet(vocabulary.file)} ORDER BY count DESC, row"
        batches = engine.sql(query).to_arrow_reader(1 << 16)
        tracks = (
            pair for batch in batches for pair in zip(*(column.to_pylist() for column in batch.columns), strict=True)
        )
        count = write_words(result / WORDS, tracks)
    return record_of(CountedEntry, result, WORDS, rows=count)
