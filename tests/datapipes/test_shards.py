"""A dataset directory has the same bytes, whoever prepares it: one process, shards of any number, or a cluster."""

import csv
import random
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipwise.common.errors import UserError
from skipwise.common.mirrors import local
from skipwise.common.stores import Place
from skipwise.datapipes.prepare import PrepareConfig, prepare, prepare_shard
from skipwise.datapipes.prepare.group_shard import files_of
from skipwise.datapipes.prepare.shard_steps import shards_of
from skipwise.datapipes.prepare.track_digests import track_digests
from tests.support.stored import bucket, object_store
from tests.support.waiting import wait_until

__all__ = ["bucket", "object_store"]

MSSD = ["session_id", "session_position", "track_id_clean", "skip_1", "skip_2", "skip_3", "context_type", "title"]
FLAGS = [("1", "1", "1"), ("0", "1", "1"), ("0", "0", "0")]


@pytest.fixture(scope="module")
def logs(tmp_path_factory) -> Path:
    """A folder `sessions` of MSSD's columns, and a folder `users` of times in any order, with bad and repeated rows."""
    folder, draw = tmp_path_factory.mktemp("logs"), random.Random(5)
    for name in ("sessions", "users"):
        (folder / name).mkdir()
    for file in range(3):
        with (folder / "sessions" / f"log_{file}.csv").open("w", newline="") as text:
            rows = csv.writer(text)
            rows.writerow(MSSD)
            for session in range(250):
                for place in range(1, draw.randint(2, 9)):
                    track = min(int(draw.paretovariate(0.7)), 200)
                    words = draw.choice(["radio", "charts", ""]), f"Song {track} {draw.choice('ab')}"
                    rows.writerow([f"s{file}_{session}", place, f"t{track}", *draw.choice(FLAGS), *words])
        plays = []
        for user in range(60):
            time = 1_600_000_000 + draw.randint(0, 10**6)
            for _ in range(draw.randint(1, 30)):
                time += draw.choice([0, 30, 200, 200, 4000])
                name = f"u{user}" + (".0" if draw.random() < 0.02 else "")
                track = f"x{draw.randint(0, 40)}" if draw.random() > 0.02 else ""
                plays.append([name, track, time if draw.random() > 0.01 else "bad", draw.choice(["phone", "car", ""])])
        if file:
            draw.shuffle(plays)
        else:  # from new to old
            plays.sort(key=lambda play: play[2] if isinstance(play[2], int) else 0, reverse=True)
        with (folder / "users" / f"plays_{file}.csv").open("w", newline="") as text:
            csv.writer(text).writerows([["user", "track", "time", "device"], *plays])
    return folder


