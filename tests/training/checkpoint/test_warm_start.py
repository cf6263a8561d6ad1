"""Starting from another run: each track takes its own row and state along, whatever row that is now."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from skipwise.common.distributed import process_group
from skipwise.common.errors import UserError
from skipwise.datapipes.manifest import VOCABULARY
from skipwise.datapipes.sessions import SessionStore
from skipwise.retrieval.export.config import ExportConfig
from skipwise.retrieval.export.exporter import write_export
from skipwise.training.active_run import ActiveRun
from skipwise.training.build import reading_inputs
from skipwise.training.checkpoint.checkpoints import best_checkpoint
from skipwise.training.config import RunConfig, SelectionConfig
from skipwise.training.evaluation.hit_rate_table import hit_rate_table
from skipwise.training.evaluation.records import read_target_ranks
from skipwise.training.guards.hang_watch import HangWatch
from skipwise.training.guards.stop_signal import StopSignal
from skipwise.training.loop import train
from skipwise.training.run.start import create_or_resume_run
from tests.conftest import random_sessions, write_dataset
from tests.ranks import run_on_ranks
from tests.support.tables import initial_rows
from tests.training.checkpoint.test_resume import TRACKS, config_of, stop_once, tensors_of

TABLE = "model.table.embedding_bags.tracks.weight"
STATE = "optimizer.table.table.embedding_bags.tracks.weight.tracks.momentum1"
NEW = 170


def named(folder: Path, names: list[str]) -> Path:
    """Gives the tracks of a dataset directory other names."""
    table = pq.read_table(folder / VOCABULARY)
    pq.write_table(table.set_column(0, "track_id", pa.array(names)), folder / VOCABULARY)
    text = (folder / "manifest.json").read_text()
    manifest = json.loads(text)
    manifest["vocabulary_hash"] = hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()
    manifest.pop("manifest_hash", None)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, Path, list[str], list[str]]:
    """Two datasets: of the first one's 150 tracks the second lacks 30, and has 50 others, all in other rows."""
    random = np.random.default_rng(3)
    names = [f"track {number}" for number in random.permutation(TRACKS + 50)]
    old = sorted(names[:TRACKS])
    new = sorted(names[30 : TRACKS + 50], reverse=True)
    assert len(new) == NEW
    first = named(write_dataset(tmp_path / "first", random_sessions(160, TRACKS), TRACKS), old)
    second = named(write_dataset(tmp_path / "second", random_sessions(160, NEW, seed=1), NEW), new)
    return first, second, old, new


def started(config: RunConfig) -> dict[str, list[tuple[list[int], torch.Tensor]]]:
    """The shards that a run begins with on this rank, and one dense weight and moment whole."""
    store = reading_inputs(config, SessionStore(config.data.path))
    with StopSignal(0) as stop_signal:
        tensors = ActiveRun(
            create_or_resume_run(config, "best", store), store, stop_signal, HangWatch(0)
        ).trainer.tensors()
    shards = {
        name: [(shard.metadata.shard_offsets, shard.tensor.clone()) for shard in tensors[name].local_shards()]
        for name in (TABLE, STATE, SIGNALS)
        if name in tensors  # rank 0 alone has the signals
    }
    return shards | {name: tensors[name].clone() for name in DENSE}


SIGNALS = "model.table.embedding_bags.signals.weight"
DENSE = (
    "model.learner.encoder.prediction.0.weight",
    "optimizer.dense.learner.encoder.prediction.0.weight.exp_avg_sq",
    "optimizer.dense.learner.encoder.prediction.0.weight.step",
)


def whole(parts: list, name: str, like: torch.Tensor, rows: int) -> torch.Tensor:
    found = torch.full((rows, *like.shape[1:]), float("nan"))
    for offsets, piece in [shard for part in parts for shard in part.get(name, ())]:
        found[tuple(slice(at, at + size) for at, size in zip(offsets, piece.shape, strict=True))] = piece
    return found


