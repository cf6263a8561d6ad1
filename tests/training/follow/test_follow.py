"""Runs that follow: new tracks, parts in turn, a run that is stopped, ranks, and drift."""

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file

from skipwise.common.errors import UserError
from skipwise.components.train import read_command_line
from skipwise.retrieval.export import delta_writer
from skipwise.retrieval.export.delta_writer import DeltaWriter
from skipwise.retrieval.row_delta import Deltas
from skipwise.training.build import train_loader
from skipwise.training.config import CheckpointConfig, RunConfig
from skipwise.training.follow.config import StreamConfig
from skipwise.training.follow.follow import follow
from skipwise.training.follow.followed_run import FollowedRun, steady
from skipwise.training.run.progress import Progress
from tests.ranks import run_on_ranks
from tests.support.following import TRACKS, base_run, follow_parts, following, write_part
from tests.support.stored import bucket, object_store

__all__ = ["bucket", "object_store"]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> RunConfig:
    return base_run(tmp_path_factory.mktemp("base"))


def lines(run: Path, kind: str) -> list[dict]:
    every = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [one for one in every if one["kind"] == kind]


def saved(run: Path) -> dict[str, np.ndarray]:
    """All tensors of the newest checkpoint."""
    folder = run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip()
    files = sorted(folder.glob("*.safetensors"))
    return {f"{file.name} {key}": value for file in files for key, value in load_file(file).items()}


def follow_with_stops(config: RunConfig, stops: list[int], monkeypatch) -> None:
    """Follows to the end, killed after each of these steps and started again."""
    step_done = Progress.step_done

    def stopping(self, step, losses):
        step_done(self, step, losses)
        if stops and self.trained == stops[0]:
            stops.pop(0)
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Progress, "step_done", stopping)
        while stops:
            with pytest.raises(KeyboardInterrupt):
                follow_parts(config)
        follow_parts(config)


def test_new_tracks_get_rows_and_each_part_is_validated_on_first(base, tmp_path: Path):
    run, parts = tmp_path / "run", tmp_path / "parts"
    write_part(parts / "b", 10, seed=2)
    write_part(parts / "a", 0)
    (parts / "half").mkdir()
    follow_parts(following(base, run, parts))
    of_parts = lines(run, "part")
    assert [one["epoch"] for one in of_parts] == [1, 2] and {"ndcg@10", "alarm"} <= of_parts[0].keys()
    assert [one["name"] for one in json.loads((run / "parts.json").read_text())["parts"]] == ["a", "b"]
    rows = pq.read_table(run / "rows" / "00002.parquet").to_pylist()
    assert {one["track_id"] for one in rows} == {f"t_{row:05}" for row in range(TRACKS, TRACKS + 10)}
    assert [one["row"] for one in rows] == [*range(TRACKS, TRACKS + 10)]
    plays = [one["count"] for one in rows]
    assert plays == sorted(plays, reverse=True), "the most played get the first rows"
    table = next(value for name, value in saved(run).items() if "model.table.embedding_bags.tracks.weight" in name)
    assert len(table) == TRACKS + 16

    write_part(parts / "aa", 0, seed=3)
    follow_parts(following(base, run, parts))
    assert [one["name"] for one in json.loads((run / "parts.json").read_text())["parts"]] == ["a", "b", "aa"]


def test_stopped_and_resumed_equals_not_stopped(base, tmp_path: Path, monkeypatch):
    """Killed in the middle of parts and at their ends; with rows that are taken away, and deltas."""
    parts = tmp_path / "parts"
    for number in range(1, 5):
        write_part(parts / str(number), 5 * number, seed=number)
    for name, stops in (("whole", []), ("cut", [2, 3, 7])):
        run, deltas = tmp_path / name, tmp_path / f"deltas-{name}"
        wanted = following(base, run, parts, spare_rows=9, evict_after=1, delta_steps=1, deltas=str(deltas))
        wanted = replace(wanted, checkpoint=CheckpointConfig(every=len(stops) and 1))

        follow_with_stops(wanted, stops, monkeypatch)
    whole, cut = (saved(tmp_path / name) for name in ("whole", "cut"))
    assert whole.keys() == cut.keys() and all(np.array_equal(whole[name], cut[name]) for name in whole)
    assert lines(tmp_path / "whole", "part") == lines(tmp_path / "cut", "part")
    records = [pq.read_table(tmp_path / name / "rows" / "00004.parquet") for name in ("whole", "cut")]
    assert records[0] == records[1]
    hashes = [
        [file.read_bytes() for file in sorted((tmp_path / f"deltas-{name}").glob("*/manifest.json"))]
        for name in ("whole", "cut")
    ]
    assert len(hashes[0]) == 8 and hashes[0] == hashes[1]


