"""The figures of `skipwise.training.evaluation.skip_measures` of a model, over batches and ranks.

Shape legend: B targets, Q targets of all ranks, W upcoming plays, D width of a row, R rows of this rank, C cells.
"""

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from skipwise.common.distributed import sum_ranks
from skipwise.datapipes.view import counts_as_kept, is_known
from skipwise.models.dial import keep_query
from skipwise.models.ranking import candidate_scores
from skipwise.training.evaluation.skip_measures import (
    BINS,
    CELLS,
    FORESEEN,
    ORDERED,
    area,
    bins,
    calibration,
    calibration_error,
    mean_average_accuracy,
    pairs_in_order,
)


def skip_columns(
    outputs_QX: Tensor,
    queries_QD: Tensor,
    keep_dim: int,
    target_Q: Tensor,
    upcoming_QW: Tensor,
    first: int,
    rows_RD: Tensor,
    halved_QX: Tensor | None = None,
) -> dict[str, Tensor]:
    """The columns of `TargetRanks` about skips, [Q] each: of the encoder's outputs and of the queries that rank.

    `upcoming_QW`: see `EvaluationBatch.upcoming_BW`; `halved_QX`: the outputs where nothing is known of what happened
    to the plays of the session's second half.
    """

    def in_order(scores_QW: Tensor) -> tuple[Tensor, Tensor]:
        pairs_Q, won_Q = pairs_in_order(upcoming_QW.cpu().numpy(), scores_QW.cpu().numpy())
        return torch.from_numpy(pairs_Q.astype(np.int16)), torch.from_numpy(won_Q.astype(np.float32))

    scores_QW, _ = candidate_scores(queries_QD, upcoming_QW, first, rows_RD)
    unknown_Q = torch.full(target_Q.shape, torch.nan)
    pairs_Q, won_Q = in_order(sum_ranks(scores_QW))
    columns = dict.fromkeys(("kept_probability", "halved_probability", "keep_pairs_won"), unknown_Q)
    columns |= {"pairs": pairs_Q, "pairs_won": won_Q}
    if keep_dim:

        def logits(outputs_QX: Tensor, rows_QY: Tensor) -> Tensor:
            queries_QD, bias_Q1 = keep_query(outputs_QX, keep_dim)
            return sum_ranks(candidate_scores(queries_QD, rows_QY, first, rows_RD)[0]) + bias_Q1

        logits_QY = logits(outputs_QX, torch.cat([target_Q[:, None], upcoming_QW], dim=1))
        columns |= {"kept_probability": logits_QY[:, 0].sigmoid(), "keep_pairs_won": in_order(logits_QY[:, 1:])[1]}
        if halved_QX is not None:
            columns["halved_probability"] = logits(halved_QX, target_Q[:, None])[:, 0].sigmoid()
    return columns


class SkipMetrics(Metric):
    """Next-skip AUC, accuracy, MAA and calibration error, and the share of pairs in order, over batches and ranks.

    A pair is a skipped track and the next kept one after it, both scored where the next track of the session is to be
    predicted: at each position, the next kept track with each skipped one before it.
    """

    full_state_update = False
    counts: Tensor
    probabilities: Tensor
    halves: Tensor
    pairs: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(2, BINS, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("probabilities", torch.zeros(CELLS, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("halves", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("pairs", torch.zeros(3, dtype=torch.float64), dist_reduce_fx="sum")
        self._begun = np.zeros((3, 0), dtype=np.int64)

    def update(
        self,
        session: Tensor,
        position: Tensor,
        plays: Tensor,
        skips: Tensor,
        kept_probability: Tensor,
        halved_probability: Tensor,
        pairs: Tensor,
        pairs_won: Tensor,
        keep_pairs_won: Tensor,
        **_: Tensor,
    ) -> None:
        """Columns of `TargetRanks`, and `EvaluationBatch.plays_B`, [B] each; the targets of a session follow one
        another."""
        self.pairs += torch.stack([values.double().nan_to_num().sum() for values in (pairs, pairs_won, keep_pairs_won)])
        probability_B, halved_B = (
            values.cpu().numpy().astype(float) for values in (kept_probability, halved_probability)
        )
        skips_B = skips.cpu().numpy()
        kept_B, told_B = counts_as_kept(skips_B), is_known(skips_B)
        known_B = ~np.isnan(probability_B) & told_B
        counts = np.bincount(bins(probability_B[known_B]) + BINS * kept_B[known_B], minlength=2 * BINS)
        self.counts += torch.from_numpy(counts.reshape(2, BINS)).to(self.counts.device)
        probability_C = calibration(probability_B[known_B], kept_B[known_B])[1]
        self.probabilities += torch.from_numpy(probability_C).to(self.probabilities.device)
        session_B, position_B, plays_B = (values.cpu().numpy() for values in (session, position, plays))
        right_B = np.where(told_B, (halved_B >= 0.5) == kept_B, -1)
        self._add_halves(np.stack([session_B, plays_B - 1 - position_B, right_B])[:, ~np.isnan(halved_B)])

    def _add_halves(self, here_3P: np.ndarray) -> None:
        """Adds the average accuracy of each second half that ends here; one may go on in the next batch.

        `here_3P`: session, plays left after this one, and whether it was predicted right: 1 or 0, or -1 where
        it is not known what happened.
        """
        session_P, left_P, right_P = found_3P = np.concatenate([self._begun, here_3P], axis=1)
        whole = int(np.flatnonzero(left_P == 0).max(initial=-1)) + 1
        self._begun = found_3P[:, whole:]
        told_P = right_P[:whole] >= 0
        values_M = mean_average_accuracy(right_P[:whole][told_P], session_P[:whole][told_P])
        self.halves += torch.tensor([values_M.sum(), len(values_M)], dtype=torch.float64, device=self.halves.device)

    def compute(self) -> dict[str, float | int | None]:
        """`FORESEEN`, each None without a keep head: AUC, accuracy (at P(kept) 0.5), mean average accuracy (of second
        halves whose flags are not known; None where not all plays of a session are targets), and calibration error.
        `pairs`, how many, and `ORDERED`, ties half; None without pairs."""
        skipped_N, kept_N = self.counts.cpu().numpy()
        found: dict[str, float | int | None] = dict.fromkeys((*FORESEEN, *ORDERED))
        total = int(self.counts.sum())
        if total:
            found["next_skip_auc"] = area(skipped_N[::-1], kept_N[::-1])  # a high P(kept) is a low score of a skip
            half = BINS // 2
            found["next_skip_accuracy"] = float((skipped_N[:half].sum() + kept_N[half:].sum()) / total)
            plays_C, kept_C = ((values_N).reshape(CELLS, -1).sum(axis=1) for values_N in (skipped_N + kept_N, kept_N))
            found["next_skip_ece"] = calibration_error(plays_C, self.probabilities.cpu().numpy(), kept_C)
        sum_, halves = self.halves.tolist()
        if halves:
            found["next_skip_maa"] = sum_ / halves
        pairs, won, keep_won = self.pairs.tolist()
        if pairs:
            found["pairs_in_order"] = won / pairs
            if total:
                found["keep_pairs_in_order"] = keep_won / pairs
        return found | {"pairs": int(pairs)}
