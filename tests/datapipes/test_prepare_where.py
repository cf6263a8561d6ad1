"""`--where`: which rows are read, and that a condition does nothing else."""

import datetime
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skipwise.common.errors import UserError
from skipwise.datapipes.manifest import Manifest
from skipwise.datapipes.prepare import PrepareConfig, prepare
from skipwise.datapipes.prepare.row_condition import condition_of

ROWS = {
    "session_id": ["s"] * 8,
    "session_position": list(range(8)),
    "track_id_clean": list("abcdefgh"),
    "ms": [90_000, 3_000_000_000, 30_001, 500, None, 40_000, 30_000, 100_000],
    "share": [0.5, 1.0, 0.25, 0.0, None, 1.0, 0.75, 0.125],
    "offline": [True, False, False, True, None, False, False, True],
    "c d": ["SE", "DE", "None", "SE", None, "it's", "SE", "SE"],
    "where": ["1", "x", "3", "4", "5", "6", "7", "8"],
    "moment": [datetime.datetime(2020 + year, 1, 2, 3) for year in range(8)],
}


def tracks(tmp_path: Path, where: str, suffix: str, rows: dict[str, list] = ROWS, **options) -> str:
    log = tmp_path / f"log.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table(rows), log)
    elif suffix == "jsonl":
        plays = (dict(zip(rows, of, strict=True)) for of in zip(*rows.values(), strict=True))
        log.write_text("".join(json.dumps(play, default=str) + "\n" for play in plays))
    else:
        lines = [[f'"{name}"' for name in rows], *zip(*rows.values(), strict=True)]
        quoted = [
            [f'"{value}"' if value == "None" else "" if value is None else str(value) for value in of] for of in lines
        ]
        log.write_text("\n".join(map(",".join, quoted)))
    prepare(PrepareConfig(input=(log,), output=tmp_path / "data", overwrite=True, where=where, **options))
    names = pq.read_table(tmp_path / "data" / "vocabulary.parquet")["track_id"].to_pylist()
    (found,) = pq.read_table(tmp_path / "data" / "sessions")["tracks"].to_pylist()
    return "".join(names[row] for row in found)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("ms > 30000", "abcfh"),
        ("ms >= 3e4 AND offline", "ah"),
        ("NOT offline", "bcfg"),
        ("share * ms < 20000 OR ms IS NULL", "cdeh"),
        ("share BETWEEN 0.25 AND 0.75 -- a remark", "acg"),
        ("\"c d\" IN ('SE', 'it''s')", "adfgh"),
        ("\"c d\" = 'None' OR \"c d\" LIKE '%E'", "abcdgh"),
        ("\"c d\" IS NULL OR upper(track_id_clean) < 'C'", "abe"),
        ("\"where\" <> 'x' AND session_position < 4", "acd"),
        ("year(moment::TIMESTAMP) >= 2025", "fgh"),
        ("moment > '2024-06-01'", "fgh"),
        ("true", "abcdefgh"),
    ],
)
def test_rows_are_those_that_meet_the_condition(where, expected, suffix, tmp_path):
    while len(expected) < 3:  # a session has 3 plays at least
        where, expected = f"({where}) OR track_id_clean IN ('a', 'b', 'h')", "abh"
    assert tracks(tmp_path, where, suffix) == expected
    manifest = Manifest.read(tmp_path / "data")
    left_out = 8 - len(expected)
    assert manifest.dropped_rows == ({"that --where leaves out": left_out} if left_out else {})
    assert manifest.options["where"] == where


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("ms >", "syntax error"),
        ("at > 1", "the name of a column that is a word of SQL stands in double quotes"),
        ("ms > 1; DROP TABLE tracks", "syntax error"),
        ("ms > 1); DROP TABLE tracks; --", "syntax error"),
        ("ms IN (SELECT 1 FROM read_csv('/etc/passwd'))", "a query of its own"),
        ("EXISTS (FROM '/etc/passwd')", "a query of its own"),
        ("true) UNION SELECT (1", "more than a condition"),
        ("true) GROUP BY (ms", "more than a condition"),
        ("true) LIMIT (1", "more than a condition"),
        ("sum(ms) > 1", "aggregates"),
        ("row_number() OVER () > 1", "window"),
        ("COLUMNS(*) > 1", "all columns at once"),
        ("ms = $1", "a parameter"),
        ("tempo > 1", "has no column 'tempo', it has session_id"),
        ("no_such_function(ms) > 1", "no_such_function"),
        ('"c d" > 1', "explicit cast"),
        ("error(track_id_clean)", "a"),
    ],
)
def test_a_condition_that_is_none_is_one_sentence(where, says, tmp_path):
    with pytest.raises(UserError, match=says) as caught:
        tracks(tmp_path, where, "csv")
    sentence = str(caught.value)
    assert sentence.startswith(f"--where {where}") and "\n" not in sentence and "where_1" not in sentence
    assert "expected a condition such as" in sentence
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_rows_that_are_left_out_are_not_checked_and_a_column_may_have_two_meanings(tmp_path):
    rows = ROWS | {"track_id_clean": [*"abc", None, *"efgh"], "c d": [*["yes"] * 3, "no", *["yes"] * 4]}
    with pytest.raises(UserError, match="track_id_clean is empty"):
        tracks(tmp_path, "true", "csv", rows)
    assert tracks(tmp_path, "track_id_clean IS NOT NULL", "csv", rows) == "abcefgh"
    assert tracks(tmp_path, "\"c d\" = 'yes'", "csv", rows, context=("c d",), skip="c d") == "abcefgh"
    assert Manifest.read(tmp_path / "data").contexts == {"c d": ["yes"]}


