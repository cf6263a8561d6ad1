"""Both sides of `evaluate` rank alike, on one rank and on two; its floor as worked by hand; its report's figures."""

import json
from pathlib import Path

import pytest
import torch

from skipwise.benchmarks.__main__ import run
from skipwise.benchmarks.baselines.plain_ranking import plain_full, plain_uniform
from skipwise.benchmarks.evaluate import _rows, draw_users, floor_users, ours_full, ours_uniform
from skipwise.benchmarks.harness.config import EvaluateConfig
from skipwise.benchmarks.harness.floor import Rates
from skipwise.common.distributed import process_group, rank, world_size
from skipwise.models.config import row_block
from tests.ranks import run_on_ranks

SMALL = EvaluateConfig(tracks=900, dim=8, users=70, top=7, candidates=30)


def ours(config: EvaluateConfig) -> list[torch.Tensor]:
    first, last = row_block(config.tracks, rank(), world_size())
    users, rows_RD = draw_users(config), _rows(config, first, last)
    return [*ours_full(users, config.top, first, rows_RD), ours_uniform(users, first, rows_RD)]


def brute_force(config: EvaluateConfig) -> list[list]:
    """In float64, one user after the other, by sets and a sort."""
    users, table = draw_users(config), _rows(config, 0, config.tracks).double()
    ranks_full, best, ranks_uniform = [], [], []
    for user, query in enumerate(users.queries_QD.double()):
        scores = (table @ query).tolist()
        target = int(users.target_Q[user])
        left = set(range(config.tracks)) - {target, *users.played_QX[user].tolist()}
        ranks_full.append(1 + sum(scores[row] >= scores[target] for row in left))
        best.append(sorted(left, key=lambda row: -scores[row])[: config.top])
        ranks_uniform.append(1 + sum(scores[row] >= scores[target] for row in users.candidates_QC[user].tolist()))
    return [ranks_full, best, ranks_uniform]


def test_ours_and_plain_equal_brute_force():
    users, table = draw_users(SMALL), _rows(SMALL, 0, SMALL.tracks)
    plain = plain_full(*users.inputs(), SMALL.top, table)
    plain = [*plain, plain_uniform(users.queries_QD, users.target_Q, users.candidates_QC, table)]
    assert brute_force(SMALL) == [found.tolist() for found in ours(SMALL)] == [found.tolist() for found in plain]


@pytest.mark.ranks
def test_two_ranks_answer_as_one(tmp_path: Path):
    expected = brute_force(SMALL)
    assert [[found.tolist() for found in of] for of in run_on_ranks(tmp_path, 2, ours, SMALL)] == [expected] * 2


def test_floor_by_hand():
    config = EvaluateConfig(tracks=100, dim=8, users=10, candidates=49)
    rates = Rates(product=1600, copy=320, cache=1)
    # 2 * 8 * 100 operations, and 4 * 8 * 100 bytes shared by 10 users; 2 * 8 * 50 and 4 * 8 * 50 of one's own.
    assert floor_users(config, rates) == {"served": 1 / (1 + 1), "paper": 1 / (0.5 + 5)}


def test_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("skipwise.benchmarks.harness.floor._SECONDS_EACH", 0.0)
    monkeypatch.setattr("skipwise.benchmarks.harness.floor._COPIED_NUMBERS", 1024)
    options = "--tracks 900 --dim 8 --users 70 --top 7 --candidates 30 --rounds 3 --warmup 1".split()
    with process_group():
        run(["evaluate", *options, "--output", str(tmp_path), "--json", str(tmp_path / "copy.json")])
    content = json.loads((tmp_path / "copy.json").read_text())
    for protocol in ("served", "paper"):
        of = content[protocol]
        assert set(of) == {"users_per_s", "plain_users_per_s", "ratio", "floor_users_per_s", "of_floor"}
        assert of["ratio"] == pytest.approx(of["users_per_s"] / of["plain_users_per_s"])
        assert of["of_floor"] == pytest.approx(of["users_per_s"] / of["floor_users_per_s"])
        assert len(content["samples"][f"{protocol}_ratio"]) == 3
    assert content["agreement"] == {"served_ranks": 1, "served_rows": 1, "paper_ranks": 1}


@pytest.mark.parametrize(("field", "value"), [("dim", 6), ("users", 0), ("top", 0), ("rounds", 0), ("warmup", -1)])
def test_refusals_name_the_flag(field: str, value: int):
    with pytest.raises(ValueError, match=f"--{field}"):
        EvaluateConfig(**{field: value})


def test_history_must_leave_enough():
    with pytest.raises(ValueError, match="--top 20.*--tracks 25"):
        EvaluateConfig(tracks=25)
