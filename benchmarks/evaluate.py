"""`evaluate`: users ranked per second, `paper` and exact `served` with the best rows, against plain PyTorch.

The table has the values training starts from, targets and candidates are drawn uniformly, so that about half of all
rows come before a target: no shortcut that a trained model's high targets would allow is in the figures.

Floor of `served`, for a user: 2 operations for each number of the table at the best rate of a float32
product, and the table's bytes, read once for all users of a call. Of `paper`: the same for the target's and candidates'
rows, whose bytes are each user's own. Left out: comparing, counting, selecting, and communication between ranks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skipwise.benchmarks.baselines.plain_ranking import plain_full, plain_uniform
from skipwise.benchmarks.harness.benchmark_report import Report
from skipwise.benchmarks.harness.config import HISTORY, SEED, EvaluateConfig
from skipwise.benchmarks.harness.floor import Rates, Work, measure_rates
from skipwise.benchmarks.harness.timing import Times, alternate, ratios, whole_machine
from skipwise.common.distributed import barrier, broadcast_object, device, gather_rows, rank, sum_ranks, world_size
from skipwise.models.config import row_block
from skipwise.models.ranking import candidate_counts, candidate_scores, full_counts_and_topk, full_target_scores
from skipwise.models.table import Shard, initialize
from skipwise.models.topk import best_of

PROTOCOLS = ("served", "paper")
_FLOOR_ROWS = 4096


def measure(config: EvaluateConfig) -> Report:
    """Times both protocols in turn with plain."""
    torch.set_float32_matmul_precision("highest")
    users = draw_users(config)
    first, last = row_block(config.tracks, rank(), world_size())
    # Plain ranks on rank 0 alone, by the whole table.
    whole_RD = _rows(config, 0, config.tracks if rank() == 0 else 0)
    rows_RD = whole_RD[first:last] if rank() == 0 else _rows(config, first, last)
    cases: dict[str, Callable[[], Any]] = {
        "served": lambda: ours_full(users, config.top, first, rows_RD),
        "plain served": _alone(lambda: plain_full(*users.inputs(), config.top, whole_RD)),
        "paper": lambda: ours_uniform(users, first, rows_RD),
        "plain paper": _alone(lambda: plain_uniform(users.queries_QD, users.target_Q, users.candidates_QC, whole_RD)),
    }
    agreement = _agreement(cases)
    times = alternate(cases, config.rounds, config.warmup)
    barrier()
    rates = _alone(lambda: measure_rates(_floor_work(config), "fp32", device(), "highest"))()
    return _report(config, times, broadcast_object(rates), broadcast_object(agreement))


@dataclass(frozen=True)
class Users:
    """The queries of both sides, equal on every rank."""

    queries_QD: Tensor
    target_Q: Tensor
    played_QX: Tensor
    candidates_QC: Tensor

    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, targets, and the rows to leave out of the others: history and the target itself."""
        return self.queries_QD, self.target_Q, torch.cat([self.target_Q[:, None], self.played_QX], dim=1)


def draw_users(config: EvaluateConfig) -> Users:
    """Queries normal, rows uniform."""
    generator = torch.Generator().manual_seed(SEED)

    def rows(*shape: int) -> Tensor:
        return torch.randint(config.tracks, shape, generator=generator).to(device())

    queries_QD = torch.randn(config.users, config.dim, generator=generator).to(device())
    return Users(queries_QD, rows(config.users), rows(config.users, HISTORY), rows(config.users, config.candidates))


def ours_full(users: Users, top: int, first: int, rows_RD: Tensor) -> tuple[Tensor, Tensor]:
    """(ranks [Q], best rows [Q, K]), equal on every rank, in one pass over the table."""
    queries_QD, target_Q, excluded_QX = users.inputs()
    target_scores_Q = sum_ranks(full_target_scores(queries_QD, target_Q, first, rows_RD))
    counts, best = full_counts_and_topk(queries_QD, top, target_scores_Q, excluded_QX, first, rows_RD)
    rows_QW, scores_QW = (gather_rows(values_QK.T).T for values_QK in best)  # in rank order, that of the rows
    return 1 + sum_ranks(counts.above_Q + counts.ties_Q), best_of(rows_QW, scores_QW, top)[0]


