"""A small log worked by hand, and what the dataset directory promises."""

import gzip
import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from skipwise.common.errors import UserError
from skipwise.datapipes.manifest import Manifest
from skipwise.datapipes.prepare import PrepareConfig, prepare

LOG = """session_id,session_position,track_id_clean,skip_1,skip_2,skip_3,not_skipped,hour_of_day,premium,context_type
x,1,red,false,false,false,true,23,True,radio
x,2,blue,true,true,true,false,23,True,radio
y,1,red,0,1,1,0,5,False,catalog
x,3,red,false,false,true,false,0,True,charts
y,2,green,0,0,0,1,,False,
y,3,blue,0,0,0,1,6,False,catalog
y,5,green,0,0,0,0,6,False,catalog
z,1,only here,0,0,0,1,6,False,catalog
"""


def written(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.csv"
    path.write_text(LOG)
    return path


def test_the_small_log_by_hand(log, tmp_path):
    manifest = prepare(PrepareConfig(input=(log,), output=tmp_path / "data"))

    vocabulary = pq.read_table(tmp_path / "data" / "vocabulary.parquet")
    tracks = sorted(["red", "blue", "green"], key=lambda track: (md5(track), track))
    played = {"red": 3, "blue": 2, "green": 2}
    assert vocabulary.schema == pa.schema({"track_id": pa.string(), "row": pa.int32(), "count": pa.int64()})
    assert vocabulary.to_pylist() == [
        {"track_id": track, "row": row, "count": played[track]} for row, track in enumerate(tracks)
    ]

    row = {track: number for number, track in enumerate(tracks)}
    sessions = pq.read_table(tmp_path / "data" / "sessions")
    assert {session["session_id"]: session for session in sessions.to_pylist()} == {
        "x": {
            "session_id": "x",
            "tracks": [row["red"], row["blue"], row["red"]],
            "skips": [0, 1, 3],
            "context_type": ["radio", "radio", "charts"],
            "hour_of_day": [23, 23, 0],
            "premium": [True, True, True],
        },
        "y": {
            "session_id": "y",
            "tracks": [row["red"], row["green"], row["blue"], row["green"]],
            "skips": [2, 0, 0, 0],
            "context_type": ["catalog", None, "catalog", "catalog"],
            "hour_of_day": [5, None, 6, 6],
            "premium": [False, False, False, False],
        },
    }
    assert sessions.schema.field("tracks").type.value_type == pa.int32()
    assert sessions.schema.field("skips").type.value_type == pa.int8()
    assert sessions.schema.field("hour_of_day").type.value_type == pa.int8()

    assert manifest == Manifest.read(tmp_path / "data")
    assert manifest.counts == {"sessions": 2, "plays": 7, "tracks": 3}
    assert manifest.session_lengths == {"min": 3, "max": 4}
    assert manifest.skip_share == pytest.approx(2 / 7, abs=1e-6)
    assert manifest.context_columns == ["context_type", "hour_of_day", "premium"]
    assert manifest.parts == {"part-00000.parquet": 2}
    assert manifest.sources == [{"file": "log.csv", "bytes": len(LOG)}]
    assert manifest.dropped_sessions == {"shorter than 3": 1}
    assert manifest.vocabulary_hash == hashlib.sha256("".join(track + "\n" for track in tracks).encode()).hexdigest()


def test_the_same_input_gives_the_same_bytes(log, tmp_path):
    prepare(PrepareConfig(input=(log,), output=tmp_path / "one"))
    prepare(PrepareConfig(input=(tmp_path / "log.csv",), output=tmp_path / "two", threads=1, memory=0.5))
    assert written(tmp_path / "one") == written(tmp_path / "two")


def test_all_formats_give_the_same_sessions(log, tmp_path):
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(LOG.encode()))
    (tmp_path / "log.tsv").write_text(LOG.replace(",", "\t"))
    (tmp_path / "windows.csv").write_bytes(b"\xef\xbb\xbf" + LOG.replace("\n", "\r\n").encode())
    table = pyarrow.csv.read_csv(log, convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True))
    pq.write_table(table, tmp_path / "log.parquet")
    prepare(PrepareConfig(input=(log,), output=tmp_path / "expected"))
    expected = written(tmp_path / "expected")
    for name in ("log.csv.gz", "log.tsv", "windows.csv", "log.parquet"):
        prepare(PrepareConfig(input=(tmp_path / name,), output=tmp_path / f"{name}-data"))
        found = written(tmp_path / f"{name}-data")
        assert found.keys() == expected.keys()
        assert all(found[file] == expected[file] for file in found if file != "manifest.json"), name


