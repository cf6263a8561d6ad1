"""Lists written as they lie in memory, against what Arrow and DuckDB read of them and what Arrow itself writes."""

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skipwise.common.list_pages import pages
from skipwise.common.tables import open_table
from skipwise.common.thrift_compact import (
    BINARY,
    BYTE,
    FALSE,
    I32,
    I64,
    LIST,
    STRUCT,
    TRUE,
    List,
    Value,
    decode,
    encode,
)
from skipwise.retrieval.export.parquet_part import part_writer

OPTIONS = {"compression": "none", "use_dictionary": False, "write_statistics": ["row"]}
NUMBERS = {"float32": pa.float32(), "float16": pa.float16(), "uint8": pa.uint8()}
GROUPS = 7, 1, 5000


def blocks(dtype: str, width: int) -> list[tuple[pa.Table, np.ndarray]]:
    """Row groups with texts, some of them null, and a column behind the lists."""
    random, found = np.random.default_rng(width), []
    for rows in GROUPS:
        values = random.integers(0, 256, (rows, width)).astype(np.uint8)
        if dtype != "uint8":
            values = (values - 99.5).astype(dtype)
            values[0, 0] = -0.0
        texts = pa.array([None if row % 3 == 1 else f"é{row}" for row in range(rows)])
        table = pa.table({"text": texts, "row": pa.array(np.arange(rows, dtype=np.int32)), "x": np.arange(rows) / 3})
        found.append((table, values))
    return found


def schema(dtype: str, width: int) -> pa.Schema:
    fields = {"text": pa.string(), "row": pa.int32(), "lists": pa.list_(NUMBERS[dtype], width), "x": pa.float64()}
    return pa.schema(fields)


@pytest.mark.parametrize(
    ("dtype", "width"), [("float32", 128), ("float32", 1), ("float16", 3), ("uint8", 5), ("uint8", 600)]
)
def test_what_arrow_and_duckdb_read(dtype: str, width: int, tmp_path):
    ours, arrows, written = tmp_path / "ours.parquet", tmp_path / "arrows.parquet", blocks(dtype, width)
    coded = OPTIONS | ({"use_dictionary": ["lists.list.element"]} if dtype == "uint8" else {})
    tables = []
    for table, values in written:
        lists = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), width)
        tables.append(table.add_column(2, "lists", lists).cast(schema(dtype, width)))
    with part_writer(ours, schema(dtype, width), "lists", **coded) as writer:
        for table, values in written:
            writer.write(table, values)
    with pq.ParquetWriter(arrows, schema(dtype, width), **coded) as writer:
        for table in tables:
            writer.write_table(table)
    found, expected = pq.ParquetFile(ours), pq.ParquetFile(arrows)
    assert found.schema_arrow.equals(expected.schema_arrow, check_metadata=True)
    assert found.schema.equals(expected.schema) and found.metadata.num_rows == sum(GROUPS)
    for group, table in enumerate(tables):
        read = found.read_row_group(group)
        read.validate(full=True)
        assert read.equals(table)
        here, there = (file.metadata.row_group(group) for file in (found, expected))
        assert here.num_rows == there.num_rows and here.column(1).statistics == there.column(1).statistics
    query = "SELECT * FROM read_parquet('{}')"
    assert duckdb.sql(query.format(ours)).fetchall() == duckdb.sql(query.format(arrows)).fetchall()
    assert pq.read_table(ours, filters=[("row", ">", 4990)])["row"].to_pylist() == [*range(4991, 5000)]
    with open_table(ours) as table, open_table(arrows) as other:
        for group, (_, values) in enumerate(written):
            lists = table.lists(group, "lists")
            assert lists.dtype == values.dtype and np.array_equal(lists.view(np.uint8), values.view(np.uint8))
            assert other.lists(group, "lists") is None and table.lists(group, "x") is None


def test_a_file_without_rows(tmp_path):
    with part_writer(tmp_path / "none.parquet", schema("float32", 4), "lists", **OPTIONS):
        pass
    table = pq.read_table(tmp_path / "none.parquet")
    assert len(table) == 0 and table.schema.equals(schema("float32", 4))


@pytest.mark.parametrize("dtype", NUMBERS)
def test_bytes_in_place_of_others_are_not_read(dtype: str, tmp_path):
    """Every byte of the pages before the numbers; and a chunk that ends early."""
    file, (table, values), width = tmp_path / "part.parquet", blocks(dtype, 4)[0], 4
    with part_writer(file, schema(dtype, width), "lists", **OPTIONS) as writer:
        writer.write(table, values)
    content, pieces = file.read_bytes(), [bytes(piece) for piece in pages(values)]
    at = content.index(b"".join(pieces))
    before = sum(map(len, pieces[:-2]))
    for place in [*range(at, at + before)]:
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with open_table(file) as read:
            assert read.lists(0, "lists") is None
    file.write_bytes(content)
    with open_table(file) as read:
        assert np.array_equal(read.lists(0, "lists"), values)


def test_footers_of_arrow_come_back(tmp_path):
    table = pa.table({"a": [1, None], "é": ["x", "y"], "l": [[1.5], []], "when": pa.array([1, 2], pa.timestamp("us"))})
    sink = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables([table] * 20), sink, row_group_size=2, write_page_index=True)
    content = sink.getvalue().to_pybytes()
    end = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    footer, last = decode(content, end)
    assert last == len(content) - 8 and encode(footer) == content[end:-8]
    assert len(footer[4].value.values) == 20
    for cut in range(end, len(content) - 9, 199):
        with pytest.raises(ValueError):
            decode(content[:cut], end)


def test_thrift_by_hand():
    """The specification's examples: a field's step and type in a byte, numbers in zigzag, seven bits a byte."""
    fields = {
        1: Value(I32, -1),
        3: Value(TRUE, True),
        20: Value(I64, 300),
        21: Value(BINARY, b"ab"),
        22: Value(BYTE, 9),
    }
    fields |= {23: Value(FALSE, False), 24: Value(LIST, List(STRUCT, [{1: Value(I32, 1)}]))}
    content = bytes.fromhex("15 01 21 06 28 d8 04 18 02 61 62 13 09 12 19 1c 15 02 00 00")
    assert encode(fields) == content and decode(content) == (fields, len(content))
    for wrong in (b"\x17\x00", b"\x15" + b"\xff" * 11, b"\x18\x7fabc", b"\x1c" * 40, b"\x19\xf3\xff\xff\x03\x00"):
        with pytest.raises(ValueError):
            decode(wrong)
