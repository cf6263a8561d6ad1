"""What tracks are called, in the parts of an export, and of a delta."""

import sqlite3
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from skipwise.common.errors import UserError
from skipwise.components.find import find
from skipwise.datapipes.prepare import PrepareConfig, prepare
from skipwise.datapipes.vocabulary import Vocabulary
from skipwise.retrieval.export import exported_names
from skipwise.retrieval.export.config import ExportConfig
from skipwise.retrieval.export.exporter import write_export
from skipwise.retrieval.export.parts import TableRows, check_part, check_tracks, write_part, write_tracks
from skipwise.retrieval.find_tracks import find_tracks
from skipwise.retrieval.formats import PartFormat
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.recommend.config import FindConfig
from tests.conftest import random_sessions, write_dataset
from tests.retrieval.conftest import DIM as WIDTH
from tests.retrieval.conftest import LONGEST, small
from tests.retrieval.conftest import TRACKS as ALL
from tests.support.one_rank import alone, save_rows  # noqa: F401  a fixture

TRACKS, DIM = 50, 8
TITLES = [f"Song {row}" if row % 3 else None for row in range(TRACKS)]
KIND = PartFormat()


@pytest.fixture
def vocabulary(tmp_path) -> Vocabulary:
    ids = [f"t_{row:02}" for row in range(TRACKS)]
    columns = {"track_id": ids, "row": pa.array(range(TRACKS), pa.int32()), "count": [1] * TRACKS, "title": TITLES}
    pq.write_table(pa.table(columns), tmp_path / "vocabulary.parquet", row_group_size=7)
    return Vocabulary(tmp_path / "vocabulary.parquet", TRACKS, "", "")


@pytest.mark.parametrize("chosen", ["all", "some", "none"])
@pytest.mark.parametrize("first", [0, 20])
def test_names_stand_beside_ids(chosen: str, first: int, vocabulary: Vocabulary, tmp_path: Path):
    rows_RD = torch.randn(TRACKS - 5 - first, DIM)
    kept = np.arange(len(rows_RD)) % 4 == 1 if chosen == "some" else np.full(len(rows_RD), chosen == "all")
    rows = TableRows(vocabulary, first, rows_RD, None if chosen == "all" else torch.from_numpy(kept))
    part, tracks = tmp_path / "part.parquet", tmp_path / "tracks.parquet"
    write_part(part, rows, KIND)
    check_part(part, rows, KIND)
    write_tracks(tracks, rows)
    check_tracks(tracks, rows)
    assert pq.read_schema(part).names == ["track_id", "row", "title", "embedding"]
    assert pq.read_table(part).drop(["embedding"]).equals(pq.read_table(tracks))
    numbers = (first + np.flatnonzero(kept)).tolist()
    assert pq.read_table(tracks).to_pylist() == [
        {"track_id": f"t_{row:02}", "row": row, "title": TITLES[row]} for row in numbers
    ]


def test_a_name_that_was_written_wrongly_is_found(vocabulary: Vocabulary, tmp_path: Path):
    rows, file = TableRows(vocabulary, 0, torch.randn(TRACKS, DIM)), tmp_path / "part.parquet"
    write_part(file, rows, KIND)
    table = pq.read_table(file)
    changed = table.set_column(2, "title", pa.array([*TITLES[:-1], "Song"]))
    pq.write_table(changed, file, row_group_size=TRACKS)
    with pytest.raises(UserError, match="part.parquet read back differs from the model's table"):
        check_part(file, rows, KIND)


def test_a_full_disk_is_said(vocabulary: Vocabulary, tmp_path: Path, monkeypatch):
    def full(*_) -> int:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(exported_names, "write_words", full)
    with pytest.raises(UserError, match=r"words.sqlite cannot be written \(database or disk is full\): free the disk"):
        exported_names.words_entry(vocabulary, tmp_path, tmp_path)


@pytest.fixture
def run(alone, tmp_path: Path) -> Path:  # noqa: F811
    """A run without names."""
    write_dataset(tmp_path / "data", random_sessions(90, ALL, LONGEST), ALL)
    config = small("best-skip-blind", tmp_path)
    save_rows(config, torch.randn(ALL, WIDTH))
    return Path(config.run_dir)


def name(vocabulary: Path, column: str, names: list[str | None]) -> None:
    table = pq.read_table(vocabulary)
    pq.write_table(table.append_column(column, pa.array(names, pa.string())), vocabulary)


@pytest.mark.ranks
@pytest.mark.parametrize("format", ["parquet", "npy"])
def test_names_and_their_words_are_exported(format, run: Path, tmp_path: Path, capsys):
    """From a run whose vocabulary has them; the most played come first."""
    vocabulary = pq.read_table(run / "vocabulary.parquet")
    titles = [f"Song {row % 7} of Ñandú" for row in range(ALL)]
    name(run / "vocabulary.parquet", "title", titles)
    write_export(ExportConfig(str(run), tmp_path / "out", format=format))
    opened = OpenExport.open(tmp_path / "out")
    assert opened.tracks.names["title"].to_pylist() == titles
    counts, ids = vocabulary["count"].to_pylist(), vocabulary["track_id"].to_pylist()
    of_three = sorted(range(3, ALL, 7), key=lambda row: (-counts[row], row))
    expected = [ids[row] for row in of_three]
    assert find_tracks(opened, "nandu 3", 1000) == expected
    assert find_tracks(opened, "song 3 nandx", 5) == expected[:5]
    assert find_tracks(opened, ids[9], 5) == [ids[9]] and find_tracks(opened, ids[9][:-1], 100) == ids[:10]
    capsys.readouterr()
    find(FindConfig(tmp_path / "out", "nandu 3", 2))
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["track", *expected[:2]]
    words = tmp_path / "out" / "words.sqlite"
    words.write_bytes(words.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="words.sqlite differs from what was written"):
        _ = OpenExport.open(tmp_path / "out").words


@pytest.mark.ranks
def test_a_run_gets_names_when_it_is_exported(run: Path, tmp_path: Path):
    """Of another dataset, for tracks of which it has none; in other rows there, and not of all tracks."""
    own = [f"Own {row}" if row % 2 else None for row in range(ALL)]
    name(run / "vocabulary.parquet", "title", own)
    log = pa.table({"session": ["s"] * 90, "track": [f"t_{row:05}" for row in range(90)], "name": ["Given"] * 90})
    pq.write_table(log, tmp_path / "log.parquet")
    columns = {"session": "session", "track": "track", "order": "file"}
    for output, names in (("named", {"title": "name", "artist": "name"}), ("nameless", {})):
        prepare(PrepareConfig(input=(tmp_path / "log.parquet",), output=tmp_path / output, **columns, **names))
    write_export(ExportConfig(str(run), tmp_path / "out", names=str(tmp_path / "named")))
    opened = OpenExport.open(tmp_path / "out")
    given = ["Given" if row < 90 else None for row in range(ALL)]
    assert opened.tracks.names["artist"].to_pylist() == given
    assert opened.tracks.names["title"].to_pylist() == [mine or of for mine, of in zip(own, given, strict=True)]
    assert opened.tracks.ids(np.arange(ALL)).to_pylist() == [f"t_{row:05}" for row in range(ALL)]
    assert find_tracks(opened, "own 7", 1) == ["t_00007"]
    with pytest.raises(UserError, match="nameless does not say what tracks are called: prepare it with --title"):
        write_export(ExportConfig(str(run), tmp_path / "no", names=str(tmp_path / "nameless")))
    assert not (tmp_path / "no").exists()
