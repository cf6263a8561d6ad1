"""`prepare --context`: which columns are kept, what their values are, and what is refused."""

import csv
import json
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skipwise.common.errors import UserError
from skipwise.components.__main__ import run
from skipwise.datapipes.manifest import SESSIONS, Manifest
from skipwise.datapipes.prepare import PrepareConfig, prepare
from skipwise.datapipes.session_files import MOST_VALUES, Words, read_contexts

HEAD = "session_id,session_position,track_id_clean,device,n,hist_user_behavior_is_shuffle"
ROWS = [
    "a,1,x,phone,7,True",
    "a,2,y,,8,False",
    'a,3,z,"tv, old",9,False',
    "a,4,w,radio,7,",
    "a,5,w,phone,1,True",
]


def log(folder: Path, *rows: str, head: str = HEAD) -> Path:
    path = folder / "log.csv"
    path.write_text("\n".join([head, *rows, ""]))
    return path


def prepared(folder: Path, path: Path, *columns: str, **options) -> Manifest:
    return prepare(PrepareConfig(input=(path,), output=folder / "data", overwrite=True, context=columns, **options))


def refused(folder: Path, path: Path, *columns: str, **options) -> str:
    with pytest.raises(UserError) as error:
        prepared(folder, path, *columns, **options)
    assert not (folder / "data").exists()
    return str(error.value)


def test_values_are_those_that_training_sees(tmp_path: Path):
    """The last two plays of a session are held out: 'radio' and 1 are read there alone."""
    manifest = prepared(tmp_path, log(tmp_path, *ROWS), "n", "device", "is_shuffle")
    assert manifest.context_columns == ["shuffle", "n", "device"], "MSSD's own, then the others as they are named"
    assert manifest.contexts == {"n": ["7", "8", "9"], "device": ["phone", "tv, old"], "shuffle": ["false", "true"]}
    assert manifest == Manifest.read(tmp_path / "data")
    assert "context columns and their values: shuffle 2, n 3, device 2" in manifest.summary()
    file = tmp_path / "data" / SESSIONS / "part-00000.parquet"
    (session,) = pq.read_table(file).to_pylist()
    assert session["device"] == ["phone", None, "tv, old", "radio", "phone"], "what is held out is kept as it is"
    assert session["n"] == ["7", "8", "9", "7", "1"]
    words = {name: Words.of(values) for name, values in read_contexts(file, 0, ["device", "n", "shuffle"]).items()}
    codes = {name: of.codes(manifest.contexts[name]).tolist() for name, of in words.items()}
    assert codes == {"device": [1, 0, 2, 0, 1], "n": [1, 2, 3, 1, 0], "shuffle": [2, 1, 1, 0, 2]}
    assert manifest.context_checksums["part-00000.parquet"] == {name: [of.checksum] for name, of in words.items()}


def test_context_takes_no_part_in_what_tells_sessions_apart(tmp_path: Path):
    path = log(tmp_path, *ROWS)
    without, with_n, with_both = (prepared(tmp_path, path, *names) for names in ((), ("n",), ("n", "device")))
    assert without.contexts == without.context_checksums == {}
    assert without.data_hash == with_n.data_hash == with_both.data_hash
    assert with_n.context_hash(["n"]) == with_both.context_hash(["n"]) != with_both.context_hash(["n", "device"])
    other = prepared(tmp_path, log(tmp_path, *(row.replace(",8,", ",7,") for row in ROWS)), "n")
    again = prepared(tmp_path, log(tmp_path, *(row.replace("7,True", "9,True") for row in ROWS)), "n")
    assert len({each.context_hash(["n"]) for each in (with_n, other, again)}) == 3


