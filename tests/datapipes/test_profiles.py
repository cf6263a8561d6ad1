"""What a session's listener kept before: what `prepare` writes against the rule in plain Python, and what is read."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skipwise.common.errors import UserError
from skipwise.datapipes.manifest import SPLITS, Manifest
from skipwise.datapipes.prepare import PrepareConfig, prepare
from skipwise.datapipes.prepare.profiles import Profiles
from skipwise.datapipes.session_order import SessionOrder, pad
from skipwise.datapipes.sessions import SessionStore

SIZE = 6


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Path:
    """Plays of 80 users in any order, with skips, unknown ones among them."""
    draw, rows = random.Random(3), []
    for user in range(80):
        time = 1_600_000_000 + draw.randint(0, 10**5)
        for _ in range(draw.randint(3, 60)):
            time += draw.choice([100, 200, 300, 300, 9000])
            rows.append(f"u#{user},t{draw.randint(0, 30)},{time},{draw.choice(['1', '0', '0', ''])}")
    draw.shuffle(rows)
    file = tmp_path_factory.mktemp("log") / "plays.csv"
    file.write_text("\n".join(["user,track,time,skipped", *rows, ""]))
    return file


def config_of(log: Path, output: Path, **options) -> PrepareConfig:
    names = {"session": "user", "track": "track", "order": "time", "skip": "skipped"}
    return PrepareConfig(input=(log,), output=output, gap="30m", profile=SIZE, threads=1, **names, **options)


def entries(data: Path) -> list[dict]:
    """All sessions with their split, by listener and time."""
    found = []
    for file in sorted((data / "sessions").iterdir()):
        found += [entry | {"split": file.name.split("-")[0]} for entry in pq.read_table(file).to_pylist()]
    return sorted(found, key=lambda entry: (listener(entry), int(entry["session_id"].rsplit("#", 1)[1])))


def listener(entry: dict) -> str:
    return entry["session_id"].rsplit("#", 1)[0]


def expected(sessions: list[dict]) -> list[list[int]]:
    """The rule, session by session: kept tracks of the same listener's earlier sessions, of no later split."""
    profiles = []
    for place, session in enumerate(sessions):
        kept = []
        for before in sessions[:place]:
            if listener(before) != listener(session):
                continue
            if session["split"] != "part" and SPLITS.index(before["split"]) > SPLITS.index(session["split"]):
                continue
            plays = list(zip(before["tracks"], before["skips"], strict=True))
            plays = plays[:-2] if session["split"] == "part" else plays
            kept += [track for track, strength in plays if strength in (0, 3)]
        profiles.append(kept[-SIZE:])
    return profiles


@pytest.mark.parametrize(
    "options",
    [
        {"split": "session", "test_share": 0.3, "validation_share": 0.3},
        {"split": "time", "validation_from": "2020-09-14T12:00", "test_from": "2020-09-15", "sample": 400},
        {"split": "last", "max_length": 5, "drop_longer": 20},
    ],
    ids=["session", "time", "last"],
)
def test_profiles_are_what_the_listener_kept_before_and_nothing_held_out(log, tmp_path, options):
    manifest = prepare(config_of(log, tmp_path / "data", **options))
    sessions = entries(tmp_path / "data")
    assert [session["profile"] for session in sessions] == expected(sessions)
    assert max(len(session["profile"]) for session in sessions) == SIZE
    assert manifest == Manifest.read(tmp_path / "data") and manifest.profile == SIZE
    if options["split"] == "time":  # what is earlier is of no later split
        splits = [[SPLITS.index(one["split"]) for one in sessions if listener(one) == name] for name in ("u#1", "u#2")]
        assert splits == [sorted(of) for of in splits]


