"""The plain loader's batches worked by hand, the time spent waiting, and the report's figures."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from skipwise.benchmarks.__main__ import run
from skipwise.benchmarks.baselines.plain_pipe import collate, plain_loader, read_rows
from skipwise.benchmarks.pipeline import timed_waits
from skipwise.common.errors import UserError
from skipwise.components.recipes import RECIPES
from skipwise.datapipes.sessions import SessionStore
from tests.conftest import random_sessions


def test_plain_batch_as_worked_by_hand():
    """The last two tracks are held out; a position's target is the next track."""
    rows = [([5, 6, 7, 8, 9], [0, 1, 2, 3, 0]), ([1, 2, 3], [2, 0, 0])]
    tracks_BT, skipped_BT, targets_BT, negatives_K = collate(rows, RECIPES["best"](), num_tracks=50)
    assert tracks_BT.tolist() == [[5, 6, 7], [1, -1, -1]]
    assert targets_BT.tolist() == [[6, 7, -1], [-1, -1, -1]]
    assert skipped_BT.tolist() == [[False, True, True], [True, False, False]]
    assert negatives_K.shape == (1000,) and 0 <= negatives_K.min() <= negatives_K.max() < 50


def test_plain_ranks_read_every_session_once(make_dataset: Callable[..., Path]):
    sessions = random_sessions(40, 30)
    store = SessionStore(str(make_dataset(sessions, 30)))
    shares = [read_rows(store, rank, 3) for rank in range(3)]
    assert sorted(row for share in shares for row in share) == sorted(sessions)
    config = RECIPES["best"]()
    config = replace(config, data=replace(config.data, batch_size=32))
    assert [len(tracks_BT) for tracks_BT, *_ in plain_loader(config, shares[0], 30, 2)] == [16] * (
        len(shares[0]) // 16
    ) + ([len(shares[0]) % 16] if len(shares[0]) % 16 else [])


def slow_batches() -> Iterator[int]:
    for step in range(3):
        time.sleep(0.02)
        yield step


def test_waits_are_of_waiting_alone():
    waits, steps = [], []
    for step in timed_waits(slow_batches(), waits):
        time.sleep(0.05)
        steps.append(step)
    assert steps == [0, 1, 2]
    assert 0.06 <= sum(waits) < 0.14


def test_report(make_dataset: Callable[..., Path], tmp_path: Path):
    data, file = make_dataset(random_sessions(256, 1200), 1200, 64), tmp_path / "pipeline.json"
    words = ["--data", str(data), "--batch", "16", "--steps", "3", "--rounds", "2", "--warmup", "0"]
    run(["pipeline", *words, "--output", str(tmp_path), "--json", str(file)])
    content = json.loads(file.read_text())
    assert (content["sessions"], content["tracks"]) == (256, 1200)
    seconds, samples = content["epoch_seconds"], content["samples"]
    expected = [slow / fast for fast, slow in zip(seconds["pipe, 0 workers"], seconds["plain"], strict=True)]
    assert samples["pipe on one core / plain"] == pytest.approx(expected)
    assert samples["share of a step that does not wait"] == pytest.approx(
        [1 - share for share in content["wait_share"]]
    )
    assert all(0 <= share < 1 for share in content["wait_share"])
    rate, step = 256 / seconds["pipe, 0 workers"][0], 16 / content["step_seconds"][0]
    assert samples["pipe on one core / training"][0] == pytest.approx(rate / step)


def test_refusals(make_dataset: Callable[..., Path]):
    data = str(make_dataset(random_sessions(64, 1200), 1200))
    with pytest.raises(UserError, match="64 sessions are 4 batches of --batch 16, and 14 are needed: raise --sessions"):
        run(["pipeline", "--data", data, "--batch", "16", "--steps", "2"])
    with pytest.raises(UserError, match="--batch 17 does not go with the recipe best: .* multiple of --data.lanes 16"):
        run(["pipeline", "--data", data, "--batch", "17"])