def test_parquet_takes_text_whole_numbers_and_flags(tmp_path: Path):
    names = {"session_id": "s", "track_id_clean": "t"}
    table = {
        name: pa.array([f"{word}{row // 4 if word == 's' else row}" for row in range(8)])
        for name, word in names.items()
    }
    table |= {
        "session_position": list(range(8)),
        "word": pa.array(["a", None, "b", "c"] * 2).dictionary_encode(),
        "number": pa.array([1, None, -3, 4] * 2, pa.int64()),
        "flag": pa.array([True, None, False, True] * 2),
        "real": [0.5] * 8,
    }
    pq.write_table(pa.table(table), tmp_path / "log.parquet")
    manifest = prepared(tmp_path, tmp_path / "log.parquet", "word", "number", "flag")
    assert manifest.contexts == {"word": ["a"], "number": ["1"], "flag": ["true"]}
    session = pq.read_table(tmp_path / "data" / SESSIONS).to_pylist()[0]
    assert session["number"] == ["1", None, "-3", "4"] and session["flag"] == ["true", None, "false", "true"]
    (folder := tmp_path / "other").mkdir()
    sentence = refused(folder, tmp_path / "log.parquet", "word", "real")
    assert "log.parquet, column 'real' holds numbers with fractions (double): expected words" in sentence
    assert "leave it out of --context" in sentence, "which the first call did"


COLUMNS = ("device", "weekday.x", "select")
SPLITS = [
    {},
    {"max_length": 4},
    {"split": "session", "test_share": 0.3, "validation_share": 0.2},
    {"split": "time", "validation_from": "5", "test_from": "7", "time_unit": "s", "order": "seconds"},
]


@pytest.mark.parametrize("options", SPLITS)
@pytest.mark.parametrize("seed", range(3))
def test_every_value_against_duckdb(options: dict, seed: int, tmp_path: Path):
    """Each play's value by session and place, and the distinct ones of the training plays, by SQL over the log."""
    random = np.random.default_rng(seed)
    path, rows = tmp_path / "log.csv", []
    for session in range(60):
        start = int(random.integers(0, 6))
        for place in range(int(random.integers(3, 9))):
            values = [random.choice(list(words)) for words in ("abcdefgh", "0123", ["", "é", "SELECT", "a b"])]
            rows.append([f"s{session}", start + place, start + place, f"t{random.integers(9)}", *values])
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["session_id", "session_position", "seconds", "track_id_clean", *COLUMNS], *rows])
    manifest = prepared(tmp_path, path, *COLUMNS, **options)
    longest = options.get("max_length", 100)
    last = "train" if manifest.split_parts else "part"
    with duckdb.connect() as engine:
        engine.execute(
            f"""CREATE TABLE log AS SELECT *,
                row_number() OVER (PARTITION BY session_id ORDER BY session_position DESC) AS from_end
            FROM read_csv('{path}', all_varchar = true, types = {{'session_position': 'INTEGER'}})"""
        )
        train = [part for part in manifest.parts if part.startswith(last)]
        assert train
        ids = [
            one
            for part in train
            for one in pq.read_table(tmp_path / "data" / SESSIONS / part)["session_id"].to_pylist()
        ]
        for column in COLUMNS:
            expected = dict(
                engine.execute(
                    f"""SELECT session_id, list(nullif("{column}", '') ORDER BY session_position) FROM log
                    WHERE from_end <= {longest} GROUP BY session_id"""
                ).fetchall()
            )
            found = pq.read_table(tmp_path / "data" / SESSIONS)
            assert dict(zip(found["session_id"].to_pylist(), found[column].to_pylist(), strict=True)) == expected
            held_out = 0 if manifest.split_parts else 2
            seen = engine.execute(
                f"""SELECT DISTINCT "{column}" FROM log WHERE from_end > {held_out} AND from_end <= {longest}
                AND "{column}" <> '' AND list_contains(?, session_id) ORDER BY 1""",
                [ids],
            ).fetchall()
            assert manifest.contexts[column] == [value for (value,) in seen]