def test_sessions_may_come_in_any_pieces(log, tmp_path):
    prepare(config_of(log, tmp_path / "data"))
    (file,) = (tmp_path / "data" / "sessions").iterdir()
    table = pq.read_table(file)
    bare, split_S = table.drop_columns(["profile"]), np.zeros(len(table), dtype=np.uint8)
    for step in (1, 7, len(table)):
        profiles = Profiles(SIZE, 1)
        pieces = [
            profiles.added(bare.slice(first, step), split_S[first : first + step])
            for first in range(0, len(table), step)
        ]
        assert [row for piece in pieces for row in piece["profile"].to_pylist()] == table["profile"].to_pylist()


def test_what_is_read_begins_with_the_last_track(log, tmp_path):
    prepare(config_of(log, tmp_path / "data", split="session"))
    store = SessionStore(str(tmp_path / "data"))
    assert pad([SessionOrder(store, 3, 1, 2, 9).take(0, 9)], 9).profile_BK is None
    for split in SPLITS:
        part = store.profiling(4).part(split)
        block = pad([SessionOrder(part, 3, 1, 2, 9).take(0, len(part))], len(part) + 1)
        sessions = [
            entry
            for file in sorted((tmp_path / "data" / "sessions").iterdir())
            for entry in pq.read_table(file).to_pylist()
        ]
        for number, profile_K in zip(block.number_B[:-1], block.profile_BK, strict=False):
            wanted = sessions[number]["profile"][::-1][:4]
            assert profile_K.tolist() == wanted + [-1] * (4 - len(wanted))
        assert block.profile_BK[-1].tolist() == [-1] * 4


def test_tracks_that_are_left_out_leave_no_holes(log, tmp_path):
    prepare(config_of(log, tmp_path / "data"))
    store = SessionStore(str(tmp_path / "data")).profiling(SIZE)
    whole = store.read(np.array([0])).profiles
    odd_N = np.arange(store.num_tracks) % 2 == 1
    for other, change in (
        (store.without(odd_N, 0), lambda row: row),
        (store.mapped(np.where(odd_N, -1, np.arange(store.num_tracks) // 2), store.num_tracks), lambda row: row // 2),
    ):
        for before_K, profile_K in zip(whole, other.read(np.array([0])).profiles, strict=True):
            wanted = [change(row) for row in before_K.tolist() if row >= 0 and row % 2 == 0]
            assert profile_K.tolist() == wanted + [-1] * (SIZE - len(wanted))


def test_damaged_profiles_are_found(log, tmp_path):
    prepare(config_of(log, tmp_path / "data"))
    (file,) = (tmp_path / "data" / "sessions").iterdir()
    table = pq.read_table(file)
    profiles = table["profile"].to_pylist()
    profiles[3] = [*profiles[3][:-1], (profiles[3][-1] + 1) % 20] if profiles[3] else [0]
    pq.write_table(
        table.set_column(table.column_names.index("profile"), "profile", pa.array(profiles, pa.list_(pa.int32()))), file
    )
    store = SessionStore(str(tmp_path / "data"))
    store.read(np.array([0]))
    with pytest.raises(UserError, match="row group 0: its profiles are not what prepare wrote, by their checksum"):
        store.profiling(1).read(np.array([0]))


def test_profiles_need_listeners_and_are_not_asked_for_in_vain(log, tmp_path):
    with pytest.raises(ValueError, match="--profile needs to know which sessions are of one listener"):
        replace(config_of(log, tmp_path / "data"), gap=None, sort=True)
    with pytest.raises(ValueError, match="--profile must be from 0 to 1000, not -1"):
        replace(config_of(log, tmp_path / "data"), profile=-1)
    prepare(replace(config_of(log, tmp_path / "data"), profile=0))
    with pytest.raises(UserError, match=r"no profiles of listeners: prepare the log again with --profile 5"):
        SessionStore(str(tmp_path / "data")).profiling(5)
    prepare(config_of(log, tmp_path / "more"))
    with pytest.raises(UserError, match=r"has profiles of up to 6 tracks: .* --profile 7, or set --data.profile 6"):
        SessionStore(str(tmp_path / "more")).profiling(7)
