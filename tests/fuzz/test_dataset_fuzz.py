"""A dataset directory that anything may have happened to is refused in one sentence, or read as it was.

Hypothesis makes the cases; `SKIPWISE_FUZZ_CASES=20` tries twenty times as many, others each time.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from skipwise.datapipes.manifest import MANIFEST, VOCABULARY, Manifest
from tests.fuzz.dataset import FILES, PARTS, came_of, everything, make, rewrite
from tests.fuzz.mutate import Mutation, applied, mutations
from tests.fuzz.tally import Tally, cases

TALLY = Tally("dataset directories")


@pytest.fixture(scope="module", autouse=True)
def report() -> Iterator[None]:
    yield
    print(f"\n{TALLY}")


@pytest.fixture(scope="module")
def intact(tmp_path_factory) -> tuple[Path, dict]:
    path = make(tmp_path_factory.mktemp("intact"))
    return path, everything(path)


@pytest.fixture
def copy(intact, tmp_path) -> Path:
    """A copy to spoil, which every case puts right again."""
    return Path(shutil.copytree(intact[0], tmp_path / "data"))


@cases(2600)
@given(file=st.sampled_from(FILES), changes=st.lists(mutations, min_size=1, max_size=3))
@example(file=MANIFEST, changes=[Mutation("insert", 0, 1, b"[" * 100_000)]).via("nested beyond the parser's depth")
@example(file=MANIFEST, changes=[Mutation("truncate", 0, 1, b"")]).via("an empty manifest")
@example(file=PARTS[0], changes=[Mutation("truncate", 0, 1, b"")]).via("an empty part")
@example(file=VOCABULARY, changes=[Mutation("flip", 39, 7, b"")]).via("a track id that is not UTF-8")
@example(file=MANIFEST, changes=[Mutation("insert", 4006420043, 15, b"NaN"), Mutation("flip", 1127459, 59, b"")]).via(
    "a digit flipped where the field that holds the hash has another name"
)
def test_bytes_of_any_file(file, changes, intact, copy):
    path, before = intact
    (copy / file).write_bytes(applied((path / file).read_bytes(), changes))
    try:
        TALLY.counts[came_of(copy, before)] += 1
    finally:
        shutil.copyfile(path / file, copy / file)


@cases(600)
@given(place=st.integers(0, 2**32), bit=st.integers(0, 7), file=st.sampled_from(PARTS))
def test_one_bit_of_the_session_data(place, bit, file, intact, copy):
    """In the columns that are read, a flipped bit is always found."""
    path, before = intact
    (copy / file).write_bytes(Mutation("flip", place, bit, b"").apply((path / file).read_bytes()))
    try:
        TALLY.counts[came_of(copy, before)] += 1
    finally:
        shutil.copyfile(path / file, copy / file)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 40),
    st.sampled_from([2**31, 2**63, -(2**63), 10**30, float("nan"), float("inf"), -0.0, 1e308]),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(
        ["\ud800", "\0", "../../x.parquet", "/etc/passwd", "0" * 64, "part-00000.parquet", "a\nb", "x" * 999]
    ),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(
                st.text(max_size=4),
                st.sampled_from(["min", "max", "sessions", "plays", "tracks", "part-00000.parquet", "../x"]),
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=6,
)
SAID = ("manifest",)
"""A manifest vouched for anew may say something else of what nobody reads."""


@cases(500)
@given(
    field=st.sampled_from([*Manifest.model_fields, "manifest_hash", "unknown"]),
    value=st.one_of(values, st.just(...)),
)
@example(field="schema_version", value=True).via("true equals 1")
@example(field="parts", value={"../../x.parquet": 26}).via("a part outside the directory")
@example(field="parts", value={"/dev/zero": 26}).via("a part that never ends")
@example(field="parts", value={"\0": 26}).via("a name that no file can have")
@example(field="checksums", value={"part-00000.parquet": ["00000000"]}).via("fewer checksums than parts")
@example(field="counts", value={"sessions": 26, "plays": 1, "tracks": 2**40}).via("a table of a million million rows")
@example(field="session_lengths", value={"min": 3, "max": 10**30}).via("a length beyond int64")
def test_any_value_of_a_manifest_field(field, value, intact, copy):
    rewrite(copy, {field: value})
    try:
        TALLY.counts[came_of(copy, intact[1], SAID)] += 1
    finally:
        shutil.copyfile(intact[0] / MANIFEST, copy / MANIFEST)


@cases(300)
@given(data=st.data())
def test_any_number_inside_a_manifest_field(data, intact, copy):
    content = json.loads((copy / MANIFEST).read_text())
    field = data.draw(st.sampled_from(["counts", "session_lengths", "parts", "checksums", "dropped_sessions"]))
    inner = content[field] | {data.draw(st.sampled_from([*content[field], "more"])): data.draw(values)}
    rewrite(copy, {field: inner})
    try:
        TALLY.counts[came_of(copy, intact[1], SAID)] += 1
    finally:
        shutil.copyfile(intact[0] / MANIFEST, copy / MANIFEST)


def _loop(file: Path) -> None:
    file.symlink_to(file)


PUT = {
    "nothing": lambda file: None,
    "a directory": Path.mkdir,
    "a named pipe": os.mkfifo,
    "a link to itself": _loop,
    "a link to a device": lambda file: file.symlink_to("/dev/zero"),
    "an empty file": Path.touch,
    "another file": lambda file: shutil.copyfile(file.parent.parent / VOCABULARY, file),
    "the other part": lambda file: shutil.copyfile(file.parent / Path(PARTS[1]).name, file),
}


SPOILED = [(what, file) for what in PUT for file in FILES if "other" not in what or file == PARTS[0]]


@pytest.mark.parametrize(("what", "file"), SPOILED)
def test_something_else_in_place_of_a_file(what, file, intact, copy):
    (copy / file).unlink()
    PUT[what](copy / file)
    assert came_of(copy, intact[1]) == "refused"
    TALLY.counts["refused"] += 1


def test_parts_that_nobody_listed_are_not_read(intact, copy):
    shutil.copyfile(copy / PARTS[0], copy / "sessions" / "part-00002.parquet")
    assert came_of(copy, intact[1]) == "harmless"


def test_the_data_are_what_prepare_wrote(intact, copy):
    """The oracle sees a difference: without its checksums and hash, a directory with parts changed over is taken."""
    rewrite(copy, {"checksums": ..., "manifest_hash": ...})
    assert came_of(copy, intact[1], SAID) == "harmless"