def test_in_batch_negatives_are_corrected_by_the_plays_of_late(base, tmp_path: Path, monkeypatch):
    """Against a plain sum over parts; also in a run that is killed in the middle of parts and at their ends."""
    parts = tmp_path / "parts"
    for number in range(1, 5):
        write_part(parts / str(number), 5 * number, seed=number)
    used: dict[str, list[np.ndarray]] = {"whole": [], "cut": []}
    for name, stops in (("whole", []), ("cut", [2, 3, 7])):
        wanted = following(base, tmp_path / name, parts, spare_rows=9, evict_after=1, half_life=2.0)
        wanted = replace(wanted, loss=replace(base.loss, in_batch=True), checkpoint=CheckpointConfig(every=1))

        def loader(*arguments, name=name, **options):
            used[name].append(options["plays_R"])
            return train_loader(*arguments, **options)

        with monkeypatch.context() as patched:
            patched.setattr("skipwise.training.follow.followed_run.train_loader", loader)
            follow_with_stops(wanted, stops, monkeypatch)
    whole, cut = (saved(tmp_path / name) for name in ("whole", "cut"))
    assert whole.keys() == cut.keys() and all(np.array_equal(whole[name], cut[name]) for name in whole)
    assert len(used["whole"]) == 4 < len(used["cut"])
    assert all(any(np.array_equal(one, other) for other in used["whole"]) for one in used["cut"])
    first = pq.read_table(tmp_path / "whole" / "vocabulary.parquet").to_pylist()
    before = {one["track_id"]: one["count"] for one in first}
    row_of, scale = {one["track_id"]: one["row"] for one in first}, None
    for number, found_R in enumerate(used["whole"], 1):
        spare = pq.read_table(tmp_path / "whole" / "rows" / f"{number:05}.parquet").to_pylist()
        rows = row_of | {one["track_id"]: one["row"] for one in spare if one["row"] >= 0}
        plays = {
            one["track_id"]: one["count"]
            for one in pq.read_table(parts / str(number) / "vocabulary.parquet").to_pylist()
        }
        plays = {track: count for track, count in plays.items() if track in rows}
        scale = scale or sum(plays.values()) / (1 - 0.5**0.5) / sum(before.values())
        if number == 1:
            before = {track: scale * count for track, count in before.items()}
        before = {track: before.get(track, 0) * 0.5**0.5 + plays.get(track, 0) for track in rows}
        expected_R = np.zeros(len(found_R))
        expected_R[[rows[track] for track in before]] = [*before.values()]
        np.testing.assert_allclose(found_R, expected_R, rtol=1e-9, atol=1e-12)


def test_a_part_far_below_the_mean_of_those_before_is_an_alarm(base, tmp_path: Path, monkeypatch):
    values = iter([0.4, 0.5, 0.42, 0.1])
    monkeypatch.setattr(FollowedRun, "validate_part", lambda job: {"ndcg@10": next(values), "hr@10": 0.5, "targets": 9})
    for number in range(4):
        write_part(tmp_path / "parts" / str(number), 0, count=20, seed=number)
    follow_parts(following(base, tmp_path / "run", tmp_path / "parts", alarm_drop=0.3, alarm_parts=2))
    found = lines(tmp_path / "run", "part")
    assert [one["alarm"] for one in found] == [False, False, False, True]
    assert "running_mean" not in found[0] and found[1]["running_mean"] == 0.4
    assert found[2]["running_mean"] == pytest.approx(0.45) and found[3]["running_mean"] == pytest.approx(0.435)
    assert found[3]["drop"] == pytest.approx(1 - 0.1 / 0.435)


