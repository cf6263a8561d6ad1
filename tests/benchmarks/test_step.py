"""The step's benchmark from its command line to its JSON, and the batches and work that it times."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from skipwise.benchmarks.__main__ import run
from skipwise.benchmarks.harness import floor
from skipwise.benchmarks.harness.batches import global_work, own_batches, plain_batches, run_config
from skipwise.benchmarks.harness.benchmark_report import measure_and_write
from skipwise.benchmarks.harness.config import ReportConfig, StepConfig
from skipwise.benchmarks.harness.step_parts import PARTS, open_seconds
from skipwise.benchmarks.harness.synthetic import MemoryStore
from skipwise.benchmarks.step import measure
from skipwise.common.errors import UserError
from tests.ranks import run_on_ranks

SMALL = ["--tracks", "2000", "--batch", "16", "--dim", "16", "--rounds", "2", "--warmup", "1"]
TOP = {"schema_version", "benchmark", "date", "made", "config", "samples", "counts"}
TOP |= {"ours", "floor_sessions_per_s", "of_floor", "parts"}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skipwise.benchmarks.harness.floor._SECONDS_EACH", 0.0)
    monkeypatch.setattr("skipwise.benchmarks.harness.floor._COPIED_NUMBERS", 1 << 16)
    monkeypatch.setattr("skipwise.benchmarks.harness.floor._SQUARE", 64)


def config(**changes) -> StepConfig:
    return StepConfig(**{"tracks": 2000, "batch": 16, "dim": 16, "rounds": 2, "warmup": 1} | changes)


@pytest.mark.parametrize(
    "options", [[], ["--recipe", "relative-blind", "--negatives", "per-session", "--precision", "bf16"]]
)
def test_report_of_one_process(options: list[str], quick: None, tmp_path: Path):
    file = tmp_path / "step.json"
    run(["step", *SMALL, *options, "--threads", "1", "--output", str(tmp_path), "--json", str(file)])
    content = json.loads(file.read_text())
    assert set(content) == TOP | {"plain", "ratio"}
    ours, plain = content["ours"], content["plain"]
    assert ours["sessions_per_s"] == pytest.approx(16_000 / ours["p50_ms"])
    assert content["ratio"] == pytest.approx(ours["sessions_per_s"] / plain["sessions_per_s"])
    assert content["of_floor"] == pytest.approx(ours["sessions_per_s"] / content["floor_sessions_per_s"])
    assert len(content["samples"]["ratio"]) == 10
    parts = content["parts"]
    assert set(parts) == {"step", *PARTS}
    # Each part's median of two is its mean, and means add up.
    assert sum(parts[name]["p50_ms"] for name in PARTS) == pytest.approx(parts["step"]["p50_ms"])
    assert all(parts[name]["p50_ms"] > 0 for name in PARTS)


@pytest.mark.ranks
def test_report_of_two_ranks(tmp_path: Path):
    run_on_ranks(tmp_path, 2, _two_ranks, str(tmp_path))
    content = json.loads((tmp_path / "plain.json").read_text())
    assert set(content) == TOP | {"plain", "ratio"}
    assert content["made"]["ranks"] == 2 and len(content["ours"]["peak_bytes"]) == 2
    assert set(content["parts"]) == {"step", *PARTS, "communication"}
    assert content["parts"]["communication"]["p50_ms"] > 0
    content = json.loads((tmp_path / "none.json").read_text())
    assert set(content) == TOP and set(content["samples"]) == {"sessions_per_s"}


def _two_ranks(output: str) -> None:
    floor._SECONDS_EACH, floor._COPIED_NUMBERS, floor._SQUARE = 0.0, 1 << 16, 64
    for baseline in ("plain", "none"):
        report = ReportConfig(output, f"{output}/{baseline}.json")
        measure_and_write(measure, config(baseline=baseline, report=report))


@pytest.mark.parametrize("negatives", ["shared", "per-session"])
def test_both_sides_train_on_the_same_sessions(negatives: str):
    run_of = run_config(config(negatives=negatives))
    store = MemoryStore(64, 2000, 20, seed=3)
    ours, plain = own_batches(run_of, store), plain_batches(run_of, store)
    assert len(ours) == len(plain) == 4
    for mine, theirs in zip(ours, plain, strict=True):
        rows = torch.cat([mine.tracks.values(), torch.full((len(mine.tracks.lengths()),), 2000)])
        empty = len(mine.tracks.lengths()) - 1
        rows[empty] = 2000
        assert torch.equal(rows[mine.items_BT], theirs.tracks_BT)
        assert torch.equal(mine.skipped_BT, theirs.skipped_BT)
        assert torch.equal(mine.inputs_B, theirs.length_B - 1)
        met_BK = (theirs.negatives[..., None] == theirs.tracks_BT[:, None, :]).any(dim=2)
        if negatives == "shared":
            assert theirs.negatives.shape == (1000,) and torch.equal(met_BK, theirs.collides_BK) and met_BK.any()
        else:
            assert theirs.negatives.shape == (16, 1000) and theirs.collides_BK is None and not met_BK.any()


def test_sessions_are_as_they_should_be():
    flat = MemoryStore(4000, 500, 20, seed=0).read(np.array([0]))
    lengths = np.diff(flat.offsets)
    assert set(lengths) == set(range(10, 21)) and abs(lengths.mean() - 15) < 0.2
    skipped = (flat.skips == 1) | (flat.skips == 2)
    assert abs(skipped.mean() - 0.5) < 0.01
    counts = np.sort(np.bincount(flat.tracks, minlength=500))[::-1]
    # The k-th track of 500 has 1 / k of the first one's plays.
    assert counts[0] / counts[9] == pytest.approx(10, rel=0.1)
    assert counts[0] / counts.sum() == pytest.approx(1 / np.sum(1 / np.arange(1, 501)), rel=0.05)


def test_work_by_hand():
    run_of = run_config(config())
    store = MemoryStore(16, 2000, 20, seed=0)
    flat = store.read(np.array([0]))
    lengths = np.diff(flat.offsets)
    batches = plain_batches(run_of, store)
    work = global_work(run_of, batches)
    assert work.positions == work.targets == lengths.sum() - 16
    assert work.pairs == (lengths * (lengths - 1) / 2).sum()
    assert work.lookups == 2 * (lengths.sum() - 16) + 1000
    assert work.unique == len(np.union1d(flat.tracks, batches[0].negatives.numpy()))
    own = run_config(config(negatives="per-session"))
    # Windows of 1,000 that start 64 places apart.
    assert global_work(own, plain_batches(own, store)).lookups == 2 * (lengths.sum() - 16) + 1000 + 15 * 64


def test_open_seconds_counts_no_moment_twice_and_none_outside():
    spans = [(0.0, 2.0), (1.0, 3.0), (1.5, 1.6), (5.0, 9.0)]
    assert open_seconds(spans, 0.0, 10.0) == 7.0
    assert open_seconds(spans, 2.5, 6.0) == 1.5
    assert open_seconds([], 0.0, 1.0) == 0.0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tracks": 1000}, "--tracks 1000 are too few"),
        ({"dim": 12}, "--dim 12 must be a multiple"),
        ({"recipe": "nothing"}, "no recipe 'nothing'"),
        ({"recipe": "in-batch"}, "--baseline none"),
        ({"recipe": "in-batch", "negatives": "per-session", "baseline": "none"}, "needs --negatives shared"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict, sentence: str):
    with pytest.raises(UserError, match=sentence):
        run_config(config(**options))


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"batch": 17}, "--batch"),
        ({"length": 9}, "--length"),
        ({"rounds": 0}, "--rounds"),
        ({"warmup": -1}, "--warmup"),
    ],
)
def test_numbers_are_checked(options: dict, flag: str):
    with pytest.raises(ValueError, match=flag):
        config(**options)


def test_a_compiled_step_needs_a_gpu():
    with pytest.raises(UserError, match="--compile makes kernels for a GPU, and torch sees none here: leave it out"):
        run_config(StepConfig(precision="bf16", compile=True, baseline="none"))
