"""From the counts of each batch's targets to metrics and records, for models and baselines alike.

Shape legend: B targets of this rank's batch, S positions.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from skipwise.common.distributed import device, world_size
from skipwise.datapipes.batch import EvaluationBatch, EvaluationBatches
from skipwise.models.ranking import Counts, distinct
from skipwise.training.config import Protocol, Split
from skipwise.training.evaluation.metrics import METRICS, NOT_ELIGIBLE
from skipwise.training.evaluation.rank_metrics import RankMetrics
from skipwise.training.evaluation.records import TargetRankWriter
from skipwise.training.evaluation.skip_metrics import SkipMetrics

Metrics = dict[str, float | int | None]
"""A split's figures by one protocol, as `RankMetrics.compute` returns them."""


@dataclass(frozen=True)
class Ranked:
    """What the scores of a batch say of its targets."""

    counts: dict[Protocol, Counts]
    """Int64 [B] by protocol, over all rows that the protocol may rank."""
    skips: dict[str, Tensor] = field(default_factory=dict)
    """The columns of `TargetRanks` that distinguish kept and skipped plays; empty for scores without these."""


RanksOf = Callable[[EvaluationBatch], Ranked]


def measure_ranks(
    steps: Iterable[EvaluationBatches],
    ranks_of: RanksOf,
    protocols: Sequence[Protocol],
    split: Split,
    num_rows: int,
    record_in: Path | None,
    cold_N: np.ndarray | None = None,
) -> dict[Protocol, Metrics]:
    """The metrics over all ranks of the targets that `ranks_of` ranks among `num_rows` tracks.

    `paper` leaves out the targets of a session that holds all tracks, as these have no candidates.
    `record_in`: a directory in which the rank of each is written. `cold_N`: bool [num_tracks], targets whose figures
    are given apart too, as `cold_hr@1` and so on.
    """
    cold = {protocol: RankMetrics().to(device()) for protocol in protocols if cold_N is not None}
    metrics, skips = {protocol: RankMetrics().to(device()) for protocol in protocols}, None
    with ExitStack() as closing:
        records = {}
        if record_in:
            for protocol in protocols:
                records[protocol] = closing.enter_context(TargetRankWriter(record_in, protocol, split))
        for batch in together(steps):
            ranked = ranks_of(batch)
            for protocol in protocols:
                columns = _columns(batch, ranked, protocol, num_rows)
                told = {name: values.to(device()) for name, values in columns.items()}
                if protocol == "paper":  # first of one is no hit
                    columns = {name: values[columns["candidates"] > 0] for name, values in columns.items()}
                if record_in:
                    records[protocol].write(**columns)
                metrics[protocol].update(**{name: values.to(device()) for name, values in columns.items()})
                if cold_N is not None:
                    chosen = torch.from_numpy(cold_N)[columns["target"]]
                    cold[protocol].update(**{name: values[chosen].to(device()) for name, values in columns.items()})
            if ranked.skips:
                skips = skips or SkipMetrics().to(device())
                # Every protocol has the same columns about skips.
                skips.update(**told, plays=batch.plays_B[batch.target_B >= 0])
    of_skips = skips.compute() if skips else {}
    found = {protocol: metrics[protocol].compute() | of_skips for protocol in protocols}
    for protocol, of_cold in cold.items():
        values = of_cold.compute()
        found[protocol] |= {f"cold_{name}": values[name] for name in (*METRICS, "targets")}
    return found


def together(steps: Iterable[EvaluationBatches]) -> Iterator[EvaluationBatch]:
    """Each rank's batches one by one; a rank that has fewer of a step adds empty ones."""
    for batches in steps:
        most = torch.tensor(len(batches), device=device())
        if world_size() > 1:
            dist.all_reduce(most, op=dist.ReduceOp.MAX)
        yield from batches
        for _ in range(int(most) - len(batches)):
            yield batches[0].emptied()


def _columns(batch: EvaluationBatch, ranked: Ranked, protocol: Protocol, num_rows: int) -> dict[str, Tensor]:
    """A record of each target: the columns of `TargetRanks`."""
    repeated_B, counts = batch.repeated_B, ranked.counts[protocol]
    candidates_B = torch.full_like(batch.target_B, num_rows - 1)
    rank_B, ties_B = 1 + counts.above_Q.cpu(), counts.ties_Q.cpu()
    if protocol == "paper":
        candidates_B = (batch.candidates_BC >= 0).sum(dim=1)
    elif protocol == "served":
        candidates_B = num_rows - 1 - (distinct(batch.history_BS) >= 0).sum(dim=1) + repeated_B.long()
        rank_B = torch.where(repeated_B, NOT_ELIGIBLE, rank_B)
    columns = {
        "session": batch.sessions.session_B,
        "rank": rank_B,
        "ties": ties_B,
        "candidates": candidates_B,
        "skips": batch.target_skips_B,
        "repeated": repeated_B,
        "position": batch.position_B,
        "target": batch.target_B,
    } | ranked.skips
    return {name: values[batch.target_B >= 0] for name, values in columns.items()}
