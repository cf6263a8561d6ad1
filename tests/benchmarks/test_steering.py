"""Without steering, the benchmark ranks as brute force does; its report; refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from skipwise.benchmarks.__main__ import run
from skipwise.common.distributed import process_group
from skipwise.common.errors import UserError
from skipwise.training.evaluation.rank_metrics import SkipRanking
from tests.conftest import random_sessions, write_dataset
from tests.support.exports import LONGEST, change, program, write_made

TRACKS, DIM = 60, 8
SESSIONS = random_sessions(40, TRACKS, LONGEST + 3)
ROWS = np.random.default_rng(2).standard_normal((TRACKS, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("steering")
    data = write_dataset(folder / "data", SESSIONS, TRACKS)
    digest = json.loads((data / "manifest.json").read_text())["vocabulary_hash"]
    ids = [f"t_{row:05}" for row in range(TRACKS)]
    change(write_made(folder / "out", ids, ROWS, program(DIM), path=str(data)), vocabulary_hash=digest)
    return folder


def rank_by_hand(tracks: list[int], back: int) -> int:
    heard, target = tracks[:-back], tracks[-back]
    scores = ROWS @ ROWS[heard[-LONGEST:]].mean(axis=0)
    others = set(range(TRACKS)) - set(heard) - {target}
    return 1 + sum(scores[row] >= scores[target] for row in others)


def others(tracks: list[int], back: int) -> int:
    """How many candidates the target is ranked among."""
    return TRACKS - len(set(tracks[:-back]) | {tracks[-back]})


def test_report(made: Path, tmp_path: Path):
    with process_group():
        run(["steering", "--export", str(made / "out"), "--output", str(tmp_path)])
    (report,) = tmp_path.glob("*.json")
    found = json.loads(report.read_text())["steering"]
    for split, back in (("validation", 2), ("test", 1)):
        ranks = np.array([rank_by_hand(tracks, back) for tracks, _ in SESSIONS])
        skipped = np.array([skips[-back] in (1, 2) for _, skips in SESSIONS])
        off = found[split]["off 0"]
        assert off["hr@10"] == pytest.approx((ranks <= 10).mean())
        assert off["kept_hr@10"] == pytest.approx((ranks[~skipped] <= 10).mean())
        assert off["skipped_sessions"] == skipped.sum()
        after = np.array([skips[-back - 1] in (1, 2) for _, skips in SESSIONS])
        assert off["after_skip_hr@10"] == pytest.approx((ranks[after] <= 10).mean())
        assert len(found[split]) == 1 + 3 * 4 and found[split]["skipped 0.5"] != off
        # The report explains the convention that SkipRanking has: a target that ranks first has 100.
        shares = np.array(
            [100 * (1 - (rank - 1) / others(tracks, back)) for rank, (tracks, _) in zip(ranks, SESSIONS, strict=True)]
        )
        assert off["skipped_percentile_rank"] == pytest.approx(shares[skipped].mean(), abs=1e-3)
        assert off["kept_percentile_rank"] == pytest.approx(shares[~skipped].mean(), abs=1e-3)
    page = " ".join(report.with_suffix(".md").read_text().split())
    assert "the share of the candidates that come after the target (100 is first, 0 last)" in page
    assert "For kept targets higher is better; for skipped ones lower is better." in page
    best, last = SkipRanking(), SkipRanking()
    for metric, rank in ((best, 1), (last, 11)):
        metric.update(torch.tensor([rank]), torch.tensor([10]), torch.tensor([1]))
    assert best.compute()["skipped_percentile_rank"] == 100 and last.compute()["skipped_percentile_rank"] == 0


def test_another_vocabulary_is_refused(made: Path, tmp_path: Path):
    other = write_dataset(tmp_path / "data", SESSIONS, TRACKS + 1)
    with process_group(), pytest.raises(UserError, match="has another vocabulary than"):
        run(["steering", "--export", str(made / "out"), "--data", str(other), "--output", str(tmp_path)])
