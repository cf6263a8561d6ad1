"""Tables are read and written by their own name, and a small file that says it is a large one is refused."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from skipwise.common.tables import MOST_IN_GROUP, count_rows, open_table, read_table, table_writer, write_table
from tests.support.lying_tables import lie, lists_of_zeros

TABLE = pa.table({"row": pa.array(range(5), pa.int32()), "list": [[1], [], [2, 3], None, [4]], "text": [*"abcde"]})
PIECES = [*":=[]*?'\"\\ ;%~#!-{},.ü\n", "a", "row", "1", "file:", "s3:", "mock:", "http:", "..a"]
NAMES = st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join).filter(lambda name: name.strip("."))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(NAMES, min_size=1, max_size=2))
@example(names=["runs-2026-11-26T16:40"])
@example(names=["file:", "x"])
@example(names=["mock:"])
@example(names=["a:1"])
@example(names=["row=9"])
@example(names=["\udcff"])
def test_a_relative_path_is_the_file_of_that_name(names: list[str], tmp_path_factory, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))
    file = Path(*names, "part.parquet")
    file.parent.mkdir(parents=True)
    write_table(TABLE, file, 2)
    assert [found for found in Path.cwd().rglob("*") if found.is_file()] == [file.absolute()]
    assert read_table(file).equals(TABLE)
    assert read_table(file, ["row"], filters=[("row", ">=", 3)])["row"].to_pylist() == [3, 4]
    assert count_rows(file) == 5
    with open_table(file) as table:
        assert (table.schema, table.group_rows) == (TABLE.schema, [2, 2, 1])
        assert table.values(1) == {"row": 2, "list": 3, "text": 2}
        assert table.group(1, ["list"]).equals(TABLE.select(["list"]).slice(2, 2))


@given(rows=st.integers(1, 7), size=st.integers(1, 6), groups=st.none() | st.lists(st.integers(0, 2), unique=True))
def test_batches_are_those_of_arrow(rows: int, size: int, groups: list[int] | None, tmp_path_factory):
    file = tmp_path_factory.mktemp("batches") / "part.parquet"
    write_table(TABLE, file, size)
    groups = groups and [group for group in groups if group < -(-5 // size)]
    with open_table(file) as table:
        found = list(table.batches(rows, ["list", "text"], groups))
    with pq.ParquetFile(file) as parquet:
        expected = list(parquet.iter_batches(rows, row_groups=groups, columns=["list", "text"]))
    assert found == expected


def test_a_writer_that_fails_closes_its_file(tmp_path: Path):
    with pytest.raises(KeyError), table_writer(tmp_path / "part", TABLE.schema):
        raise KeyError
    assert read_table(tmp_path / "part").equals(TABLE.slice(0, 0))


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_pages_that_hold_more_than_their_footer_says_are_refused(version: str, compression: str, tmp_path: Path):
    """920 bytes took 1.1 GB for 50 million values."""
    file = tmp_path / "part.parquet"
    lists_of_zeros(file, [300_000], compression=compression, data_page_version=version)
    with open_table(file) as table:
        assert len(table.group(0)["tracks"].combine_chunks().values) == 300_000
    lie(file, 300_000, 8)
    with open_table(file) as table:
        assert table.values(0) == {"tracks": 8, "skips": 8}
        for read in (lambda: table.group(0, ["skips"]), lambda: list(table.batches(10))):
            with pytest.raises(ValueError, match="row group 0 has 300,000 values in '(skips|tracks)' where .* says 8"):
                read()
    with pytest.raises(ValueError, match="where its footer says 8"):
        read_table(file)


def test_tables_and_row_groups_without_rows_are_read(tmp_path: Path):
    file = tmp_path / "part.parquet"
    write_table(TABLE.slice(0, 0), file)
    assert read_table(file).equals(TABLE.slice(0, 0))
    lists_of_zeros(file, [300_000])
    lie(file, 300_000, 0)
    with open_table(file) as table:
        assert len(table.group(0)) == 0


def test_more_values_than_expected_are_refused(tmp_path: Path):
    file = tmp_path / "part.parquet"
    lists_of_zeros(file, [1000])
    with (
        open_table(file) as table,
        pytest.raises(ValueError, match="1,000 values in .tracks., expected at most 99"),
    ):
        table.group(0, most=999)


def test_no_row_group_has_more_values_than_memory_holds(tmp_path: Path):
    file = tmp_path / "part.parquet"
    lists_of_zeros(file, [300_000])
    lie(file, 300_000, MOST_IN_GROUP + 1)
    with open_table(file) as table, pytest.raises(ValueError, match="134,217,729 values .* expected at most 134,217,7"):
        next(table.batches(1))


def test_a_table_read_whole_has_no_more_rows_than_its_size_allows(tmp_path: Path):
    file = tmp_path / "part.parquet"
    write_table(pa.table({"row": np.zeros(3_000_000, np.int64)}), file, 3_000_000)
    with pytest.raises(ValueError, match=r"[\d,]+ bytes that should be 3,000,000 rows"):
        read_table(file)
    write_table(pa.table({"row": np.random.default_rng(0).integers(0, 2, 3_000_000)}), file)
    assert len(read_table(file)) == 3_000_000


@pytest.mark.parametrize("place", [4, 5, 6, 8, 12])
def test_damaged_page_headers_are_refused_or_read(place: int, tmp_path: Path):
    file = tmp_path / "part.parquet"
    for byte in range(256):
        lists_of_zeros(file, [40])
        content = bytearray(file.read_bytes())
        content[place] = byte
        file.write_bytes(content)
        try:
            with open_table(file) as table:
                table.group(0)
        except (ValueError, OSError, ArithmeticError):
            continue


def text_of(file: Path, texts: list[str], lists: bool = False, **options) -> None:
    values = pa.array(texts).dictionary_encode()
    column = pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), values) if lists else values
    pq.write_table(pa.table({"text": column}), file, compression="zstd", store_schema=False, **options)


@pytest.mark.parametrize("lists", [False, True])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_dictionary_that_becomes_more_than_memory_holds_is_refused(lists: bool, version: str, tmp_path: Path):
    """600 bytes took 200 MB, and would take a terabyte with a million rows."""
    file = tmp_path / "part.parquet"
    text_of(file, ["a" * 1_000_000, *"bc"] * 300, lists, data_page_version=version)
    assert file.stat().st_size < 2000
    with open_table(file) as table:
        for read in (lambda: table.group(0), lambda: list(table.batches(10))):
            with pytest.raises(
                ValueError, match=r"row group 0 has more text in 'text' than a file of [\d,]+ bytes may"
            ):
                read()
    with pytest.raises(ValueError, match="more text"):
        read_table(file)


def test_long_texts_among_many_are_read(tmp_path: Path):
    file, texts = tmp_path / "part.parquet", ["a" * 100_000, *"bc", None, "d" * 9000] * 500
    text_of(file, texts)
    with open_table(file) as table:
        assert table.group(0)["text"].to_pylist() == texts
        assert [one for batch in table.batches(400) for one in batch["text"].to_pylist()] == texts


def test_text_that_is_read_whole_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file, texts = tmp_path / "part.parquet", ["a" * 4000] * 90_000
    text_of(file, texts)
    monkeypatch.setattr("skipwise.common.tables._MOST_TEXT", 1 << 27)
    with pytest.raises(ValueError, match="more text"):
        read_table(file)
    with open_table(file) as table:
        assert sum(map(len, table.batches(10_000))) == 90_000


def test_a_page_of_text_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "part.parquet"
    pq.write_table(pa.table({"text": ["a" * 3_000_000]}), file, compression="zstd", use_dictionary=False)
    monkeypatch.setattr("skipwise.common.tables._MOST_IN_BATCH", 2_000_000)
    with open_table(file) as table, pytest.raises(ValueError, match="more text"):
        table.group(0)