def cases(logs: Path, output: Path) -> dict[str, PrepareConfig]:
    named = PrepareConfig(input=(logs / "sessions",), output=output, title="title", split="session", threads=1)
    users = PrepareConfig(
        input=(logs / "users",),
        output=output,
        session="user",
        track="track",
        order="time",
        gap="30m",
        on_error="cut",
        on_missing_track="session",
        drop_duplicate_plays=True,
        context=("device",),
        pause=True,
        profile=4,
        threads=1,
    )
    return {
        "named": named,
        "users": users,
        "sampled": replace(named, split="last", require_skip=True, sample=200, drop_duplicate_sessions=True),
        "by time": replace(
            users,
            split="time",
            validation_from="2020-09-18",
            test_from="2020-09-21",
            on_error="skip",
            drop_duplicate_plays=False,
        ),
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def run_shards(config: PrepareConfig, count: int) -> None:
    for step in ("read", "group"):
        for number in reversed(range(count)):
            prepare_shard(replace(config, step=step, shard=f"{number}/{count}"))


def told(text: str) -> list[str]:
    """What was printed but for the stages and the shards."""
    stages = ("reading: ", "grouping: ", "no column says", "wrote ", "--source")
    return sorted(line for line in text.splitlines() if not line.startswith(stages))


@pytest.mark.parametrize(("case", "count"), [("named", 4), ("users", 16), ("sampled", 3), ("by time", 4)])
def test_shards_give_the_bytes_and_the_warnings_of_one_process(logs, tmp_path, capsys, case, count):
    prepare(cases(logs, tmp_path / "whole")[case])
    warnings = told(capsys.readouterr().err)
    config = cases(logs, tmp_path / "sharded")[case]
    run_shards(config, count)
    capsys.readouterr()
    prepare(replace(config, step="merge"))
    assert told(capsys.readouterr().err) == warnings
    assert contents(tmp_path / "sharded") == contents(tmp_path / "whole")
    assert not shards_of(tmp_path / "sharded").exists()


def test_given_tracks_keep_their_rows_in_shards(logs, tmp_path):
    prepare(cases(logs, tmp_path / "first")["sampled"])
    later = replace(cases(logs, tmp_path / "whole")["named"], vocabulary=tmp_path / "first")
    prepare(later)
    sharded = replace(later, output=tmp_path / "sharded")
    run_shards(sharded, 3)
    prepare(replace(sharded, step="merge"))
    assert contents(tmp_path / "sharded") == contents(tmp_path / "whole")


def test_processes_give_the_same_bytes_and_the_same_error(logs, tmp_path):
    config = cases(logs, tmp_path / "whole")["users"]
    prepare(config)
    prepare(replace(config, output=tmp_path / "workers", workers=2))
    assert contents(tmp_path / "workers") == contents(tmp_path / "whole")
    stopping = replace(config, output=tmp_path / "none", on_error="stop", on_missing_track=None)
    errors = []
    for workers in (1, 2):
        with pytest.raises(UserError) as raised:
            prepare(replace(stopping, workers=workers))
        errors.append(str(raised.value))
    assert errors[0] == errors[1] and "plays_0.csv, line " in errors[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole", "workers"]


def test_a_shard_that_is_missing_is_repeated_alone(logs, tmp_path, capsys):
    config = cases(logs, tmp_path / "data")["users"]
    root = shards_of(tmp_path / "data")
    with pytest.raises(UserError, match=r"data\.shards has no shards: run --step read"):
        prepare(replace(config, step="merge"))
    for number in (0, 1):
        prepare_shard(replace(config, step="read", shard=f"{number}/3"))
    with pytest.raises(UserError, match=r"read-0002-of-0003 is missing: run --step read --shard 2/3 with the same"):
        prepare_shard(replace(config, step="group", shard="0/3"))
    run_shards(config, 3)
    assert "read-0001-of-0003 is there already" in capsys.readouterr().err
    shutil.rmtree(root / "group-0001-of-0003")
    with pytest.raises(UserError, match=r"group-0001-of-0003 is missing: run --step group --shard 1/3"):
        prepare(replace(config, step="merge"))
    assert not (tmp_path / "data").exists()
    prepare_shard(replace(config, step="group", shard="1/3"))
    prepare(replace(config, step="merge"))
    prepare(replace(config, output=tmp_path / "whole"))
    assert contents(tmp_path / "data") == contents(tmp_path / "whole")


KILLED = """
import os, signal, sys
from skipwise.components import __main__ as command
from skipwise.datapipes.prepare import group_shard
group_shard.write_shard = lambda folder, shard: os.kill(os.getpid(), signal.SIGKILL)
command.main()
"""


def test_a_shard_that_is_killed_is_run_again(logs, tmp_path):
    """By SIGKILL, in a process of its own, once its files are written and before its record is."""
    config = replace(cases(logs, tmp_path / "data")["named"], threads=1)
    root, words = shards_of(tmp_path / "data"), ["--title", "title", "--split", "session", "--threads", "1"]
    words += ["--input", str(logs / "sessions"), "--output", str(tmp_path / "data")]
    for step, others in (("read", [0, 2]), ("group", [0, 2])):
        done = subprocess.run([sys.executable, "-c", KILLED, "prepare", *words, "--step", step, "--shard", "1/3"])
        assert done.returncode == -signal.SIGKILL
        assert list(root.glob(f".{step}-0001*.partial/result/*")), "it was in the middle"
        for number in others:
            prepare_shard(replace(config, step=step, shard=f"{number}/3"))
        with pytest.raises(UserError, match=f"(read|group)-0001-of-0003 is missing: run --step {step} --shard 1/3"):
            prepare(replace(config, step="merge"))
        prepare_shard(replace(config, step=step, shard="1/3"))
    assert not list(root.glob(".*partial")) and not (tmp_path / "data").exists()
    prepare(replace(config, step="merge"))
    prepare(replace(config, output=tmp_path / "whole"))
    assert contents(tmp_path / "data") == contents(tmp_path / "whole")


def test_all_shards_at_once_wait_for_each_other(logs, tmp_path, monkeypatch):
    """With the last one late."""
    monkeypatch.setattr("skipwise.datapipes.prepare.shard_steps._POLL_S", 0.01)
    config = cases(logs, tmp_path / "data")["users"]
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(prepare_shard, replace(config, step="all", shard=f"{number}/3")) for number in (0, 1)]
        wait_until((shards_of(tmp_path / "data") / "read-0001-of-0003").exists, every=0.01)
        assert not any(job.done() for job in jobs)
        jobs.append(pool.submit(prepare_shard, replace(config, step="all", shard="2/3")))
        for job in jobs:
            job.result(timeout=60)
    prepare(replace(config, output=tmp_path / "whole"))
    assert contents(tmp_path / "data") == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "whole"]


