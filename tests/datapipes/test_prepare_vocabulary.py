"""`--vocabulary`: a later log in the rows of an earlier one, as if it had no other tracks."""

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipwise.common.errors import UserError
from skipwise.datapipes.manifest import Manifest
from skipwise.datapipes.prepare import PrepareConfig, prepare
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.vocabulary import Vocabulary
from skipwise.datapipes.vocabulary_match import match

HEADER = "session_id,at,track_id_clean,strength"
OPTIONS = [
    {},
    {"sort": True},
    {"sort": True, "drop_duplicate_plays": True},
    {"drop_duplicate_sessions": True},
    {"gap": "2s"},
    {"max_length": 3, "drop_longer": 5},
    {"require_skip": True},
    {"sample": 4, "seed": 1},
    {"split": "session", "test_share": 0.3, "validation_share": 0.3},
    {"split": "time", "validation_from": "6", "test_from": "8"},
]
Row = tuple[str, int, str, int]
"""Session, place, track, skip strength."""


def prepared(folder: Path, rows: list[Row], name: str, vocabulary: Path | None = None, **options) -> Path:
    log = folder / f"{name}.csv"
    log.write_text("\n".join([HEADER, *(",".join(map(str, row)) for row in rows), ""]))
    config = {"order": "at", "skip_strength": "strength", "vocabulary": vocabulary, **options}
    prepare(PrepareConfig(input=(log,), output=folder / name, **config))
    return folder / name


def plays(session: str, tracks: str, strength: int = 0) -> list[Row]:
    return [(session, place, track, strength or place % 4) for place, track in enumerate(tracks)]


def content(data: Path) -> dict[str, bytes]:
    return {str(file.relative_to(data)): file.read_bytes() for file in data.rglob("*.parquet")}


def sessions_of(data: Path) -> dict[str, dict[str, list[tuple[str, int]]]]:
    """Tracks and strengths of each session, by file."""
    ids = pq.read_table(data / "vocabulary.parquet")["track_id"].to_pylist()
    return {
        file.name: {
            entry["session_id"]: [(ids[row], skip) for row, skip in zip(entry["tracks"], entry["skips"], strict=True)]
            for entry in pq.read_table(file).to_pylist()
        }
        for file in (data / "sessions").iterdir()
    }


def test_a_later_log_by_hand(tmp_path, capsys):
    old = prepared(tmp_path, plays("o", "abcd"), "old")
    rows = [*plays("p", "axbc"), *plays("q", "xyab"), *plays("r", "xyz"), *plays("s", "dcbaa")]
    new = prepared(tmp_path, rows, "new", old)
    assert sessions_of(new) == {
        "part-00000.parquet": {
            "p": [("a", 0), ("b", 2), ("c", 3)],
            "s": [("d", 0), ("c", 1), ("b", 2), ("a", 3), ("a", 0)],
        }
    }
    manifest = Manifest.read(new)
    assert manifest.counts == {"sessions": 2, "plays": 8, "tracks": 4}
    assert manifest.dropped_rows == {"track not in the vocabulary": 6}
    assert manifest.dropped_sessions == {"shorter than 3": 1, "without a track of the vocabulary": 1}
    assert "6 rows track not in the vocabulary" in capsys.readouterr().err
    assert manifest.vocabulary_hash == Manifest.read(old).vocabulary_hash
    Vocabulary.of(SessionStore(str(new))).check()
    read = {name: pq.read_table(data / "vocabulary.parquet") for name, data in (("old", old), ("new", new))}
    assert read["new"].schema == read["old"].schema
    for column in ("track_id", "row"):
        assert read["new"][column] == read["old"][column]
    counts = dict(zip(*(read["new"][column].to_pylist() for column in ("track_id", "count")), strict=True))
    assert counts == {"a": 3, "b": 2, "c": 2, "d": 1}


