"""HR@K, NDCG@10 and MRR as one torchmetrics class, correct over any number of ranks."""

import torch
from torch import Tensor
from torchmetrics import Metric

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

    def update(self, rank_B: Tensor) -> None:
        """`rank_B`: int64, 1 is best."""
        rank_B = rank_B.double()
        hits = [(rank_B <= cutoff).double().sum() for cutoff in CUTOFFS]
        gain = torch.where(rank_B <= 10, 1 / torch.log2(rank_B + 1), 0.0).sum()
        self.sums += torch.stack([*hits, gain, (1 / rank_B).sum()])
        self.sessions += len(rank_B)

    def compute(self) -> dict[str, float | int]:
        """`hr@1` .. `hr@20`, `ndcg@10`, `mrr`, and the number of `sessions` they are means over."""
        names = [f"hr@{cutoff}" for cutoff in CUTOFFS] + ["ndcg@10", "mrr"]
        means = self.sums / self.sessions.clamp(min=1)
        return dict(zip(names, means.tolist(), strict=True)) | {"sessions": int(self.sessions)}
