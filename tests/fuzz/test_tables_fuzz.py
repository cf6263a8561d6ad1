"""Session files that Parquet reads without complaint, and that hold what a session cannot be made of.

The directory has no checksums, as those of earlier versions have none. What is read is compared with the Python lists
that were written; what they rule out must be refused.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from skipwise.common.errors import UserError
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.signals import UNKNOWN
from tests.fuzz.dataset import PARTS, TRACKS, check_sentence, make, rewrite
from tests.fuzz.tally import Tally, cases, patience

TALLY = Tally("session tables")
RIGHT = {"tracks": pa.list_(pa.int32()), "skips": pa.list_(pa.int8())}
INNER = [pa.int8(), pa.uint8(), pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.string(), pa.bool_()]
TYPES = [
    *(pa.list_(inner) for inner in INNER),
    *(pa.large_list(inner) for inner in (pa.int8(), pa.int32())),
    pa.list_(pa.list_(pa.int32())),
    pa.list_(pa.struct([("x", pa.int32())])),
    pa.list_(pa.dictionary(pa.int32(), pa.string())),
    pa.list_(pa.timestamp("ms")),
    pa.list_(pa.int32(), 3),
    pa.map_(pa.int32(), pa.int32()),
    pa.null(),
    pa.int32(),
    pa.string(),
    pa.binary(),
]


@pytest.fixture(scope="module", autouse=True)
def report() -> Iterator[None]:
    yield
    print(f"\n{TALLY}")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, dict[str, list]]:
    """A directory without checksums, and the columns of its first part."""
    path = make(tmp_path_factory.mktemp("tables"))
    rewrite(path, {"checksums": ..., "manifest_hash": ...})
    return path, pq.read_table(path / PARTS[0]).select(["session_id", *RIGHT]).to_pydict()


def converted(column: list, kind: pa.DataType) -> pa.Array:
    """`column` as `kind`, or as much of that type as Arrow can make of it; NaN in place of the last number."""
    try:
        if pa.types.is_list(kind) and pa.types.is_floating(kind.value_type):
            return pa.array([[*map(float, values[:-1]), float("nan")] for values in column], kind)
        if pa.types.is_list(kind) and pa.types.is_string(kind.value_type):
            return pa.array([[*map(str, values)] for values in column], kind)
        return pa.array(column, kind)
    except (pa.ArrowException, TypeError, ValueError):
        return pa.nulls(len(column), kind)


def possible(columns: dict[str, list], lengths: dict[str, int]) -> bool:
    """Whether the sessions of these columns are sessions, by plain Python."""
    for tracks, skips in zip(columns["tracks"], columns["skips"], strict=True):
        if tracks is None or skips is None or len(tracks) != len(skips):
            return False
        if not lengths["min"] <= len(tracks) <= lengths["max"] or None in tracks or None in skips:
            return False
        if not all(0 <= row < TRACKS for row in tracks) or not all(UNKNOWN <= skip <= 3 for skip in skips):
            return False
    return True


def check(path: Path, columns: dict[str, Any], right: bool) -> str:
    """Reads a directory whose first part holds `columns`; fails unless it is refused, or it is `right` and read so."""
    try:
        with patience():
            store = SessionStore(str(path))
            window = store.read(np.arange(len(store.group_sizes)))
    except UserError as error:
        check_sentence(str(error), str(path))
        assert not right, f"refused for nothing: {error}"
        return "refused"
    assert right, "taken for sessions"
    count = len(columns["tracks"])
    for name in RIGHT:
        lists = np.split(getattr(window, name), window.offsets[1:-1])[:count]
        assert [values.tolist() for values in lists] == columns[name]
    return "harmless"


numbers = st.one_of(st.none(), st.integers(-2, 12), st.sampled_from([127, -128, 2**31 - 1, -(2**31)]))
changes = st.lists(
    st.tuples(
        st.sampled_from([*RIGHT]),
        st.sampled_from(["number", "number", "list", "none", "drop", "add", "empty"]),
        st.integers(0, 1000),
        st.integers(0, 1000),
        numbers,
    ),
    max_size=3,
)


def change_lists(columns: dict[str, list], wanted: list[tuple]) -> dict[str, list]:
    """A copy of `columns` with single numbers, or whole sessions, changed."""
    columns = {name: [list(values) if name in RIGHT else values for values in columns[name]] for name in columns}
    for name, what, at, place, number in wanted:
        number = None if number is None or (name == "skips" and not -128 <= number < 128) else number
        lists = columns[name]
        session = lists[at % len(lists)]
        match what:
            case "none":
                lists[at % len(lists)] = None
            case "empty":
                lists[at % len(lists)] = []
            case "list":
                lists[at % len(lists)] = [number] * (place % 12)
            case _ if not session:
                continue
            case "number":
                session[place % len(session)] = number
            case "drop":
                session.pop(place % len(session))
            case "add":
                session.insert(place % len(session), number)
    return columns


@cases(500)
@given(wanted=changes, size=st.integers(1, 20), how=st.sampled_from(["1.0", "2.0"]), schema=st.booleans())
@example(wanted=[("tracks", "drop", 0, 0, 0), ("tracks", "add", 1, 0, 0)], size=20, how="1.0", schema=True).via(
    "a track of one session stands in the next: as many plays as skips in all"
)
@example(wanted=[("tracks", "none", 3, 0, 0), ("skips", "none", 3, 0, 0)], size=20, how="1.0", schema=True).via(
    "no lists at all in one session"
)
@example(wanted=[("skips", "number", 3, 0, -1)], size=20, how="1.0", schema=True).via("what happened is not known")
def test_any_number_in_a_session(wanted, size, how, schema, made):
    path, columns = made
    lengths = SessionStore(str(path)).manifest.session_lengths
    columns = change_lists(columns, wanted)
    table = pa.table({name: pa.array(columns[name], RIGHT.get(name)) for name in columns})
    whole = (path / PARTS[0]).read_bytes()
    pq.write_table(table, path / PARTS[0], row_group_size=size, data_page_version=how, store_schema=schema)
    try:
        TALLY.counts[check(path, columns, possible(columns, lengths))] += 1
    finally:
        (path / PARTS[0]).write_bytes(whole)


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_any_type_of_a_column(name, kind, made):
    path, columns = made
    arrays = {other: converted(columns[other], RIGHT.get(other, pa.string())) for other in columns}
    spoiled = shutil.copytree(path, path.parent / f"{name}-{TYPES.index(kind)}")
    pq.write_table(pa.table(arrays | {name: converted(columns[name], kind)}), spoiled / PARTS[0])
    TALLY.counts[check(spoiled, columns, kind == RIGHT[name])] += 1


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("names", [(), ("other",), ("TWICE", "TWICE")], ids=["missing", "renamed", "twice"])
def test_any_name_of_a_column(name, names, made, tmp_path):
    path, columns = made
    spoiled = shutil.copytree(path, tmp_path / "data")
    arrays = [(other, pa.array(columns[other], RIGHT.get(other))) for other in columns if other != name]
    arrays += [(name if other == "TWICE" else other, pa.array(columns[name], RIGHT[name])) for other in names]
    table = pa.Table.from_arrays([array for _, array in arrays], names=[other for other, _ in arrays])
    pq.write_table(table, spoiled / PARTS[0])
    TALLY.counts[check(spoiled, columns, False)] += 1