def test_a_track_that_the_later_log_lacks_keeps_its_row(tmp_path):
    old = prepared(tmp_path, plays("o", "abcdef"), "old")
    new = prepared(tmp_path, plays("p", "fab"), "new", old)
    vocabulary = pq.read_table(new / "vocabulary.parquet")
    assert vocabulary.drop(["count"]) == pq.read_table(old / "vocabulary.parquet").drop(["count"])
    assert dict(zip(*(vocabulary[name].to_pylist() for name in ("track_id", "count")), strict=True)) == {
        **dict.fromkeys("abf", 1),
        **dict.fromkeys("cde", 0),
    }


logs = st.lists(st.text("abcdefgh", min_size=1, max_size=7), min_size=12, max_size=30)


def staggered(texts: list[str]) -> list[Row]:
    """Places that begin later from session to session, and jump by 1 or 3."""
    return [
        (f"s{number}", number % 5 + place + 2 * (place > 2), track, place % 4)
        for number, text in enumerate(texts)
        for place, track in enumerate(text)
    ]


def prepared_or_none(*arguments, **options) -> Path | None:
    try:
        return prepared(*arguments, **options)
    except UserError as error:
        assert "no session is left" in str(error) or "a part without sessions" in str(error)
        return None


@settings(max_examples=15, deadline=None)
@given(options=st.sampled_from([one for one in OPTIONS if not one.keys() & {"gap", "drop_longer"}]), texts=logs)
def test_a_log_with_its_own_vocabulary_is_the_same_dataset(options, texts, tmp_path_factory):
    """Where what the filters dropped stays dropped without its unknown tracks."""
    folder = tmp_path_factory.mktemp("own")
    if old := prepared_or_none(folder, staggered(texts), "old", **options):
        same = prepared(folder, staggered(texts), "same", old, **options)
        assert content(same) == content(old)
        left_out = {"sources", "dropped_rows", "dropped_sessions"}
        before, after = (Manifest.read(data).model_dump(exclude=left_out) for data in (old, same))
        assert after["options"].pop("vocabulary") == before["vocabulary_hash"]
        assert after == before


@settings(max_examples=25, deadline=None)
@given(options=st.sampled_from(OPTIONS), texts=logs, known=st.sets(st.sampled_from("abcdefgh"), min_size=3))
def test_other_tracks_might_as_well_not_be_in_the_log(options, texts, known, tmp_path_factory):
    folder, rows = tmp_path_factory.mktemp("other"), staggered(texts)
    vocabulary = prepared(folder, plays("o", "".join(sorted(known))), "vocabulary")
    left = [row for row in rows if row[2] in known]
    found = prepared_or_none(folder, rows, "found", vocabulary, **options)
    wanted = prepared_or_none(folder, left, "wanted", vocabulary, **options)
    assert (found is None) == (wanted is None)
    if found and wanted:
        assert content(found) == content(wanted)
        dropped = Counter(Manifest.read(found).dropped_rows) - Counter(Manifest.read(wanted).dropped_rows)
        assert dropped == +Counter({"track not in the vocabulary": len(rows) - len(left)})


def test_a_play_that_is_left_out_does_not_hide_a_gap(tmp_path):
    old = prepared(tmp_path, plays("o", "abcd"), "old")
    rows = [("u", at, track, 0) for at, track in zip((0, 1, 2, 4, 6, 7, 8), "abcxabd", strict=True)]
    new = prepared(tmp_path, rows, "new", old, gap="3s")
    assert {name: len(of) for name, of in sessions_of(new)["part-00000.parquet"].items()} == {"u#1": 3, "u#2": 3}


def test_rows_are_checked_whether_or_not_their_track_is_known(tmp_path):
    old = prepared(tmp_path, plays("o", "abc"), "old")
    rows = [*plays("p", "abc"), ("q", 0, "a", 0), ("q", 2, "b", 0), ("q", 1, "x", 0), ("q", 3, "c", 0)]
    with pytest.raises(UserError, match=r"line 7: at '1' of session 'q' comes after a greater one"):
        prepared(tmp_path, rows, "new", old)
    new = prepared(tmp_path, [*rows, ("p2", 0, "", 0), ("p2", 1, "x", 0)], "new", old, on_error="session")
    assert [*sessions_of(new)["part-00000.parquet"]] == ["p"]
    assert Manifest.read(new).dropped_rows == {}, "rows of dropped sessions are not counted"


