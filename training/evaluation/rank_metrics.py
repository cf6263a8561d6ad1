"""The metrics of `skipwise.training.evaluation.metrics` as torchmetrics classes, summed over batches and ranks."""

import torch
from torch import Tensor
from torchmetrics import Metric

from skipwise.datapipes.view import counts_as_skipped
from skipwise.training.evaluation.metrics import METRICS, percentile_rank


class RankMetrics(Metric):
    """Means over sessions of HR@K, NDCG@10 and MRR."""

    full_state_update = False
    sums: Tensor
    sessions: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(len(METRICS), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("sessions", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, rank: Tensor) -> None:
        """`rank`: int64 [B], 1 is best."""
        rank_B = rank.cpu().numpy()
        sums = [torch.from_numpy(metric(rank_B)).sum() for metric in METRICS.values()]
        self.sums += torch.stack(sums).to(self.sums.device)
        self.sessions += len(rank_B)

    def compute(self) -> dict[str, float | int]:
        """`hr@1` .. `hr@20`, `ndcg@10`, `mrr`, and the number of `sessions` they are means over."""
        means = self.sums / self.sessions.clamp(min=1)
        return dict(zip(METRICS, means.tolist(), strict=True)) | {"sessions": int(self.sessions)}


class SkipRanking(Metric):
    """Skip down-ranking: percentile rank and HR@10 of skipped targets, and of kept ones beside them.

    For skipped tracks lower is better: a model that learns from skips ranks them further down than kept ones (Seshadri
    & Knees, arXiv 2309.11623).
    """

    full_state_update = False
    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(2, 3, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, rank: Tensor, candidates: Tensor, skips: Tensor) -> None:
        """int64 [B] each: the target's rank, among how many others, and the strength at which it was skipped."""
        rank_B, candidates_B, skips_B = (values.cpu().numpy() for values in (rank, candidates, skips))
        percentile_rank_B = torch.from_numpy(percentile_rank(rank_B, candidates_B))
        hit_B = torch.from_numpy(METRICS["hr@10"](rank_B))
        columns = torch.stack([percentile_rank_B, hit_B, torch.ones_like(hit_B)])
        skipped_B = torch.from_numpy(counts_as_skipped(skips_B)).double()
        self.sums += torch.stack([columns @ skipped_B, columns @ (1 - skipped_B)]).to(self.sums.device)

    def compute(self) -> dict[str, float | int]:
        """`{skipped,kept}_percentile_rank`, `_hr@10` and `_sessions`.

        Not `_percentile`: files of older versions have that, counted from the other end.
        """
        found: dict[str, float | int] = {}
        for name, (percentile, hits, sessions) in zip(("skipped", "kept"), self.sums.tolist(), strict=True):
            found[f"{name}_percentile_rank"] = percentile / max(sessions, 1)
            found[f"{name}_hr@10"] = hits / max(sessions, 1)
            found[f"{name}_sessions"] = int(sessions)
        return found