def ours_uniform(users: Users, first: int, rows_RD: Tensor) -> Tensor:
    """Ranks [Q], equal on every rank, as `skipwise.training.evaluation.evaluator` takes them."""
    rows_QC = torch.cat([users.target_Q[:, None], users.candidates_QC], dim=1)
    scores_QC, own_QC = candidate_scores(users.queries_QD, rows_QC, first, rows_RD)
    target_scores_Q = sum_ranks(scores_QC[:, 0].contiguous())
    above_Q, ties_Q = candidate_counts(scores_QC[:, 1:], target_scores_Q, own_QC[:, 1:])
    return 1 + sum_ranks(above_Q + ties_Q)


def floor_users(config: EvaluateConfig, rates: Rates) -> dict[str, float]:
    """Users per second of each protocol by the terms above."""
    table_bytes = 4 * config.tracks * config.dim
    listed = (1 + config.candidates) * config.dim
    return {
        "served": 1 / (2 * config.tracks * config.dim / rates.product + table_bytes / config.users / rates.copy),
        "paper": 1 / (2 * listed / rates.product + 4 * listed / rates.copy),
    }


def _floor_work(config: EvaluateConfig) -> Work:
    """Of the step's shapes, only that of the logits is needed: all queries by a block of rows."""
    rows = min(config.tracks, _FLOOR_ROWS)
    return Work(config.users, config.users, config.users, rows, rows, rows, config.dim, config.dim, 1, 1, 4)


def _rows(config: EvaluateConfig, first: int, last: int) -> Tensor:
    rows_RD = torch.empty(last - first, config.dim)
    initialize([Shard(first, 0, rows_RD)], config.dim, 0.02, SEED)
    return rows_RD.to(device())


def _alone(case: Callable[[], Any]) -> Callable[[], Any]:
    """The case on rank 0 with the threads of all ranks; the others' turn is empty."""

    def turn() -> Any:
        if rank() != 0:
            return None
        with whole_machine():
            return case()

    return turn


def _agreement(cases: dict[str, Callable[[], Any]]) -> dict[str, float] | None:
    """Shares of the answers that equal plain's, on rank 0. Sums of other order may differ in the last bit."""
    found = {name: case() for name, case in cases.items()}
    if rank() != 0:
        return None
    (ranks_Q, rows_QK), (plain_ranks_Q, plain_rows_QK) = found["served"], found["plain served"]
    return {
        "served_ranks": float((ranks_Q == plain_ranks_Q).double().mean()),
        "served_rows": float((rows_QK == plain_rows_QK).double().mean()),
        "paper_ranks": float((found["paper"] == found["plain paper"]).double().mean()),
    }


def _report(config: EvaluateConfig, times: dict[str, Times], rates: Rates, agreement: dict[str, float]) -> Report:
    floor = floor_users(config, rates)
    figures: dict[str, Any] = {}
    for protocol in PROTOCOLS:
        ours, plain = (config.users / times[name].p50 for name in (protocol, f"plain {protocol}"))
        figures[protocol] = {
            "users_per_s": ours,
            "plain_users_per_s": plain,
            "ratio": ours / plain,
            "floor_users_per_s": floor[protocol],
            "of_floor": ours / floor[protocol],
        }
    rows = [
        [name, *(f"{of[key]:,.0f}" for key in ("users_per_s", "plain_users_per_s"))]
        + [f"{of['ratio']:.2f}", f"{of['floor_users_per_s']:,.0f}", f"{of['of_floor']:.2f}"]
        for name, of in figures.items()
    ]
    samples = {f"{name}_ratio": list(ratios(times[name], times[f"plain {name}"])) for name in PROTOCOLS}
    notes = [
        f"Ranks equal to plain's: {agreement['served_ranks']:.2%} of served's, {agreement['paper_ranks']:.2%} of "
        f"paper's; best rows {agreement['served_rows']:.2%}. The rest are sums rounded in another order.",
        f"Rates measured: float32 product {rates.product / 1e9:,.0f} GFLOP/s, copy {rates.copy / 1e9:,.1f} GB/s.",
    ]
    return Report(
        name="evaluate",
        title=f"Ranking {config.tracks:,} tracks x {config.dim}, {config.users} users a call, best {config.top}",
        figures=figures | {"agreement": agreement, "seconds": {name: of.seconds for name, of in times.items()}},
        samples=samples,
        header=["protocol", "users/s", "plain", "x plain", "floor", "of floor"],
        rows=rows,
        notes=notes,
    )
