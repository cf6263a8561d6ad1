"""`prepare` of any log with any options: a dataset directory that is right, or one sentence and nothing left behind.

Hypothesis makes the cases; `SKIPWISE_FUZZ_CASES=20` tries twenty times as many, others each time. What it once found
is tried every time: `FOUND`.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given

from skipwise.common.errors import UserError
from skipwise.components.__main__ import run
from tests.fuzz.dataset import check_sentence
from tests.fuzz.logs import Log, logs, parquet_logs
from tests.fuzz.options import options
from tests.fuzz.prepared import came_of
from tests.fuzz.tally import Tally, cases, patience

TALLY = Tally("prepare")
GOOD = b"session_id,session_position,track_id_clean\na,1,x\na,2,y\na,3,z\n"


@pytest.fixture(scope="module", autouse=True)
def report() -> Iterator[None]:
    yield
    print(f"\n{TALLY}")


@cases(320)
@given(log=logs, words=options)
def test_any_log_with_any_options(log, words):
    TALLY.counts[came_of(log, words)] += 1


@cases(80)
@given(log=parquet_logs(), words=options)
def test_any_parquet_log_with_any_options(log, words):
    TALLY.counts[came_of(log, words)] += 1


FOUND = {
    "a column name of 200 KB": (b"x" * 200_000 + b",session_id\n1,2\n", ".csv", []),
    "a header that opens a quote": (b'session_id,session_position,track_id_clean,"\ns0,1,t,1\ns1,1,t', ".csv", []),
    "a row of four fields that is not UTF-8": (GOOD + b"b,\x8bq,\xff,1\n", ".csv", []),
    "such a row where bad ones are dropped": (GOOD + b"b,\x8bq,\xff,1\n", ".csv", ["--on-error", "skip"]),
    "an output whose name is not UTF-8": (GOOD, ".csv", ["--output", "\udcff"]),
    "a column whose name is not UTF-8": (GOOD, ".csv", ["--order", "\udcff"]),
    "an input with a line break in its name": (GOOD, ".csv", ["--input", "no\nsuch.csv"]),
    "an input whose name is too long for any file": (GOOD, ".csv", ["--input", "x" * 5000 + ".csv"]),
    "an output whose name is too long for any file": (GOOD, ".csv", ["--output", "x" * 5000]),
    "a thousand million threads": (GOOD, ".csv", ["--threads", "1000000000"]),
    "more memory than there are numbers for": (GOOD, ".csv", ["--memory", "inf"]),
    "a rating below which nothing is": (GOOD, ".csv", ["--rating", "session_position", "--skip-below", "nan"]),
    "a length beyond int64": (GOOD, ".csv", ["--max-length", "9" * 30]),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_once(name):
    data, suffix, words = FOUND[name]
    assert came_of(Log("log" + suffix, data), words) == "refused"
    TALLY.counts["refused"] += 1


@pytest.mark.parametrize("place", ["pipe.csv", "."])
def test_a_named_pipe_is_not_waited_for(place, tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    with patience(), pytest.raises(UserError, match="pipe.csv cannot be read") as caught:
        run(["prepare", "--input", str(tmp_path / place), "--output", str(tmp_path / "data")])
    check_sentence(str(caught.value), str(tmp_path))


def test_a_name_in_a_folder_that_is_not_utf8(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.csv")).write_bytes(GOOD)
    with pytest.raises(UserError, match="is not UTF-8: rename it") as caught:
        run(["prepare", "--input", str(tmp_path), "--output", str(tmp_path / "data")])
    check_sentence(str(caught.value), str(tmp_path))