def run_directory(folder: Path, old: Path | None, data: Path, older_record: bool = False) -> Path:
    """What `--vocabulary` reads of a run that was trained on `data` and, with `old`, kept the tracks of that."""
    folder.mkdir()
    manifest = Manifest.read(data)
    record = {"schema_version": 2, "counts": manifest.counts, "vocabulary_hash": manifest.vocabulary_hash}
    own = Vocabulary.of(SessionStore(str(data)))
    rows = manifest.counts["tracks"]
    if old:
        before = Vocabulary.of(SessionStore(str(old)))
        rows, kept, _ = match(before, own, True, folder / "vocabulary.parquet", folder / "matches.parquet")
        assert kept == 3
    else:
        (folder / "vocabulary.parquet").write_bytes(own.file.read_bytes())
    if not older_record:
        rows_hash = Vocabulary(folder / "vocabulary.parquet", rows, "", "").digest()
        record |= {"rows": rows, "rows_hash": rows_hash}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize("kept", [True, False])
def test_a_run_stands_for_the_dataset_it_was_trained_on(kept, tmp_path):
    old, data = prepared(tmp_path, plays("o", "abcvwx"), "old"), prepared(tmp_path, plays("n", "abcde"), "data")
    run = run_directory(tmp_path / "run", old if kept else None, data, older_record=not kept)
    new = {
        name: prepared(tmp_path, plays("p", "edcvwx"), name, vocabulary)
        for name, vocabulary in (("by_run", run), ("by_data", data))
    }
    assert content(new["by_run"]) == content(new["by_data"])
    manifest = Manifest.read(new["by_run"])
    assert manifest.vocabulary_hash == Manifest.read(data).vocabulary_hash and manifest.counts["tracks"] == 5
    assert manifest.dropped_rows == {"track not in the vocabulary": 3}, "v, w and x are no tracks of the data"


@pytest.mark.parametrize("name", ["a=b", "track_id=1", "row=7", "it's [*] ?"])
def test_a_vocabulary_in_a_folder_of_any_name(name, tmp_path):
    old = prepared(tmp_path, plays("o", "abcd"), "old")
    (tmp_path / name).mkdir()
    moved = old.rename(tmp_path / name / "old")
    assert sessions_of(prepared(tmp_path, plays("p", "dxab"), "new", moved))["part-00000.parquet"].keys() == {"p"}


def test_what_is_no_vocabulary_is_refused(tmp_path):
    rows = plays("p", "abc")

    def refusal(vocabulary: Path) -> str:
        with pytest.raises(UserError) as stop:
            prepared(tmp_path, rows, "new", vocabulary)
        assert not (tmp_path / "new").exists()
        return str(stop.value)

    for nothing in (tmp_path, tmp_path / "none", Path("x" * 5000)):
        assert "has neither manifest.json nor run.json: name a dataset directory" in refusal(nothing)
    old, other = prepared(tmp_path, rows, "old"), prepared(tmp_path, plays("o", "abd"), "other")
    run = run_directory(tmp_path / "run", None, old)
    assert "dropped: 3 track not in the vocabulary" in refusal(prepared(tmp_path, plays("o", "vwx"), "foreign"))
    for folder, remedy in ((old, "prepare the dataset again"), (run, "train again")):
        file = folder / "vocabulary.parquet"
        whole = file.read_bytes()
        for damaged in (b"", whole[:-9], (other / "vocabulary.parquet").read_bytes()):
            file.write_bytes(damaged)
            said = refusal(folder)
            assert str(file) in said and remedy in said
        file.unlink()
        assert str(file) in refusal(folder)
    for broken in ("{", "[]", "{}", '{"counts": {"sessions": 1, "plays": 3, "tracks": "3"}}'):
        (run / "run.json").write_text(broken)
        assert str(run / "run.json") in refusal(run)