def test_columns_may_carry_the_prefix_of_mssd(tmp_path):
    names = "session_id,session_position,track_id_clean,hist_user_behavior_is_shuffle,hist_user_behavior_reason_end"
    (tmp_path / "log.csv").write_text(f"{names}\na,1,t,True,trackdone\na,2,u,False,fwdbtn\na,3,v,False,endplay\n")
    prepare(PrepareConfig(input=(tmp_path / "log.csv",), output=tmp_path / "data"))
    (session,) = pq.read_table(tmp_path / "data" / "sessions").to_pylist()
    assert session["shuffle"] == [True, False, False]
    assert session["reason_end"] == ["trackdone", "fwdbtn", "endplay"]


def test_context_can_be_left_out(log, tmp_path):
    prepare(PrepareConfig(input=(log,), output=tmp_path / "data", context=()))
    assert pq.read_table(tmp_path / "data" / "sessions").column_names == ["session_id", "tracks", "skips"]


def test_ids_are_kept_as_written(tmp_path):
    rows = ['s,1," padded "', "s,2,007", 's,3,"a, ""b"""', "s,4,naïve♪"]
    (tmp_path / "log.csv").write_text("\n".join(["session_id,session_position,track_id_clean", *rows]))
    prepare(PrepareConfig(input=(tmp_path / "log.csv",), output=tmp_path / "data"))
    tracks = pq.read_table(tmp_path / "data" / "vocabulary.parquet")["track_id"].to_pylist()
    assert set(tracks) == {" padded ", "007", 'a, "b"', "naïve♪"}


def test_row_groups_hold_4096_sessions_in_the_order_of_a_hash(tmp_path):
    rows = [f"{session},{play},{play}" for session in range(9000) for play in range(3)]
    (tmp_path / "log.csv").write_text("\n".join(["session_id,session_position,track_id_clean", *rows]))
    prepare(PrepareConfig(input=(tmp_path / "log.csv",), output=tmp_path / "data"))
    file = pq.ParquetFile(tmp_path / "data" / "sessions" / "part-00000.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(3)] == [4096, 4096, 808]
    ids = file.read()["session_id"].to_pylist()
    assert ids == sorted(map(str, range(9000)), key=lambda id: int.from_bytes(bytes.fromhex(md5(id))[:8], "little"))


def test_an_output_that_exists_is_refused_and_replaced_only_on_demand(log, tmp_path):
    data = tmp_path / "data"
    prepare(PrepareConfig(input=(log,), output=data))
    before = written(data)
    with pytest.raises(UserError, match="exists: choose another --output, or replace it with --overwrite"):
        prepare(PrepareConfig(input=(log,), output=data, min_length=4))
    assert written(data) == before
    prepare(PrepareConfig(input=(log,), output=data, min_length=4, overwrite=True))
    assert Manifest.read(data).counts["sessions"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "log.csv"]


def test_overwrite_replaces_nothing_but_a_dataset(log, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letters.txt").write_text("dear")
    with pytest.raises(UserError, match="is not what this command writes"):
        prepare(PrepareConfig(input=(log,), output=tmp_path / "home", overwrite=True))
    assert (tmp_path / "home" / "letters.txt").read_text() == "dear"


def test_a_path_may_hold_any_characters(tmp_path):
    folder = tmp_path / "it's [new]*"
    folder.mkdir()
    (folder / "what?.csv").write_text(LOG)
    prepare(PrepareConfig(input=(folder,), output=folder / "data"))
    assert Manifest.read(folder / "data").counts["sessions"] == 2