def rows_of_deltas(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    source = Deltas(str(folder))
    deltas = [source.read(number) for number in range(1, 1 + len(list(folder.glob("0*"))))]
    return [(delta.rows_X, delta.values_XD) for delta in deltas]


def test_a_full_disk_ends_in_a_sentence_and_the_run_goes_on(base, tmp_path: Path, monkeypatch):
    """safetensors has an exception of its own; and its files are for one user alone."""
    parts, deltas, save = tmp_path / "parts", tmp_path / "deltas", delta_writer.save_file
    write_part(parts / "1", 5)
    wanted = following(base, tmp_path / "run", parts, deltas=str(deltas))

    def full(tensors, file):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(delta_writer, "save_file", full)
    with pytest.raises(UserError, match="cannot take a delta .*No space left on device"):
        follow_parts(wanted)
    monkeypatch.setattr(delta_writer, "save_file", save)
    follow_parts(wanted)
    files = [*(deltas / "00000001").iterdir()]
    assert len(files) == 4 and len({file.stat().st_mode for file in files}) == 1


def test_deltas_that_begin_with_another_run_are_not_written_over(base, tmp_path: Path):
    parts, deltas = tmp_path / "parts", tmp_path / "deltas"
    write_part(parts / "1", 5)
    wanted = following(base, tmp_path / "run", parts, deltas=str(deltas))
    follow_parts(wanted)
    manifest = deltas / "00000001" / "manifest.json"
    text = manifest.read_text()
    follow_parts(replace(wanted, run_dir=str(tmp_path / "again")))
    assert manifest.read_text() == text
    changed = json.loads(text) | {"base": "0" * 64}
    manifest.write_text(json.dumps(changed))
    with pytest.raises(UserError, match="holds deltas that begin with another run than .*run: name another folder"):
        follow_parts(replace(wanted, run_dir=str(tmp_path / "other")))
    assert json.loads(manifest.read_text()) == changed and not (tmp_path / "other").exists()


def test_a_second_follower_into_the_same_deltas_is_refused(base, tmp_path: Path, monkeypatch):
    """In the middle of the first one's part; the first one's deltas are those of a run that was alone."""
    parts, deltas, step_done, tried = tmp_path / "parts", tmp_path / "deltas", Progress.step_done, []
    write_part(parts / "1", 5)
    alone = following(base, tmp_path / "alone", parts, deltas=str(tmp_path / "deltas-alone"), delta_steps=1)
    follow_parts(alone)
    first = replace(alone, run_dir=str(tmp_path / "first"), stream=replace(alone.stream, deltas=str(deltas)))
    second = replace(first, run_dir=str(tmp_path / "second"))

    def trying(self, step, losses):
        step_done(self, step, losses)
        if not tried:
            tried.append(step)
            said = f"deltas is in use by process {os.getpid()} on .* UTC: wait .*, or choose another --stream.deltas$"
            with pytest.raises(UserError, match=said):
                follow(second, "best", DeltaWriter(second.stream.deltas, 9))

    with monkeypatch.context() as patched:
        patched.setattr(Progress, "step_done", trying)
        follow_parts(first)
    assert tried and not (tmp_path / "second").exists()
    written, wanted = (
        {file.parent.name: file.read_bytes() for file in folder.glob("0*/manifest.json")}
        for folder in (deltas, tmp_path / "deltas-alone")
    )
    assert len(written) == 2 and written == wanted
    assert not [name for name in os.listdir(deltas) if name.startswith(".")]
    follow_parts(second)


def test_a_second_follower_into_the_same_place_of_a_store_is_refused(base, bucket: str):  # noqa: F811
    with DeltaWriter(f"{bucket}/deltas", 9).held(base.init_from):
        with pytest.raises(UserError, match=f"^{bucket}/deltas is in use by process {os.getpid()} on "):
            with DeltaWriter(f"{bucket}/deltas", 9).held(base.init_from):
                raise AssertionError
    with DeltaWriter(f"{bucket}/deltas", 9).held(base.init_from):
        pass


@pytest.mark.ranks
def test_two_ranks_follow_as_one(base, tmp_path: Path):
    parts = tmp_path / "parts"
    for number in (1, 2):
        write_part(parts / str(number), 5 * number, seed=number)
    for ranks in (1, 2):
        wanted = following(base, tmp_path / f"run-{ranks}", parts, deltas=str(tmp_path / f"deltas-{ranks}"))
        loss = replace(wanted.loss, keep_dropout=0.0, in_batch=True)
        run_on_ranks(tmp_path, ranks, follow_parts, replace(wanted, loss=loss))
    one, two = (rows_of_deltas(tmp_path / f"deltas-{ranks}") for ranks in (1, 2))
    assert len(one) == len(two) == 2
    for (rows, values), (rows_of_two, values_of_two) in zip(one, two, strict=True):
        assert rows.tolist() == rows_of_two.tolist()
        np.testing.assert_allclose(values, values_of_two, atol=1e-4)
    first, second = (lines(tmp_path / f"run-{ranks}", "part") for ranks in (1, 2))
    assert [one["ndcg@10"] for one in first] == pytest.approx([one["ndcg@10"] for one in second], abs=1e-3)


def test_what_does_not_go_with_it_is_refused(base):
    with pytest.raises(ValueError, match="--follow goes on from a trained run: name it with --init-from"):
        replace(base, follow="parts", init_from="")
    with pytest.raises(ValueError, match="--follow needs --table.sharding row_wise"):
        replace(base, follow="parts", table=replace(base.table, sharding="table_wise"))
    with pytest.raises(UserError, match="--stream options change nothing without --follow"):
        read_command_line(["best", "--stream.spare-rows", "9"])
    with pytest.raises(UserError, match="--stream.half-life 9.0 changes nothing here: it is read with --loss.in-batch"):
        words = ["--follow", "parts", "--init-from", "run", "--loss.no-in-batch", "--stream.half-life", "9"]
        read_command_line(["best", *words])
    with pytest.raises(UserError, match="--train.epochs changes nothing with --follow"):
        read_command_line(["best", "--follow", "parts", "--init-from", "run", "--train.epochs", "9"])
    with pytest.raises(ValueError, match=r"--stream.alarm-drop 1.0 must lie in \[0, 1\)"):
        StreamConfig(alarm_drop=1.0)
    with pytest.raises(UserError, match="--optimizer.decay-to 0 leaves no learning rate"):
        steady(replace(base, optimizer=replace(base.optimizer, decay_to=0.0)))


def test_deltas_every_so_many_minutes(base, tmp_path: Path, monkeypatch):
    """By a clock that moves 20 seconds with each step: one after 3 steps, and the one at the part's end."""
    now, step_done = [0.0], Progress.step_done
    monkeypatch.setattr("skipwise.training.guards.stop_signal.time", SimpleNamespace(monotonic=lambda: now[0]))

    def stepping(self, step, losses):
        step_done(self, step, losses)
        now[0] += 20

    monkeypatch.setattr(Progress, "step_done", stepping)
    write_part(tmp_path / "parts" / "1", 5, count=160)
    deltas = tmp_path / "deltas"
    wanted = following(base, tmp_path / "run", tmp_path / "parts", deltas=str(deltas), delta_minutes=1.0)
    follow_parts(replace(wanted, checkpoint=CheckpointConfig(minutes=0)))
    assert now[0] == 100, "steps of the part"
    assert [file.name for file in sorted(deltas.glob("0*"))] == ["00000001", "00000002"]
    with pytest.raises(ValueError, match=r"--stream.delta-steps and .delta-minutes write into --stream.deltas"):
        StreamConfig(delta_minutes=5)


def test_a_run_that_is_refused_leaves_nothing_behind(base, tmp_path: Path):
    run, parts = tmp_path / "run", tmp_path / "parts"
    wanted = following(base, run, parts)
    with pytest.raises(UserError, match=r"--follow .*parts is no folder: make it"):
        follow_parts(wanted)
    parts.mkdir()
    wanted = replace(wanted, stream=replace(wanted.stream, deltas=str(tmp_path / "deltas")))
    for changed, sentence in (
        ({"optimizer": replace(base.optimizer, decay_to=0.0)}, "--optimizer.decay-to 0 leaves no learning rate"),
        ({"table": replace(base.table, dim=2 * base.table.dim)}, "was trained with --table.dim"),
    ):
        with pytest.raises(UserError, match=sentence):
            follow_parts(replace(wanted, **changed))
        assert [*tmp_path.iterdir()] == [parts]
