"""A run measured on a later log, prepared with the run's vocabulary, against a plain recount."""

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from skipwise.common.distributed import process_group
from skipwise.common.errors import UserError
from skipwise.datapipes.prepare import PrepareConfig, prepare
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.view import View
from skipwise.models.query_encoder import QueryEncoder
from skipwise.training.build import build_model, stateless, table_weight
from skipwise.training.checkpoint.checkpoints import load_best
from skipwise.training.evaluation.evaluator import Evaluated, evaluate_run
from skipwise.training.evaluation.records import read_target_ranks
from skipwise.training.loop import train
from skipwise.training.run.directory import RunDirectory
from tests.conftest import Session, random_sessions
from tests.training.test_train import config_of

TRACKS = 60
LATER = 12
"""Sessions of the later log."""


def prepared(folder: Path, name: str, sessions: list[Session], vocabulary: str | None = None, **options) -> str:
    with (folder / f"{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["session_id", "session_position", "track_id_clean", "strength"])
        for number, (rows, skips) in enumerate(sessions):
            for place, (row, skip) in enumerate(zip(rows, skips, strict=True)):
                writer.writerow([f"{name}-{number}", place, f"t_{row}", skip])
    config = {"skip_strength": "strength", "vocabulary": vocabulary and Path(vocabulary), **options}
    prepare(PrepareConfig(input=(folder / f"{name}.csv",), output=folder / name, **config))
    return str(folder / name)


def later_sessions() -> list[Session]:
    """All have a track that no earlier log has, half end with a track heard before; two are too short without the
    unknown track."""
    sessions = random_sessions(LATER, TRACKS, longest=9, seed=5)
    for number, (rows, skips) in enumerate(sessions):
        rows.insert(1, TRACKS + rows[0])
        skips.insert(1, 0)
        if number % 2:
            rows.append(rows[2])
            skips.append(0)
    return [*sessions, ([1, 2, TRACKS + 1], [0, 0, 0]), ([TRACKS, 3, 4], [0, 0, 0])]


@dataclass
class Trained:
    folder: Path
    run: RunDirectory

    def measure(self, data: str | None, positions: str | None = None) -> Evaluated:
        with process_group():
            return evaluate_run(self.run, ("full", "served"), data, positions)


@pytest.fixture(scope="module", params=["last", "session"])
def trained(request, tmp_path_factory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    data = prepared(folder, "earlier", random_sessions(150, TRACKS), split=request.param)
    with process_group():
        run = train(config_of(Path(data), folder / "run", epochs=2), "best")
    return Trained(folder, RunDirectory.open(str(run.path)))


def recount(run: RunDirectory, data: str, targets: Callable[[int], range]) -> list[tuple[bool, bool, bool]]:
    """Of each target: repeated, among the first 10 of all tracks, among the 10 that would be recommended."""
    # The rows are the run's own, whatever the data's vocabulary says.
    own = pq.read_table(run.path / "vocabulary.parquet")["track_id"].to_pylist()
    ids = pq.read_table(Path(data) / "vocabulary.parquet")["track_id"].to_pylist()
    config = stateless(run.config)
    with process_group():
        model = build_model(config, len(own))
        load_best(model, run.path)
        table = table_weight(model).local_shards()[0].tensor[: len(own)].clone()
    encoder = QueryEncoder(model.module.learner.encoder)
    view, found = View(encoder.max_tracks, config.data.skip_up_to), []
    for session in pq.read_table(Path(data) / "sessions").to_pylist():
        rows = np.array([own.index(ids[row]) for row in session["tracks"]])
        strengths = np.array(session["skips"], dtype=np.int8)
        for at in targets(len(rows)):
            read = view.read(rows[None, :at], strengths[None, :at])
            query = encoder(table[torch.from_numpy(read.rows_BT)], torch.from_numpy(read.length_B))[0]
            order = torch.argsort(table.double() @ query.double(), descending=True).tolist()
            heard = set(rows[:at].tolist())
            served = [row for row in order if row not in heard][:10]
            found.append((rows[at] in heard, rows[at] in order[:10], rows[at] in served))
    return found


@pytest.mark.parametrize(
    ("positions", "targets"), [("all", lambda length: range(1, length)), ("last", lambda length: [length - 1])]
)
def test_a_later_log(positions: str, targets: Callable[[int], range], trained: Trained):
    name = f"later-{positions}"
    data = prepared(trained.folder, name, later_sessions(), str(trained.run.path))
    before = trained.run.metrics()
    measured = trained.measure(data, positions)
    expected = recount(trained.run, data, targets)
    repeated, full, served = (np.array(column) for column in zip(*expected, strict=True))
    assert measured.metrics["served"].keys() == {"test"}, "all sessions at once"
    found = {protocol: of["test"] for protocol, of in measured.metrics.items()}
    for values in found.values():
        assert (values["sessions"], values["targets"]) == (LATER, len(expected))
        assert values["repeated_targets"] == repeated.sum() > 0
    assert found["full"]["hr@10"] == pytest.approx(full.mean(), abs=1e-12)
    assert found["served"]["hr@10"] == pytest.approx(served.mean(), abs=1e-12)
    assert not served[repeated].any() and 0 < served.sum() < len(served)
    assert trained.run.metrics() == before, "these are no figures of the run's own splits"
    if positions == "all":
        assert trained.measure(data).metrics == measured.metrics, "what the config says"


def test_of_data_with_a_split_the_test_sessions_are_measured(trained: Trained):
    data = prepared(
        trained.folder, "split", random_sessions(60, TRACKS, seed=6), str(trained.run.path), split="session"
    )
    tests = pq.read_table(Path(data) / "sessions" / "test-00000.parquet")
    values = trained.measure(data).metrics["served"]["test"]
    assert values["sessions"] == len(tests) < 60
    assert values["targets"] == sum(len(tracks) - 1 for tracks in tests["tracks"].to_pylist())


def test_what_the_refusal_of_other_tracks_says_helps(trained: Trained):
    data = prepared(trained.folder, "foreign", later_sessions())
    with pytest.raises(UserError, match="another vocabulary") as stop:
        trained.measure(data)
    (remedy,) = re.findall("--vocabulary (.*)", str(stop.value))
    data = prepared(trained.folder, "foreign", later_sessions(), remedy, overwrite=True)
    assert trained.measure(data).metrics["served"]["test"]["sessions"] == LATER
    (name,) = {trained.run.config.data.path}
    data = prepared(trained.folder, "foreign", later_sessions(), name, overwrite=True)
    assert trained.measure(data).metrics["served"]["test"]["sessions"] == LATER


@pytest.mark.parametrize("positions", ["all", "last"])
def test_positions_are_of_sessions_that_training_has_not_seen(positions: str, trained: Trained):
    if trained.run.open_store().unseen:
        assert trained.run.config.evaluate.positions == "all"
        before = trained.run.metrics(), read_target_ranks(trained.run.path, "full", "test").target.tolist()
        values = trained.measure(None, positions).metrics["full"]["test"]
        assert (values["targets"] == values["sessions"]) == (positions == "last")
        after = trained.run.metrics(), read_target_ranks(trained.run.path, "full", "test").target.tolist()
        assert after == before, "tables and comparisons read there what the run's config says"
    else:
        with pytest.raises(UserError, match=f"--positions {positions} applies to sessions that .* name them by --data"):
            trained.measure(None, positions)


def test_a_relative_path_of_the_data_is_explained_elsewhere(trained: Trained, tmp_path: Path, monkeypatch):
    data = Path(trained.run.config.data.path)
    relative = replace(trained.run.config, data=replace(trained.run.config.data, path=data.name))
    run = RunDirectory(trained.run.path, relative, trained.run.record)
    monkeypatch.chdir(data.parent)
    assert run.open_store().num_tracks == trained.run.open_store().num_tracks
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"trained on {data.name}, a path from the folder where train ran, .* run this"):
        run.open_store()


def test_sessions_that_the_run_was_trained_on_are_refused_or_warned_of(trained: Trained, capsys):
    own = trained.run.config.data.path
    if trained.run.open_store().unseen:
        assert trained.measure(own).metrics["full"]["test"] == trained.measure(None).metrics["full"]["test"]
    else:
        with pytest.raises(UserError, match="was trained on the sessions of .*earlier: leave --data out"):
            trained.measure(own)
    assert "was trained on" not in capsys.readouterr().err
    sessions = random_sessions(150, TRACKS)
    data = prepared(trained.folder, "resplit", sessions, split="session", seed=1)
    trained.measure(data)
    seen = {tuple(tracks) for tracks in tracks_of(own, "train")}
    count = sum(tuple(tracks) in seen for tracks in tracks_of(data, "test"))
    said = capsys.readouterr().err
    assert f"was trained on {count} of the {len(tracks_of(data, 'test'))} sessions of {data} " in said
    assert "prepare the one log with --split session or --split time, train on that, and leave --data out" in said


def test_without_the_training_data_no_check_is_claimed(trained: Trained, capsys):
    data = prepared(trained.folder, "unchecked", later_sessions(), str(trained.run.path))
    trained.measure(data)
    assert "was trained" not in capsys.readouterr().err
    config = replace(trained.run.config, data=replace(trained.run.config.data, path=data), init_from="no-such-run")
    Trained(trained.folder, RunDirectory(trained.run.path, config, trained.run.record)).measure(data)
    said = capsys.readouterr().err
    assert f"{data}, on which" in said and "no-such-run is not there: whether it was trained" in said


def tracks_of(data: str, split: str) -> list[list[int]]:
    """Of the sessions of a split, or of all where the dataset has none."""
    store = SessionStore(data).part(split)
    return [tracks for file in store.parts for tracks in pq.read_table(file)["tracks"].to_pylist()]


def test_other_data_at_the_place_of_the_runs_own_are_refused(trained: Trained):
    """Their figures would stand in the run's `metrics.json` as its own."""
    data = prepared(trained.folder, "replaced", later_sessions(), str(trained.run.path))
    config = replace(trained.run.config, data=replace(trained.run.config.data, path=data))
    moved = Trained(trained.folder, RunDirectory(trained.run.path, config, trained.run.record))
    before = trained.run.metrics()
    with pytest.raises(UserError, match="has other sessions than the data .* --data ") as stop:
        moved.measure(None)
    assert trained.run.metrics() == before
    (remedy,) = re.findall("--data (.*)", str(stop.value))
    assert moved.measure(remedy).metrics["served"]["test"]["sessions"] == LATER