def test_nothing_left_says_why(tmp_path):
    with pytest.raises(UserError, match="no session is left .dropped: 8 that --where leaves out"):
        tracks(tmp_path, "ms < 0", "csv")


def test_names_with_dots_are_columns_inside_others():
    found = condition_of("user.country = 'SE' AND \"a b\".c > 1 AND user.country <> ''")
    assert found.columns == {"where_1": "user.country", "where_2": "a b.c"}
    assert "where_1" in found.sql and "country" not in found.sql


def test_an_empty_condition_is_refused():
    with pytest.raises(ValueError, match="--where is empty"):
        PrepareConfig(input=(Path("log.csv"),), output=Path("data"), where=" ")


def plays(tmp_path: Path, where: str, *files: list[str], **options) -> list[list[str]]:
    """The tracks of the sessions of text files whose rows differ in column z alone, named t0, t1, ... over all."""
    count = 0
    for number, values in enumerate(files):
        lines = [f"{'ab'[number]},{place},t{count + place},{value}" for place, value in enumerate(values)]
        count += len(values)
        text = "\n".join(["session_id,session_position,track_id_clean,z", *lines, ""])
        (tmp_path / f"{number}.csv").write_text(text)
    logs = tuple(tmp_path / f"{number}.csv" for number in range(len(files)))
    config = PrepareConfig(input=logs, output=tmp_path / "data", overwrite=True, where=where, **options)
    prepare(config)
    names = pq.read_table(tmp_path / "data" / "vocabulary.parquet")["track_id"].to_pylist()
    found = pq.read_table(tmp_path / "data" / "sessions")["tracks"].to_pylist()
    return sorted([names[row] for row in of] for of in found)


def test_a_later_value_of_another_kind_is_a_bad_row(tmp_path):
    files = (["0", "1", "0"], ["1", "tv", "1", "1.0"])
    with pytest.raises(UserError, match="1.csv, line 3: z is 'tv', for --where: expected the kind") as caught:
        plays(tmp_path, "z <> 5", *files)
    assert "--on-error skip" in str(caught.value) and "z::VARCHAR = '7'" in str(caught.value)
    assert plays(tmp_path, "z <> 5", *files, on_error="skip") == [["t0", "t1", "t2"], ["t3", "t5", "t6"]]
    assert Manifest.read(tmp_path / "data").dropped_rows == {"not as --where reads its column": 1}
    assert plays(tmp_path, "z <> 5", *files, on_error="session") == [["t0", "t1", "t2"]]
    everything = [["t0", "t1", "t2"], ["t3", "t4", "t5", "t6"]]
    assert plays(tmp_path, "z::VARCHAR <> '5'", *files) == everything
    assert plays(tmp_path, "coalesce(try_cast(z AS DOUBLE), 3) <> 5", *files) == everything
    with pytest.raises(UserError, match="z is '007'"):
        plays(tmp_path, "z = 7", ["7", "8", "9"], ["7", "007", "7"])


@pytest.mark.parametrize(
    ("where", "values", "expected"),
    [
        ("z = '007'", ["007", "7", "007", "007", "8"], "023"),
        ("z = '+7'", ["+7", "7", "+7", "+7"], "023"),
        ("z = ' 7'", [" 7", "7", " 7", " 7"], "023"),
        ("z = '01.5'", ["01.5", "1.5", "01.5", "01.5"], "023"),
        ("z >= 0.5", ["0.5", "-1.5e3", ".5", "1e+20", "-0"], "023"),
        (
            "z > 9007199254740992000",
            ["9007199254740992001", "9007199254740992000"] + ["9007199254740992001"] * 2,
            "023",
        ),
        ("z > 18446744073709551616", ["18446744073709551617", "18446744073709551616"] * 2, "02"),
        ("z > -1", ["0", "-1", "7", "8"], "023"),
        ("z IS NULL", ["", "x", "", ""], "023"),
        ("z <> ''", ["a", "", "b", "c"], "023"),
    ],
)
def test_what_is_a_number(where, values, expected, tmp_path):
    if len(expected) < 3:
        where, expected = f"{where} OR track_id_clean = 't1'", "012"
    assert plays(tmp_path, where, values) == [[f"t{place}" for place in expected]]


@pytest.mark.parametrize("where", ["z = ''", "'' = z", "z IN ('a', '')"])
def test_an_empty_field_is_missing(where, tmp_path):
    with pytest.raises(UserError, match="z IS NULL"):
        plays(tmp_path, where, ["", "", ""])


def test_decimals_of_parquet_are_exact(tmp_path):
    values = [f"123456789012345678.{last:02}" for last in (1, 2, 2, 2, 1, 2, 1, 2)]
    rows = ROWS | {"d": pa.array(values).cast(pa.decimal128(20, 2))}
    assert tracks(tmp_path, "d > 123456789012345678.01", "parquet", rows) == "bcdfh"


def test_lines_that_are_not_json_are_not_left_out_in_silence(tmp_path):
    log = tmp_path / "log.jsonl"
    play = '{"session_id": "s", "session_position": %d, "track_id_clean": "t", "z": 1}\n'
    log.write_text("".join(play % place for place in range(4)) + "x\n")
    with pytest.raises(UserError, match="line 5 is not JSON"):
        prepare(PrepareConfig(input=(log,), output=tmp_path / "data", where="z = 1"))


def test_a_text_that_a_condition_takes_for_a_number_is_named_with_its_column(tmp_path):
    with pytest.raises(UserError, match="'tv' to INT32 when casting from source column z\\)") as caught:
        plays(tmp_path, "z = 5", ["1", "tv", "1"])
    assert "where_1" not in str(caught.value) and "incoming" not in str(caught.value)