@pytest.mark.ranks
@pytest.mark.parametrize(("vanished", "ranks"), [("keep", 1), ("drop", 4), ("keep", 2)])
def test_rows_follow_their_tracks(vanished: str, ranks: int, data: tuple, tmp_path: Path):
    first, second, old, new = data
    run_on_ranks(tmp_path, 2, train, config_of(first, tmp_path / "before"), "best")
    after = replace(config_of(second, tmp_path / "after"), init_from=str(tmp_path / "before"), vanished=vanished)
    parts = run_on_ranks(tmp_path, ranks, started, after)
    saved = tensors_of(best_checkpoint(tmp_path / "before"))
    kept = [name for name in old if name not in new] if vanished == "keep" else []
    fresh = initial_rows(NEW + len(kept), 16, after.table.init_bound, after.train.seed, after.loss.keep_dim)
    rows, state = (whole(parts, name, saved[name], NEW + len(kept)) for name in (TABLE, STATE))
    for row, name in enumerate(new + kept):
        if name in old:
            assert torch.equal(rows[row], saved[TABLE][old.index(name)])
            assert state[row] == saved[STATE][old.index(name)] > 0
        else:
            assert torch.equal(rows[row], fresh[row]) and state[row] == 0
    assert torch.equal(whole(parts, SIGNALS, saved[SIGNALS], 5), saved[SIGNALS])
    for name in DENSE:
        assert all(torch.equal(part[name], parts[0][name]) for part in parts)
    assert torch.equal(parts[0][DENSE[0]], saved[DENSE[0]]) and torch.equal(parts[0][DENSE[1]], saved[DENSE[1]])
    assert parts[0][DENSE[2]] > 0
    vocabulary = pq.read_table(tmp_path / "after" / VOCABULARY)
    assert vocabulary["track_id"].to_pylist() == new + kept
    assert vocabulary["row"].to_pylist() == list(range(NEW + len(kept)))


def test_kept_tracks_are_exported_and_ranked_but_never_drawn(data: tuple, tmp_path: Path):
    first, second, old, new = data
    with process_group():
        train(config_of(first, tmp_path / "before", epochs=1), "best")
        results = {}
        for vanished in ("keep", "drop"):
            config = replace(
                config_of(second, tmp_path / vanished), init_from=str(tmp_path / "before"), vanished=vanished
            )
            train(replace(config, selection=SelectionConfig("hr@10", "paper")), "best")
            results[vanished] = json.loads((tmp_path / vanished / "metrics.json").read_text())
            write_export(ExportConfig(str(tmp_path / vanished), tmp_path / f"export-{vanished}"))
        assert results["keep"]["paper"] == results["drop"]["paper"]
        kept = [name for name in old if name not in new]
        for protocol in ("served", "full"):  # they can be recommended
            ranks = [read_target_ranks(tmp_path / vanished, protocol, "test") for vanished in ("keep", "drop")]
            assert np.array_equal(ranks[0].candidates, ranks[1].candidates + len(kept))
            assert (ranks[0].rank >= ranks[1].rank).all() and (ranks[0].rank > ranks[1].rank).any()
        tables = {
            vanished: pq.read_table(tmp_path / f"export-{vanished}" / "embeddings") for vanished in ("keep", "drop")
        }
        assert tables["drop"]["track_id"].to_pylist() == new
        assert tables["keep"]["track_id"].to_pylist() == new + kept
        saved = tensors_of(best_checkpoint(tmp_path / "before"))[TABLE]
        exported = np.array(tables["keep"]["embedding"].to_pylist(), dtype=np.float32)
        assert np.array_equal(exported[len(new) :], saved[[old.index(name) for name in kept]].numpy())
        # And from there to data that has them again.
        third = replace(config_of(first, tmp_path / "third"), init_from=str(tmp_path / "keep"))
        parts = [started(third)]
        again = tensors_of(best_checkpoint(tmp_path / "keep"))[TABLE]
        rows = whole(parts, TABLE, again, TRACKS + 50)
        for row, name in enumerate(old):
            assert torch.equal(rows[row], again[(new + kept).index(name)])


