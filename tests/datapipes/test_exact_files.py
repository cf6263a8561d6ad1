"""A folder's name changes no dataset and no match of vocabularies, whatever characters it has."""

import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skipwise.common.errors import UserError
from skipwise.common.tables import write_table
from skipwise.datapipes.overlap import shared_sessions
from skipwise.datapipes.prepare import PrepareConfig, prepare
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.vocabulary import Vocabulary
from skipwise.datapipes.vocabulary_match import match

COLUMNS = "session track file row place strength fault session_id tracks skips number digest code id word count source"
UNREADABLE = "(has a backslash and one of .*|is not UTF-8 in its path, which cannot be read): rename the folder"
PIECES = [*"=[]*?'\"\\ ;%~#!-{},ü\n", "**", "1", *COLUMNS.split(), "reason_start", "track_id", "file:"]
NAMES = st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join).filter(lambda name: "://" not in name)
HEADER = "session_id,session_position,track_id_clean,skip_1,skip_2,skip_3,reason_start\n"
OPTIONS = [{"sample": 15}, {"split": "session", "test_share": 0.3, "validation_share": 0.3}]


def unreadable(name: str) -> bool:
    """DuckDB has no way to say it."""
    return ("\\" in name and any(one in name for one in "[*?")) or "\udcff" in name


def content(data: Path) -> dict[str, bytes]:
    return {str(file.relative_to(data)): file.read_bytes() for file in data.rglob("*.parquet")}


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Path:
    random = np.random.default_rng(0)
    rows = [
        f"s{session},{place},t{random.integers(30)},false,{str(random.random() < 0.3).lower()},true,w{place % 3}\n"
        for session in range(25)
        for place in range(1, 6)
    ]
    file = tmp_path_factory.mktemp("log") / "log.csv"
    file.write_text(HEADER + "".join(rows))
    return file


def prepared(log: Path, folder: Path) -> tuple[dict[str, bytes], dict[str, bytes], int]:
    """Two datasets, the second in the rows of the first, and how many sessions they share."""
    for name, options, vocabulary in (("first", OPTIONS[0], None), ("second", OPTIONS[1], folder / "first")):
        prepare(PrepareConfig(input=(log,), output=folder / name, vocabulary=vocabulary, threads=1, **options))
    first, second = (folder / name for name in ("first", "second"))
    return content(first), content(second), shared_sessions(SessionStore(str(first)), SessionStore(str(second)))


@pytest.fixture(scope="module")
def plain(log: Path, tmp_path_factory) -> tuple[dict[str, bytes], dict[str, bytes], int]:
    return prepared(log, tmp_path_factory.mktemp("plain"))


@settings(max_examples=25, deadline=None)
@given(name=NAMES)
@example("track=zzz")
@example("session=9")
@example("strength=3")
@example("number=0")
@example("code=1")
@example("run\\1")
@example("run\\[1]")
def test_the_same_dataset_wherever_it_is_written(log: Path, plain: tuple, tmp_path_factory, name: str):
    folder = tmp_path_factory.mktemp("odd") / name
    if unreadable(name):
        with pytest.raises(UserError, match=UNREADABLE):
            prepared(log, folder)
        assert not folder.exists()
    else:
        assert prepared(log, folder) == plain


def test_a_relative_place_that_looks_like_a_home(
    log: Path, plain: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    prepare(PrepareConfig(input=(log,), output=Path("~x", "out"), threads=1, **OPTIONS[0]))
    assert content(tmp_path / "~x" / "out") == plain[0]


def test_a_relative_place_that_looks_like_a_url(
    log: Path, plain: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert prepared(log, Path("data-2026-11-26T16:40")) == plain


def vocabulary(folder: Path, ids: list[str]) -> Vocabulary:
    folder.mkdir(parents=True, exist_ok=True)
    columns = {"track_id": ids, "row": pa.array(range(len(ids)), pa.int32()), "count": pa.array([7] * len(ids))}
    write_table(pa.table(columns), folder / "vocabulary.parquet")
    return Vocabulary(folder / "vocabulary.parquet", len(ids), "", "")


@settings(max_examples=40, deadline=None)
@given(name=NAMES)
@example("run[1]")
@example("run?1")
@example("*")
@example("track_id=a")
@example("source=1")
@example("count=0")
@example("\udcff")
def test_the_same_match_wherever_the_runs_are(tmp_path_factory, name: str):
    """Beside siblings that its name would match as a pattern."""
    top = tmp_path_factory.mktemp("runs")
    for sibling in {re.sub(r"\[(.).*\]|[*?]", r"\1x", name), "run1", "runx1", "other"} - {name, ""}:
        if "/" not in sibling and sibling not in (".", ".."):
            vocabulary(top / sibling, ["never"])
    shutil.rmtree(top / name, ignore_errors=True)
    old, new = vocabulary(top / name, ["a", "b", "c"]), vocabulary(top / name / "new", ["c", "d", "a"])
    files = [top / name / file for file in ("both.parquet", "matches.parquet")]
    if unreadable(name):
        with pytest.raises(UserError, match=UNREADABLE):
            match(old, new, True, *files)
        return
    assert match(old, new, True, *files) == (4, 1, 2)
    both, matches = (pq.ParquetFile(file).read().to_pylist() for file in files)
    assert [(one["track_id"], one["row"], one["count"]) for one in both] == [
        ("c", 0, 7),
        ("d", 1, 7),
        ("a", 2, 7),
        ("b", 3, 0),
    ]
    assert [(one["row"], one["source"]) for one in matches] == [(0, 2), (2, 0), (3, 1)]
