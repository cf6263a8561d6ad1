"""How well the keep head foresees skips, and how the ranking orders what was kept over what was skipped.

Shape legend: B targets, Q targets of all ranks, W upcoming plays, D width of a row, R rows of this rank.
"""

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from skipwise.common.distributed import sum_ranks
from skipwise.datapipes.view import counts_as_skipped
from skipwise.models.dial import keep_query
from skipwise.models.ranking import candidate_scores

CELLS = 15
"""Equal cells of P(kept) of the calibration error."""
_BINS = 1000 * CELLS
"""Of P(kept); two probabilities in one bin count as a tie for the AUC."""


def skip_columns(
    outputs_QX: Tensor,
    queries_QD: Tensor,
    keep_dim: int,
    target_Q: Tensor,
    upcoming_QW: Tensor,
    first: int,
    rows_RD: Tensor,
) -> dict[str, Tensor]:
    """The columns of `TargetRanks` about skips, [Q] each: of the encoder's outputs and of the queries that rank.

    `upcoming_QW`: see `EvaluationBatch.upcoming_BW`. Plays of the kept track itself are no pairs.
    """
    last_Q1 = ((upcoming_QW >= 0).sum(dim=1) - 1).clamp(min=0)[:, None]
    before_QW = torch.arange(upcoming_QW.shape[1], device=target_Q.device) < last_Q1
    pair_QW = before_QW & (upcoming_QW != upcoming_QW.gather(1, last_Q1))

    def won(scores_QW: Tensor) -> Tensor:
        kept_Q1 = scores_QW.gather(1, last_Q1)
        return (pair_QW * ((scores_QW < kept_Q1) + (scores_QW == kept_Q1) / 2)).sum(dim=1)

    scores_QW, _ = candidate_scores(queries_QD, upcoming_QW, first, rows_RD)
    unknown_Q = torch.full_like(target_Q, torch.nan, dtype=torch.float32)
    columns = {"kept_probability": unknown_Q, "pairs": pair_QW.sum(dim=1).to(torch.int16)}
    columns |= {"pairs_won": won(sum_ranks(scores_QW)), "keep_pairs_won": unknown_Q}
    if keep_dim:
        queries_QD, bias_Q1 = keep_query(outputs_QX, keep_dim)
        logits_QY, _ = candidate_scores(queries_QD, torch.cat([target_Q[:, None], upcoming_QW], dim=1), first, rows_RD)
        logits_QY = sum_ranks(logits_QY) + bias_Q1
        columns |= {"kept_probability": logits_QY[:, 0].sigmoid(), "keep_pairs_won": won(logits_QY[:, 1:])}
    return columns


class SkipMetrics(Metric):
    """Next-skip AUC, accuracy and calibration error, and the share of pairs that are in order, over batches and ranks.

    A pair is a skipped track and the next kept one after it, both scored where the next track of the session is to be
    predicted: at each position, the next kept track with each skipped one before it.
    """

    full_state_update = False
    counts: Tensor
    probabilities: Tensor
    pairs: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(2, _BINS, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("probabilities", torch.zeros(CELLS, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("pairs", torch.zeros(3, dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        skips: Tensor,
        kept_probability: Tensor,
        pairs: Tensor,
        pairs_won: Tensor,
        keep_pairs_won: Tensor,
        **_: Tensor,
    ) -> None:
        """Columns of `TargetRanks`, [B] each."""
        self.pairs += torch.stack([values.double().nan_to_num().sum() for values in (pairs, pairs_won, keep_pairs_won)])
        known_B = ~kept_probability.isnan()
        kept_B = torch.from_numpy(~counts_as_skipped(skips.cpu().numpy())).to(known_B.device)[known_B]
        probability_B = kept_probability[known_B].double()
        bin_B = (probability_B * _BINS).long().clamp(max=_BINS - 1)
        self.counts += torch.bincount(bin_B + _BINS * kept_B, minlength=2 * _BINS).view(2, _BINS)
        self.probabilities.index_add_(0, bin_B // (_BINS // CELLS), probability_B)

    def compute(self) -> dict[str, float | int | None]:
        """`next_skip_auc`, `next_skip_accuracy` (at P(kept) 0.5), `next_skip_ece`, each None without a keep head;
        `pairs`, how many, and `pairs_in_order` and `keep_pairs_in_order`, the shares that the ranking and the keep
        head have in order, ties half; None without pairs."""
        skipped_N, kept_N = self.counts.double().cpu().numpy()
        found: dict[str, float | int | None] = dict.fromkeys(
            ("next_skip_auc", "next_skip_accuracy", "next_skip_ece", "pairs_in_order", "keep_pairs_in_order")
        )
        total, (skipped, kept) = self.counts.sum().item(), (skipped_N.sum(), kept_N.sum())
        if total:
            above_N = kept_N.sum() - kept_N.cumsum()
            if skipped and kept:
                found["next_skip_auc"] = float((skipped_N * (above_N + kept_N / 2)).sum() / (skipped * kept))
            half = _BINS // 2
            found["next_skip_accuracy"] = float((skipped_N[:half].sum() + kept_N[half:].sum()) / total)
            kept_C = kept_N.reshape(CELLS, -1).sum(axis=1)
            found["next_skip_ece"] = float(np.abs(self.probabilities.cpu().numpy() - kept_C).sum() / total)
        pairs, won, keep_won = self.pairs.tolist()
        if pairs:
            found["pairs_in_order"] = won / pairs
            if total:
                found["keep_pairs_in_order"] = keep_won / pairs
        return found | {"pairs": int(pairs)}
