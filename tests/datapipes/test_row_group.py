"""A row group is what was written, to the bit."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipwise.common.errors import UserError
from skipwise.datapipes import session_files as row_group
from skipwise.datapipes.sessions import SessionStore
from tests.support.lying_tables import lie, lists_of_zeros

lists_of_rows = st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=4), min_size=1, max_size=4)


def rows_of(sessions: list[list[int]]) -> row_group.Rows:
    lengths = np.array([len(rows) for rows in sessions])
    tracks = np.array(sum(sessions, []), dtype=np.int32)
    return row_group.Rows(lengths, tracks, (tracks % 4).astype(np.int8))


@given(one=lists_of_rows, other=lists_of_rows)
def test_the_checksum_tells_sessions_apart(one, other):
    """The order, the numbers and where a session ends."""
    same = row_group.checksum(rows_of(one)) == row_group.checksum(rows_of(other))
    assert same == (one == other)


def test_the_checksum_is_the_one_the_manifest_documents():
    """By hand: CRC-32 over the bytes 2 0 0 0, 5 0 0 0, 1 1 0 0, 3 1."""
    rows = row_group.Rows(np.array([2]), np.array([5, 257], dtype=np.int32), np.array([3, 1], dtype=np.int8))
    crc = 0xFFFFFFFF
    for byte in bytes([2, 0, 0, 0, 5, 0, 0, 0, 1, 1, 0, 0, 3, 1]):
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    assert row_group.checksum(rows) == f"{crc ^ 0xFFFFFFFF:08x}"


def test_what_is_read_is_what_was_written(tmp_path):
    lists = {
        "tracks": pa.array([[1, 2], [3]], pa.list_(pa.int32())),
        "skips": pa.array([[0, 3], [1]], pa.list_(pa.int8())),
    }
    pq.write_table(pa.table(lists), tmp_path / "part.parquet", row_group_size=1)
    assert row_group.sizes(tmp_path / "part.parquet") == [(1, 2), (1, 1)]
    rows = row_group.read(tmp_path / "part.parquet", 0)
    assert [values.tolist() for values in rows] == [[2], [1, 2], [0, 3]]


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ((3, 1, 3), "a track row lies outside 0..2"),
        ((4, 3, 9), "the length of a session lies outside 3..9"),
        ((4, 1, 1), "the length of a session lies outside 1..1"),
    ],
)
def test_what_the_manifest_rules_out_is_refused(limits, says):
    rows = row_group.Rows(np.array([2]), np.array([0, 3]), np.array([0, 3]))
    row_group.refuse_faults(rows, 4, 1, 9, "here")
    with pytest.raises(UserError, match=f"here: {says}: run prepare again"):
        row_group.refuse_faults(rows, *limits, "here")


def test_a_message_is_one_line_that_can_be_printed():
    assert str(UserError("a\nb\x1b[31m\udcff é")) == "a\\nb\\x1b[31m\\udcff é"


@pytest.mark.parametrize(
    ("column", "type_of", "says"),
    [
        ("tracks", pa.list_(pa.int64()), "column 'tracks' is list<.*int64>, expected list<.*int32>"),
        ("skips", pa.list_(pa.int32()), "column 'skips' is list<.*int32>, expected list<.*int8>"),
        ("skips", pa.large_list(pa.int8()), "column 'skips' is large_list<.*int8>, expected list<.*int8>"),
    ],
)
def test_columns_of_another_type_are_refused(column: str, type_of: pa.DataType, says: str, tmp_path):
    types = {"tracks": pa.list_(pa.int32()), "skips": pa.list_(pa.int8())} | {column: type_of}
    pq.write_table(
        pa.table({name: pa.array([[1, 2]], kind) for name, kind in types.items()}), tmp_path / "part.parquet"
    )
    with pytest.raises(UserError, match=says):
        row_group.read(tmp_path / "part.parquet", 0)


@pytest.mark.parametrize(
    ("lengths", "said", "says"),
    [
        ([100_000, 2, 3, 4], None, "row group 0: holds 100,009 plays where the manifest allows 16: run prepare again"),
        ([100_000, 2, 3, 4], 13, r"row group 0: cannot be read \(row group 0 has 100,000 values in 'tracks' where its"),
    ],
)
def test_a_file_of_more_plays_than_the_manifest_says_is_refused(lengths, said, says, make_dataset):
    """Before they are decoded: 920 bytes may hold any number of plays."""
    data = make_dataset([([1, 2, 0, 0], [0, 0, 0, 0])] * 4, 3, parts=1)
    file = data / "sessions" / "part-00000.parquet"
    lists_of_zeros(file, lengths)
    if said:
        lists_of_zeros(file, [100_000])
        lie(file, 100_000, said)
        content = json.loads((data / "manifest.json").read_text())
        content |= {"counts": content["counts"] | {"sessions": 1}, "parts": {file.name: 1}}
        content["session_lengths"]["max"] = 13
        content.pop("manifest_hash")
        (data / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=says):
        SessionStore(str(data)).read(np.zeros(1, np.int64))