@pytest.mark.parametrize("with_vocabulary", [False, True])
def test_a_shard_that_is_started_again_after_the_merge_ends(logs, tmp_path, capsys, with_vocabulary):
    """Of another log, other options or other tracks it is refused, and with a table whose content nothing tells."""
    shutil.copytree(logs / "users", tmp_path / "users")
    config = replace(cases(logs, tmp_path / "data")["users"], input=(tmp_path / "users",), on_missing_track="cut")
    plain, whole = replace(config, step="all", shard="0/1"), tmp_path / "tracks"
    prepare(replace(config, output=whole))
    config, other = (
        (replace(plain, vocabulary=whole), plain) if with_vocabulary else (plain, replace(plain, vocabulary=whole))
    )
    prepare_shard(config)
    made = contents(tmp_path / "data")
    root = shards_of(tmp_path / "data")
    (root / "group-0002-of-0003").mkdir(parents=True)  # as of a shard 0 that was killed in removing them
    capsys.readouterr()
    for number in (2, 0):
        prepare_shard(replace(config, shard=f"{number}/3"))
        assert capsys.readouterr().err == f"{tmp_path}/data is there already, of this log and these options\n"
        assert root.exists() == (number > 0)
    (tmp_path / "table.csv").write_text("track,title\nx1,One\n")
    changes = {"min_length": 4}, {"tracks": tmp_path / "table.csv", "title": "title"}, {"context": None}
    for refused in (other, *(replace(config, **change) for change in changes)):
        with pytest.raises(UserError, match="data exists: choose another --output"):
            prepare_shard(refused)
    with (tmp_path / "users" / "plays_1.csv").open("a") as text:
        text.write("u1,x1,1600000000,car\n")
    with pytest.raises(UserError, match="data exists: choose another --output"):
        prepare_shard(config)
    assert contents(tmp_path / "data") == made and not root.exists()


def test_a_shard_ends_where_the_others_were_grouped_and_merged_between_two_looks(logs, tmp_path, monkeypatch):
    config = cases(logs, tmp_path / "data")["users"]
    steps = iter(("read", "all"))

    def other_shard(_: float) -> None:
        prepare_shard(replace(config, step=next(steps), shard="0/2"))

    monkeypatch.setattr("skipwise.datapipes.prepare.shard_steps.time.sleep", other_shard)
    prepare_shard(replace(config, step="all", shard="1/2"))
    assert next(steps, None) is None
    assert (tmp_path / "data").exists()


def test_shards_meet_in_an_object_store(bucket, object_store, logs, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("skipwise.datapipes.prepare.shard_steps._POLL_S", 0.01)
    config = cases(logs, Path(f"{bucket}/data"))["named"]
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(prepare_shard, replace(config, step="all", shard=f"{number}/2")) for number in (0, 1)]
        for job in jobs:
            job.result(timeout=60)
    prepare(replace(config, output=tmp_path / "whole"))
    assert contents(local(f"{bucket}/data")) == contents(tmp_path / "whole")
    assert not Place.of(f"{bucket}/data.shards").files(), "the merge removes them there too"
    prepare_shard(replace(config, step="all", shard="1/2"))
    with pytest.raises(UserError, match="data exists"):
        prepare_shard(replace(config, step="all", shard="1/2", title=None))


def test_shards_of_another_log_or_of_other_options_are_not_merged(logs, tmp_path):
    shutil.copytree(logs / "users", tmp_path / "users")
    config = replace(cases(logs, tmp_path / "data")["users"], input=(tmp_path / "users",))
    run_shards(config, 2)
    merge = replace(config, step="merge")
    with pytest.raises(UserError, match=r'is of other options \(gap "30m", not "1h"\): remove .*data\.shards, or'):
        prepare(replace(merge, gap="1h"))
    with pytest.raises(UserError, match="is of other options"):
        prepare_shard(replace(config, step="read", shard="0/2", min_length=4))
    prepare(cases(logs, tmp_path / "tracks")["named"])
    with pytest.raises(UserError, match="is of other options .vocabulary null, not"):
        prepare(replace(merge, vocabulary=tmp_path / "tracks"))
    with (tmp_path / "users" / "plays_1.csv").open("a") as text:
        text.write("u1,x1,1600000000,car\n")
    with pytest.raises(UserError, match=r"is of another log \(plays_1.csv of [\d,]+ bytes, not plays_1.csv of"):
        prepare(merge)
    (tmp_path / "users" / "plays_1.csv").unlink()
    with pytest.raises(UserError, match="is of another log"):
        prepare(merge)
    for step in ("read", "group"):
        prepare_shard(replace(config, output=tmp_path / "other", step=step, shard="0/1"))
    shutil.move(shards_of(tmp_path / "other") / "read-0000-of-0001", shards_of(tmp_path / "data"))
    with pytest.raises(UserError, match=r"data.shards has shards of 1 and of 2: remove .* \(\*-of-0002 are of 2\)"):
        prepare(merge)


