"""What each setting of the dial costs and gains: measured on validation, and written into the export.

Shape legend: Q targets of all ranks, S positions, D width of a row, X of the encoder's outputs, R rows of this rank, K
tracks recommended, W ranks.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from skipwise.common.distributed import device, gather_rows, rank, world_size
from skipwise.datapipes.batch import EvaluationBatch
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.view import counts_as_skipped
from skipwise.models.dial import dialled, keep_query
from skipwise.models.ranking import candidate_scores, full_topk
from skipwise.models.rows import own_rows
from skipwise.retrieval.skip_entries import DialPoint, KeepEntry
from skipwise.training.build import HeldOut, evaluation_loader, table_weight
from skipwise.training.config import RunConfig
from skipwise.training.evaluation.evaluator import gather_padded, measurable
from skipwise.training.evaluation.measure_ranks import together
from skipwise.training.evaluation.skip_metrics import skip_columns

DIALS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
COST = 0.003
"""The most of HR@10 that the dial `auto` costs."""
_TARGETS = 5000
_K = 10


@dataclass
class _Sums:
    """Over all targets so far, at one setting."""

    hits: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.float64))
    """Of kept and of skipped targets."""
    pairs_won: float = 0.0
    skip_rate: float = 0.0
    listed: int = 0


@torch.no_grad()
def measure_dial(config: RunConfig, store: SessionStore, model: DistributedModelParallel) -> KeepEntry:
    """The curve over some 5,000 targets of sessions that the weights were not trained on; equal on every rank."""
    split, counts = measurable(config)[0], store.manifest.counts
    held_out = HeldOut.of(config.evaluate, store, split)
    a_session = max(counts["plays"] / counts["sessions"] - 1, 1) if held_out.targets == "all" else 1
    sessions = max(int(_TARGETS / a_session), 1)
    first, rows_RD = own_rows(table_weight(model), rank(), world_size())
    sums, targets_2, pairs = [_Sums() for _ in DIALS], torch.zeros(2, dtype=torch.int64), 0
    for batch in together(evaluation_loader(config, held_out, (), split, sessions).epoch(0)):
        outputs_QX, target_Q, heard_QS, upcoming_QW, skipped_Q = _gathered(config, model, batch)
        real_Q = target_Q >= 0
        for place, chosen_Q in enumerate((~skipped_Q & real_Q, skipped_Q & real_Q)):
            targets_2[place] += int(chosen_Q.sum())
        for sum_, dial in zip(sums, DIALS, strict=True):
            queries_QD = dialled(outputs_QX, config.loss.keep_width, dial)
            rows_QK, logits_QK = _best(queries_QD, outputs_QX, config.loss.keep_width, heard_QS, first, rows_RD)
            hit_Q = (rows_QK == target_Q[:, None]).any(dim=1) & real_Q
            sum_.hits += torch.stack([(hit_Q & ~skipped_Q).sum(), (hit_Q & skipped_Q).sum()]).cpu()
            listed_QK = (rows_QK >= 0) & real_Q[:, None]
            sum_.skip_rate += float((1 - logits_QK.sigmoid())[listed_QK].double().sum())
            sum_.listed += int(listed_QK.sum())
            columns = skip_columns(outputs_QX, queries_QD, 0, target_Q, upcoming_QW, first, rows_RD)
            sum_.pairs_won += float(columns["pairs_won"][real_Q.cpu()].sum())
        pairs += int(columns["pairs"][real_Q.cpu()].sum())
    curve = [_point(dial, one, targets_2, pairs) for dial, one in zip(DIALS, sums, strict=True)]
    dim, dial = config.loss.keep_width, gaining_most(curve)
    return KeepEntry(dim=dim, dial=dial, curve=curve, targets=int(targets_2.sum()), split=split)


def gaining_most(curve: list[DialPoint]) -> float:
    """The setting that gains most, of those that cost at most `COST` of HR@10 against the first, 0; lowest of equals.

    Gained are pairs in order, or where there are none, as in a split by position, HR@10 of kept over skipped targets.
    """
    # The figures are quotients of whole numbers: what is exactly at the limit may be a little below it.
    least = curve[0].hr_at_10 - COST - 1e-9
    return max((one for one in curve if one.hr_at_10 >= least), key=_gain).dial


def _gain(point: DialPoint) -> float:
    if point.pairs_in_order is not None:
        return point.pairs_in_order
    if point.kept_hr_at_10 is None or point.skipped_hr_at_10 is None:
        return 0.0
    return point.kept_hr_at_10 - point.skipped_hr_at_10


def _point(dial: float, sums: _Sums, targets_2: Tensor, pairs: int) -> DialPoint:
    kept, skipped = (
        hits / count if count else None for hits, count in zip(sums.hits.tolist(), targets_2.tolist(), strict=True)
    )
    return DialPoint(
        dial=dial,
        hr_at_10=float(sums.hits.sum()) / max(int(targets_2.sum()), 1),
        kept_hr_at_10=kept,
        skipped_hr_at_10=skipped,
        pairs_in_order=sums.pairs_won / pairs if pairs else None,
        skip_rate=sums.skip_rate / max(sums.listed, 1),
    )


def _gathered(
    config: RunConfig, model: DistributedModelParallel, batch: EvaluationBatch
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Outputs [Q, X], targets [Q], tracks heard [Q, S], upcoming ones, and whether the target was skipped [Q]."""
    sessions, task = batch.sessions.to(device()), model.module
    rows_UX, signals_MD = task.look_up(sessions)
    return (
        gather_rows(task.learner.predict(rows_UX, sessions, signals_MD)),
        gather_rows(batch.target_B.to(device())),
        gather_padded(batch.history_BS.to(device())),
        gather_padded(batch.upcoming_BW.to(device())),
        gather_rows(counts_as_skipped(batch.target_skips_B).to(device())),
    )


def _best(
    queries_QD: Tensor, outputs_QX: Tensor, keep_dim: int, heard_QS: Tensor, first: int, rows_RD: Tensor
) -> tuple[Tensor, Tensor]:
    """The best rows [Q, K] of all ranks, -1 where there are no more, and their logits of P(kept)."""
    rows_QK, scores_QK = full_topk(queries_QD, _K, heard_QS, first, rows_RD)
    keep_QD, bias_Q1 = keep_query(outputs_QX, keep_dim)
    logits_QK, _ = candidate_scores(keep_QD, rows_QK, first, rows_RD)
    if world_size() > 1:
        rows_QK, scores_QK, logits_QK = (
            torch.cat(gather_rows(values_QK).split(len(queries_QD)), dim=1)
            for values_QK in (rows_QK, scores_QK, logits_QK)
        )
        # Of equal scores the lower row first, as on one rank.
        best_QK = scores_QK.sort(dim=1, descending=True, stable=True).indices[:, :_K]
        rows_QK, logits_QK = rows_QK.gather(1, best_QK), logits_QK.gather(1, best_QK)
    return rows_QK, logits_QK + bias_Q1
