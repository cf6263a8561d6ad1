"""HR@K, NDCG@10, MRR and skip down-ranking as torchmetrics classes, correct over any number of ranks."""

import torch
from torch import Tensor
from torchmetrics import Metric

from skipwise.datapipes.view import counts_as_skipped

CUTOFFS = (1, 5, 10, 20)


class RankMetrics(Metric):
    """Means over sessions of what the target's rank says.

    With one relevant track a session, HR@K is the share of ranks of at most K, NDCG@10 is 1 / log2(rank + 1) within
    the first ten, and MRR is the mean of 1 / rank.
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        zeros = torch.zeros(len(CUTOFFS) + 2, dtype=torch.float64)
        self.add_state("sums", zeros, dist_reduce_fx="sum")
        self.add_state("sessions", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, rank: Tensor) -> None:
        """`rank`: int64 [B], 1 is best."""
        rank_B = rank.double()
        hits = [(rank_B <= cutoff).double().sum() for cutoff in CUTOFFS]
        gain = torch.where(rank_B <= 10, 1 / torch.log2(rank_B + 1), 0.0).sum()
        self.sums += torch.stack([*hits, gain, (1 / rank_B).sum()])
        self.sessions += len(rank_B)

    def compute(self) -> dict[str, float | int]:
        """`hr@1` .. `hr@20`, `ndcg@10`, `mrr`, and the number of `sessions` they are means over."""
        names = [f"hr@{cutoff}" for cutoff in CUTOFFS] + ["ndcg@10", "mrr"]
        means = self.sums / self.sessions.clamp(min=1)
        return dict(zip(names, means.tolist(), strict=True)) | {"sessions": int(self.sessions)}


class SkipRanking(Metric):
    """Skip down-ranking: where next tracks come that the listener skipped, and, beside them, those that were kept.

    A target's percentile rank is the share of its candidates that come after it, 100 * (1 - (rank - 1) / candidates):
    100 is first, 0 last. For skipped tracks lower is better, in percentile rank and in hit rate: a model that learns
    from skips ranks them further down than kept ones (Seshadri & Knees, arXiv 2309.11623).
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(2, 3, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, rank: Tensor, candidates: Tensor, skips: Tensor) -> None:
        """int64 [B] each: the target's rank, among how many others, and the strength at which it was skipped."""
        percentile_rank_B = 100 * (1 - (rank - 1).double() / candidates.clamp(min=1))
        columns = torch.stack([percentile_rank_B, (rank <= 10).double(), torch.ones_like(percentile_rank_B)])
        skipped_B = counts_as_skipped(skips).double()
        self.sums += torch.stack([columns @ skipped_B, columns @ (1 - skipped_B)])

    def compute(self) -> dict[str, float | int]:
        """`{skipped,kept}_percentile_rank`, `_hr@10` and `_sessions`.

        Not `_percentile`: older files have that, and mean 0 is first by it.
        """
        found: dict[str, float | int] = {}
        for name, (percentile_rank, hits, sessions) in zip(("skipped", "kept"), self.sums.tolist(), strict=True):
            found[f"{name}_percentile_rank"] = percentile_rank / max(sessions, 1)
            found[f"{name}_hr@10"] = hits / max(sessions, 1)
            found[f"{name}_sessions"] = int(sessions)
        return found
