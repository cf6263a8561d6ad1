"""The unit of loss is the row: what is left out of a log with bad rows, and which values mean none."""

import itertools
from collections import Counter, defaultdict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipwise.common.errors import UserError
from skipwise.datapipes.manifest import Manifest
from skipwise.datapipes.prepare import PrepareConfig, prepare
from skipwise.datapipes.prepare.bad_rows import begins, leave_out
from skipwise.datapipes.prepare.places import BAD_PLACE
from skipwise.datapipes.prepare.row_checks import NO_ORDER, NO_TRACK, REASONS, policies

OTHER = NO_TRACK + 1
"""The code of some other fault."""


def sessions(folder: Path) -> dict[str, list[str]]:
    names = pq.read_table(folder / "vocabulary.parquet")["track_id"].to_pylist()
    table = pq.read_table(folder / "sessions").to_pylist()
    return {one["session_id"]: [names[row] for row in one["tracks"]] for one in table}


def listener(tmp_path: Path, **options) -> tuple[Manifest, dict[str, list[str]]]:
    """One listener's log, with a podcast in the first of three listenings and one between the second and the third."""
    plays = [("a", 0), ("b", 60), ("", 120), ("c", 180), ("d", 240), ("e", 300)]
    plays += [("f", 9000), ("g", 9060), ("h", 9120), ("", 20000), ("i", 30000), ("j", 30060), ("k", 30120)]
    log = tmp_path / "log.csv"
    log.write_text("\n".join(["user,at,track", *(f"me,{at},{track}" for track, at in plays), ""]))
    names = {"session": "user", "track": "track", "order": "at", "gap": "30m"}
    manifest = prepare(PrepareConfig(input=(log,), output=tmp_path / "data", overwrite=True, **names, **options))
    return manifest, sessions(tmp_path / "data")


def test_a_podcast_costs_what_the_policy_says(tmp_path):
    whole = {"me#2": ["f", "g", "h"], "me#3": ["i", "j", "k"]}
    manifest, found = listener(tmp_path, on_error="skip")
    assert found == {"me#1": ["a", "b", "c", "d", "e"], **whole}
    assert (manifest.dropped_rows, manifest.dropped_sessions) == ({"no track id": 2}, {})
    assert manifest.options["on_error"] == "skip"

    manifest, found = listener(tmp_path, on_missing_track="session")
    assert found == {"me#1": ["f", "g", "h"], "me#2": ["i", "j", "k"]}
    assert (manifest.dropped_rows, manifest.dropped_sessions) == ({}, {"no track id": 2})

    manifest, found = listener(tmp_path, on_missing_track="cut", on_error="session")
    assert found == {"me#2": ["c", "d", "e"], "me#3": ["f", "g", "h"], "me#4": ["i", "j", "k"]}
    assert manifest.dropped_rows == {"no track id, session cut": 2}
    assert manifest.dropped_sessions == {"shorter than 3": 1}


rows = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 12), st.sampled_from([0, 0, 0, NO_TRACK, OTHER, NO_ORDER])), min_size=1
)
policy = st.sampled_from(["skip", "cut", "session"])


@given(rows, policy, policy, st.sampled_from([None, Fraction(3)]))
def test_leaving_out_is_a_plain_reading(plays, on_error, on_missing_track, gap):
    config = PrepareConfig(
        input=(Path("log"),), output=Path("data"), on_error=on_error, on_missing_track=on_missing_track
    )
    # As the engine sorts: rows without a place come last.
    plays = sorted(plays, key=lambda play: (play[0], play[2] == NO_ORDER, play[1]))
    expected, dropped, out = {}, Counter(), Counter()
    by_session = defaultdict(list)
    for row, (session, place, fault) in enumerate(plays):
        by_session[session].append((row, place, fault))
    policy_of = {NO_TRACK: on_missing_track, OTHER: on_error, NO_ORDER: on_error}
    for session, of in by_session.items():
        pieces, last = [], None
        for row, place, fault in of:
            unplaced = fault == NO_ORDER
            cut = policy_of.get(fault) == "cut" and not unplaced
            if not pieces or cut or (gap and not unplaced and place - last > gap):
                pieces.append([])
            last = last if unplaced else place
            pieces[-1].append((row, fault))
        lost = [fault for _, _, fault in of if fault == NO_ORDER and policy_of[fault] == "session"]
        for piece in pieces:
            codes = [fault for _, fault in piece if policy_of.get(fault) == "session"] + lost
            if codes:
                dropped[REASONS[min(codes)]] += 1
                continue
            for _, fault in piece:
                if fault:
                    cut = policy_of[fault] == "cut" and fault != NO_ORDER
                    out[REASONS[fault] + ", session cut" * cut] += 1
            expected.setdefault(session, []).append([row for row, fault in piece if not fault])
    session, place, faults = (np.array(column) for column in zip(*plays, strict=True))
    places = np.where(faults == NO_ORDER, BAD_PLACE, place)
    block = pa.table({"session": session, "place": places, "row": np.arange(len(plays))})
    found_dropped, found_out = Counter(), Counter()
    left = leave_out(block, faults.astype(np.uint8), policies(config), gap, found_dropped, found_out)
    assert (found_dropped, found_out) == (dropped, out)
    kept = [row for pieces in expected.values() for piece in pieces for row in piece]
    assert left["row"].to_pylist() == kept
    starts = {row for row, new in zip(left["row"].to_pylist(), begins(left, None), strict=True) if new}
    firsts = {piece[0] for pieces in expected.values() for piece in pieces if piece}
    assert starts <= firsts or gap is not None
    if on_error != "session" != on_missing_track and gap is None:
        assert starts == firsts