def test_what_cannot_be_taken_over_is_refused(data: tuple, tmp_path: Path):
    first, second, *_ = data
    with process_group():
        stop_once(config_of(first, tmp_path / "before"), 3)
        config = replace(config_of(second, tmp_path / "after"), init_from=str(tmp_path / "before"))
        for section, changes, sentence in (
            ("table", {"dim": 32}, "--table.dim 16, not 32"),
            ("loss", {"keep": 0.0}, "--loss.keep above 0, not 0"),
            ("loss", {"keep_dim": 8}, "--loss.keep-dim 16, not 8"),
            ("data", {"inputs": ()}, "--data.inputs skips, not none"),
            ("table", {"optimizer": "sgd"}, "--table.optimizer rowwise_adagrad, not sgd"),
            ("encoder", {"hidden": 32}, "has shape"),
        ):
            other = replace(config, **{section: replace(getattr(config, section), **changes)})
            with pytest.raises(UserError, match=sentence):
                train(replace(other, run_dir=str(tmp_path / sentence[:9])), "best")
        with pytest.raises(UserError, match="cannot be read .*: expected a run directory that train wrote"):
            train(replace(config, init_from=str(tmp_path / "nothing")), "best")
        vocabulary = tmp_path / "before" / VOCABULARY
        pq.write_table(pq.read_table(vocabulary).slice(0, 100), vocabulary)
        with pytest.raises(UserError, match="holds 100 tracks"):
            train(config, "best")
        assert not (tmp_path / "after" / "run.json").exists()


def test_a_start_from_a_refit_run_is_refused_on_the_same_data(data, tmp_path: Path):
    """Its weights have seen the validation targets; so have those of a run that started from it on other data."""
    first, second, *_ = data
    config = config_of(first, tmp_path / "refit", epochs=1)
    with process_group():
        train(replace(config, train=replace(config.train, refit=True)), "best")
        again = replace(config, run_dir=str(tmp_path / "again"), init_from=str(tmp_path / "refit"))
        with pytest.raises(UserError, match="refit on the validation targets of .*first.*--train.no-refit"):
            train(again, "best")
        between = replace(again, run_dir=str(tmp_path / "between"), data=replace(config.data, path=str(second)))
        run = train(between, "best")
        assert run.metrics()["train"]["starts_from_other_data"]
        assert "it has seen their targets" in " ".join(hit_rate_table(run.metrics(), run.config).split())
        assert [trained.held_out for trained in run.trained] == [["test"], ["validation", "test"]]
        with pytest.raises(UserError, match="between was refit on the validation targets of .*first"):
            train(replace(again, init_from=str(tmp_path / "between"), run_dir=str(tmp_path / "last")), "best")


def test_a_start_from_a_run_that_held_out_the_same_is_not_marked(data, tmp_path: Path):
    first, *_ = data
    config = config_of(first, tmp_path / "run", epochs=1)
    with process_group():
        train(config, "best")
        run = train(replace(config, run_dir=str(tmp_path / "again"), init_from=str(tmp_path / "run")), "best")
    assert run.metrics()["train"]["starts_from_other_data"] is False
    assert "starts from" not in hit_rate_table(run.metrics(), run.config)


def test_a_start_from_another_split_of_the_same_sessions_is_marked(make_dataset, tmp_path: Path):
    """What one split holds out, a run on the other was trained on."""
    sessions, split = random_sessions(160, TRACKS), {"train": 100, "validation": 30, "test": 30}
    first, second = (make_dataset(sessions, TRACKS, split=chosen) for chosen in (None, split))
    with process_group():
        train(config_of(first, tmp_path / "run", epochs=1), "best")
        config = replace(config_of(second, tmp_path / "again", epochs=1), init_from=str(tmp_path / "run"))
        run = train(config, "best")
    assert run.metrics()["train"]["starts_from_other_data"]