def test_shards_of_another_count_are_in_nobodys_way(logs, tmp_path):
    """Of a job that was killed, before one of fewer processes: its shards would wait for a merge that is refused."""
    config = cases(logs, tmp_path / "data")["users"]
    prepare_shard(replace(config, step="read", shard="1/2"))
    prepare_shard(replace(config, step="all", shard="0/1"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_shards_whose_files_are_damaged_or_gone_are_refused(logs, tmp_path):
    """A bucket that is not there would be another dataset without a word; the others end in errors of Arrow's."""
    config = cases(logs, tmp_path / "data")["users"]
    run_shards(config, 2)
    root = shards_of(tmp_path / "data")
    rows = next((root / "read-0001-of-0002").glob("rows/bucket=0/*.parquet"))
    staged = root / "group-0000-of-0002" / "sessions.parquet"
    group = replace(config, step="group", shard="0/2")
    for file, asked, again in (
        (rows, lambda: prepare_shard(group), "read-0001-of-0002 and run --step read --shard 1/2 again"),
        (staged, lambda: prepare(replace(config, step="merge")), "group-0000-of-0002 and run --step group --shard 0/2"),
    ):
        kept = shutil.copytree(root, tmp_path / "kept")
        if file == rows:
            shutil.rmtree(root / "group-0000-of-0002")
        whole = file.read_bytes()
        for content in (whole[: len(whole) // 2], whole[:40] + b"xxxx" + whole[44:], None):
            file.unlink() if content is None else file.write_bytes(content)
            with pytest.raises(UserError, match=f"remove the folder {again}"):
                asked()
        shutil.rmtree(root)
        shutil.move(kept, root)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"step": "read"}, "--step read needs the shard"),
        ({"step": "merge", "shard": "0/2"}, "--shard belongs to --step read, group and all"),
        ({"step": "all"}, "--step all needs the shard"),
        ({"shard": "0/2"}, "--shard belongs to"),
        ({"step": "group", "shard": "2/2"}, "--shard must be a number from 0 and how many there are"),
        ({"step": "group", "shard": "x"}, "--shard must be"),
        ({"step": "merge", "workers": 2}, "leave --workers and --spark out"),
        ({"workers": 0}, "--workers must be from 1"),
    ],
)
def test_options_that_do_not_go_together(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        PrepareConfig(input=(Path("log.csv"),), output=Path("data"), **options)


def test_memory_too_small_for_the_workers(logs, tmp_path):
    with pytest.raises(UserError, match=r"--memory 1 \(GiB\) for --workers 8 leaves each less than 0.25: raise it"):
        prepare(replace(cases(logs, tmp_path / "data")["named"], memory=1, workers=8))


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=40), st.integers(1, 12))
def test_each_file_is_read_once_and_neighbours_together(sizes, num_shards):
    shards = [files_of(sizes, number, num_shards) for number in range(num_shards)]
    assert [file for shard in shards for file in shard] == [*range(len(sizes))]
    if sum(sizes):  # no more than a fair share and one file
        fair = sum(sizes) / num_shards + max(sizes)
        assert all(sum(sizes[file] for file in shard) <= fair for shard in shards)


lists = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=12)


@given(lists)
def test_digests_are_equal_where_the_tracks_are(sessions):
    hashes = np.random.default_rng(0).integers(0, 2**64, (2, 4), dtype=np.uint64)
    found = track_digests(pa.array(sessions, pa.list_(pa.int32())), hashes)
    for half in found:
        values = half.to_pylist()
        assert [values.index(value) for value in values] == [sessions.index(session) for session in sessions]


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_spark_cluster_gives_the_same_bytes(logs, tmp_path):
    """Two workers with an executor each, in processes of their own."""
    pytest.importorskip("pyspark", reason="needs the extra spark, and Java")
    if shutil.which("java") is None:
        pytest.skip("needs Java")
    from pyspark.sql import SparkSession

    config = cases(logs, tmp_path / "whole")["named"]
    prepare(config)
    master = "local-cluster[2,1,1024]"
    try:
        prepare(replace(config, output=tmp_path / "spark", workers=4, spark=master))
        stopping = replace(cases(logs, tmp_path / "none")["users"], on_error="stop", workers=4, spark=master)
        with pytest.raises(UserError, match="plays_0.csv, line "):
            prepare(stopping)
    finally:
        if session := SparkSession.getActiveSession():
            session.stop()
    assert contents(tmp_path / "spark") == contents(tmp_path / "whole")


def test_spark_that_is_not_installed(logs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    monkeypatch.setitem(sys.modules, "pyspark.errors", None)
    with pytest.raises(UserError, match="--spark needs PySpark"):
        prepare(replace(cases(logs, tmp_path / "data")["named"], workers=2, spark="yarn"))
