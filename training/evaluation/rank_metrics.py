"""The metrics of `skipwise.training.evaluation.metrics` as a torchmetrics class, summed over batches and ranks."""

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from skipwise.datapipes.view import counts_as_kept, counts_as_skipped
from skipwise.training.evaluation.metrics import GROUPS, METRICS, percentile_rank


class RankMetrics(Metric):
    """Means over all targets, and over each of `GROUPS`, of HR@K, NDCG@10, MRR and the percentile rank.

    Skipped targets should rank lower than by the same model without skips (Seshadri & Knees, arXiv 2309.11623); that
    they rank lower than kept ones says little, as a model that is blind to skips does that too.
    """

    full_state_update = False
    sums: Tensor
    targets: Tensor
    sessions: Tensor

    def __init__(self) -> None:
        super().__init__()
        groups = 1 + len(GROUPS)
        self.add_state("sums", torch.zeros(groups, len(METRICS) + 1, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("targets", torch.zeros(groups, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("sessions", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self._last_session = -1

    def update(
        self,
        session: Tensor,
        rank: Tensor,
        ties: Tensor,
        candidates: Tensor,
        skips: Tensor,
        repeated: Tensor,
        **_: Tensor,
    ) -> None:
        """Columns of `TargetRanks`, [B] each; the targets of a session follow one another."""
        session_B, rank_B, ties_B, candidates_B, skips_B, repeated_B = (
            values.cpu().numpy() for values in (session, rank, ties, candidates, skips, repeated)
        )
        values_BM = np.stack(
            [
                *(metric(rank_B, ties_B) for metric in METRICS.values()),
                percentile_rank(rank_B, ties_B, candidates_B),
            ],
            axis=1,
        )
        kept_B, skipped_B = counts_as_kept(skips_B), counts_as_skipped(skips_B)
        chosen_GB = np.stack([np.ones_like(skipped_B), kept_B, skipped_B, ~repeated_B, repeated_B])
        self.sums += torch.from_numpy(chosen_GB.astype(float) @ values_BM).to(self.sums.device)
        self.targets += torch.from_numpy(chosen_GB.sum(axis=1)).to(self.targets.device)
        if len(session_B):
            self.sessions += int((np.diff(session_B, prepend=self._last_session) != 0).sum())
            self._last_session = int(session_B[-1])

    def compute(self) -> dict[str, float | int | None]:
        """`hr@1` .. `mrr`, `percentile_rank`, `targets` and `sessions`, and `kept_hr@1` and so on for each group.

        None where there is no target.
        """
        found: dict[str, float | int | None] = {"sessions": int(self.sessions)}
        names = (*METRICS, "percentile_rank")
        for group, sums_M, count in zip(("", *GROUPS), self.sums.tolist(), self.targets.tolist(), strict=True):
            prefix = f"{group}_" if group else ""
            found[f"{prefix}targets"] = count
            found |= {
                f"{prefix}{name}": value / count if count else None for name, value in zip(names, sums_M, strict=True)
            }
        return found