def test_an_order_that_falls_back_costs_the_rows_behind_the_greatest(tmp_path):
    log = tmp_path / "log.csv"
    places = [1, 2, 9, 3, 4, 10, 10, 11, 12]
    log.write_text("session_id,session_position,track_id_clean\n" + "".join(f"s,{at},t{at}\n" for at in places))
    config = {"input": (log,), "output": tmp_path / "data", "overwrite": True}
    manifest = prepare(PrepareConfig(**config, on_error="skip"))
    assert sessions(tmp_path / "data") == {"s": ["t1", "t2", "t9", "t10", "t11", "t12"]}
    assert manifest.dropped_rows == {"positions out of order": 2, "position twice in a session": 1}
    manifest = prepare(PrepareConfig(**config, on_error="cut"))
    assert sessions(tmp_path / "data") == {"s#1": ["t1", "t2", "t9"]}


@pytest.mark.parametrize(
    ("value", "null", "track"),
    [
        ("None", None, None),
        ("NaN", None, None),
        (r"\N", None, None),
        ('"None"', None, "None"),
        ('"NaN"', None, "NaN"),
        ("None", ("",), "None"),
        ("null", ("NA", "None"), "null"),
        ("NA", ("NA", "None"), None),
        ("NA", None, "NA"),
        ('""', None, None),
        ("  ", ("NA",), None),
    ],
)
def test_a_name_is_a_name_where_it_is_quoted_or_null_says_so(value, null, track, tmp_path):
    log = tmp_path / "log.csv"
    log.write_text(f"session_id,session_position,track_id_clean\ns,1,a\ns,2,b\ns,3,{value}\ns,4,c\n")
    config = PrepareConfig(input=(log,), output=tmp_path / "data", null=null, on_missing_track="skip")
    manifest = prepare(config)
    assert sessions(tmp_path / "data") == {"s": ["a", "b", *([track] if track else []), "c"]}
    assert manifest.dropped_rows == ({} if track else {"no track id": 1})


def test_an_unquoted_name_that_may_mean_nothing_is_told_how_to_be_one(tmp_path):
    log = tmp_path / "log.tsv"
    log.write_text("session_id\tsession_position\ttrack_id_clean\ns\t1\ta\ns\t2\tNone\ns\t3\tc\n")
    with pytest.raises(UserError, match="line 3: .* is 'None': .* --on-missing-track skip; if .* --null '' says"):
        prepare(PrepareConfig(input=(log,), output=tmp_path / "data"))
    prepare(PrepareConfig(input=(log,), output=tmp_path / "data", null=("",)))
    assert sessions(tmp_path / "data") == {"s": ["a", "None", "c"]}


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_in_parquet_null_and_nan_are_missing_and_words_are_names(missing, tmp_path):
    tracks = [1.0, missing, 3.0, 4.0] if missing else ["None", missing, "nan", "null"]
    table = {"session_id": ["s"] * 4, "session_position": [1, 2, 3, 4], "track_id_clean": tracks}
    pq.write_table(pa.table(table), tmp_path / "log.parquet")
    with pytest.raises(UserError, match="row 2: track_id_clean is empty"):
        prepare(PrepareConfig(input=(tmp_path / "log.parquet",), output=tmp_path / "data"))
    prepare(PrepareConfig(input=(tmp_path / "log.parquet",), output=tmp_path / "data", on_error="skip"))
    assert sessions(tmp_path / "data") == {"s": ["1", "3", "4"] if missing else ["None", "nan", "null"]}


FLAGS = ("true false", "True False", "TRUE FALSE", "1 0", "1.0 0.0", "t f", "T F", "yes no", "Yes No", "y n", "Y N")


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_flags_are_read_as_people_write_them(suffix, tmp_path):
    words = list(itertools.chain.from_iterable(pair.split() for pair in FLAGS))
    columns = {
        "session_id": ["s"] * len(words),
        "session_position": range(len(words)),
        "track_id_clean": list("abcdefghijklmnopqrstuvwxyz")[: len(words)],
        "skipped": words,
    }
    log, comma = tmp_path / f"log.{suffix}", "," if suffix == "csv" else "\t"
    if suffix == "parquet":
        pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), log)
    else:
        log.write_text("\n".join(comma.join(map(str, row)) for row in [columns, *zip(*columns.values(), strict=True)]))
    prepare(PrepareConfig(input=(log,), output=tmp_path / "data", skip="skipped"))
    assert pq.read_table(tmp_path / "data" / "sessions")["skips"].to_pylist() == [[2, 0] * len(FLAGS)]


@pytest.mark.parametrize("values", [[True, False, True], [1, 0, 1], [1.0, 0.0, 1.0]])
def test_flags_of_every_type_of_parquet(values, tmp_path):
    table = {"session_id": ["s"] * 3, "session_position": [1, 2, 3], "track_id_clean": ["a", "b", "c"], "v": values}
    pq.write_table(pa.table(table), tmp_path / "log.parquet")
    prepare(PrepareConfig(input=(tmp_path / "log.parquet",), output=tmp_path / "data", skip="v"))
    assert pq.read_table(tmp_path / "data" / "sessions")["skips"].to_pylist() == [[2, 0, 2]]