@pytest.mark.parametrize("value", ["0.5", "5.0", "-1.", ".5e3", "-nan", " 2.5 "])
def test_a_number_with_a_fraction_is_no_category(value: str, tmp_path: Path):
    rows = [*ROWS, f"b,1,x,phone,{value},True", "b,2,y,phone,1,True", "b,3,z,tv,1,True"]
    sentence = refused(tmp_path, log(tmp_path, *rows), "device", "n")
    assert f"log.csv, line 7: n is '{value}': expected a word of at most 1024 bytes, a whole number" in sentence
    assert "or drop its session with --on-error session" in sentence
    manifest = prepared(tmp_path, log(tmp_path, *rows), "device", "n", on_error="session")
    assert manifest.dropped_sessions == {"context is no category": 1}
    assert prepared(tmp_path, log(tmp_path, *rows), "device").counts["sessions"] == 2


def test_words_that_look_like_numbers_are_words(tmp_path: Path):
    rows = [row.replace(",7,", ",1e5,").replace(",8,", ",10.2.1,").replace(",9,", ",infinity,") for row in ROWS]
    assert prepared(tmp_path, log(tmp_path, *rows), "n").contexts["n"] == ["10.2.1", "1e5", "infinity"]


def test_too_many_values(tmp_path: Path):
    rows = [f"s{row // 3},{row % 3},t{row % 5},d{row},{row % MOST_VALUES}," for row in range(3 * (MOST_VALUES + 2))]
    path = log(tmp_path, *rows)
    sentence = refused(tmp_path, path, "n", "device")
    assert "column 'device' has more than 1,000 values" in sentence and "leave it out of --context" in sentence
    assert prepared(tmp_path, path, "n").counts["sessions"] == MOST_VALUES + 2


def test_names_that_cannot_be(tmp_path: Path):
    path = log(tmp_path, *ROWS)
    missing = refused(tmp_path, path, "device", "colour")
    assert "log.csv has no column 'colour' (its columns are session_id" in missing
    assert "name the right one with --context" in missing
    assert "names 'is_shuffle', which is hist_user_behavior_is_shuffle again" in refused(
        tmp_path, path, "hist_user_behavior_is_shuffle", "is_shuffle"
    )
    for names, says in (
        (["n", "n"], "names 'n' twice"),
        (["tracks"], "--context tracks is the name of a column that datasets have"),
        ([f"c{number}" for number in range(33)], "--context names 33 columns: name at most 32"),
    ):
        with pytest.raises(ValueError, match=says):
            PrepareConfig(input=(path,), output=tmp_path / "data", context=tuple(names))
    (other := tmp_path / "logs").mkdir()
    for name, head in (("a.csv", HEAD), ("b.csv", HEAD.replace("is_shuffle", "x"))):
        (other / name).write_text("\n".join([head, *(row.replace("a,", f"{name},", 1) for row in ROWS)]))
    with pytest.raises(UserError, match="keep the context columns that both have with --context"):
        prepare(PrepareConfig(input=(other,), output=tmp_path / "data"))
    assert prepared(tmp_path, other, "device").counts["sessions"] == 2


def test_the_command_line(tmp_path: Path):
    path = str(log(tmp_path, *ROWS))
    for words, columns in (
        ([], ["shuffle"]),
        (["--context"], []),
        (["--context", "device", "n"], ["device", "n"]),
    ):
        run(["prepare", "--input", path, "--output", str(tmp_path / "data"), "--overwrite", *words])
        manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
        assert manifest["context_columns"] == columns
        assert manifest["options"]["context"] == (words[1:] if words else None)


def test_contexts_of_other_columns_are_refused(tmp_path: Path):
    manifest = prepared(tmp_path, log(tmp_path, *ROWS), "n")
    manifest.model_copy(update={"contexts": {"other": []}}).write(tmp_path / "data")
    with pytest.raises(UserError, match="contexts of other columns than context_columns"):
        Manifest.read(tmp_path / "data")
