"""The whole model: look rows up first, then encode, then score. TorchRec pipelines the lookup, so it comes first."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from datapipes.batch import SessionBatch
from models.encoder import Encoder
from models.heads import LossConfig, gbce, sampled_softmax, skip_infonce
from models.in_batch import in_batch_pool

# Up to this many rows a negative, all rows' logits and a choice among them cost less than each session's own rows.
_DENSE = 8


@dataclass
class StepLosses:
    """Detached means over the global batch, for the log: `total`, `nll` (the next-track head) and `nce` (zero
    without a skip head)."""

    total: Tensor
    nll: Tensor
    nce: Tensor


class SessionTask(nn.Module):
    """The table and what learns from its rows."""

    def __init__(self, table: EmbeddingBagCollection, learner: "Learner"):
        super().__init__()
        self.table = table
        self.learner = learner

    def forward(self, batch: SessionBatch) -> tuple[Tensor, StepLosses]:
        """The loss to run backward on, and its parts."""
        rows_UD = self.table(batch.tracks).values()
        return self.learner(rows_UD, batch)


class Learner(nn.Module):
    """Encoder and heads over looked-up rows [U, D]."""

    def __init__(self, encoder: Encoder, loss: LossConfig, autocast: torch.dtype | None, tracks: int):
        """`autocast`: the dtype of matrix products in training, None for the table's own; `tracks`: the catalogue's
        size, which tells how thinly negatives were drawn."""
        super().__init__()
        self.encoder, self.loss, self.autocast, self.tracks = encoder, loss, autocast, tracks

    def forward(self, rows_UD: Tensor, batch: SessionBatch) -> tuple[Tensor, StepLosses]:
        """Means run over the positions of all ranks, so that any number of ranks takes the same step."""
        with torch.autocast(rows_UD.device.type, self.autocast, enabled=self.autocast is not None):
            items_BTD = nn.functional.embedding(batch.items_BT, rows_UD)
            predictions_BTD = self.encoder(items_BTD, batch.inputs_B, batch.masked_BT)
            nll_V = self._next_track_losses(rows_UD, predictions_BTD, batch)
        nll = nll_V.sum()
        nce, nce_count = nll.new_zeros(()), nll.new_zeros(())
        if self.loss.context != "none":
            context_BTD = items_BTD if self.loss.context == "track" else predictions_BTD.to(items_BTD.dtype)
            valid_BT = batch.items_BT != len(rows_UD) - 1
            nce_BT, counts_BT = skip_infonce(
                context_BTD,
                items_BTD,
                batch.skipped_BT,
                valid_BT,
                batch.skips_of_B,
                self.loss.temperature,
                self.loss.queries,
            )
            nce, nce_count = nce_BT.sum(), counts_BT.sum()
        sums = torch.stack([nll.detach(), nce.detach(), nll.new_tensor(len(nll_V)), nce_count.to(nll.dtype)])
        ranks = 1
        if dist.is_initialized() and dist.get_world_size() > 1:
            ranks = dist.get_world_size()
            dist.all_reduce(sums)
        counts = sums[2:].clamp(min=1)
        # TorchRec and DDP average gradients over ranks; times `ranks` makes that the sum a mean over all needs.
        loss = ranks * (self.loss.beta * nll / counts[0] + self.loss.alpha * nce / counts[1])
        means = sums[:2] / counts
        total = self.loss.beta * means[0] + self.loss.alpha * means[1]
        return loss, StepLosses(total, means[0], means[1])

    def predict(self, rows_UD: Tensor, batch: SessionBatch) -> Tensor:
        """Queries [B, D]: the prediction at each session's last input position, in full precision."""
        items_BTD = nn.functional.embedding(batch.items_BT, rows_UD)
        predictions_BTD = self.encoder(items_BTD, batch.inputs_B, batch.masked_BT)
        last_B = (batch.inputs_B - 1).clamp(min=0)
        return predictions_BTD[torch.arange(len(last_B), device=last_B.device), last_B]

    def _next_track_losses(self, rows_UD: Tensor, predictions_BTD: Tensor, batch: SessionBatch) -> Tensor:
        """[V], float32: one value a position with a target."""
        predicts_BT = batch.targets_BT != len(rows_UD) - 1
        session_V, place_V = predicts_BT.nonzero(as_tuple=True)
        queries_VD, target_at_V = predictions_BTD[session_V, place_V], batch.targets_BT[session_V, place_V]
        targets_VD = nn.functional.embedding(target_at_V, rows_UD)
        target_V = (queries_VD * targets_VD).sum(-1).float()
        if self.loss.in_batch:
            pool = in_batch_pool(rows_UD, batch, self.tracks)
            logits_VW = (queries_VD @ pool.rows_WD.T).float() + pool.bias_BW[session_V]
            return sampled_softmax(target_V - pool.log_expected_U[target_at_V], logits_VW)
        negatives = batch.negatives
        if negatives.dim() == 1:
            logits_VK = (queries_VD @ nn.functional.embedding(negatives, rows_UD).T).float()
            logits_VK = logits_VK.masked_fill(batch.collides_BK[session_V], float("-inf"))
        elif len(rows_UD) < _DENSE * negatives.shape[1]:
            logits_VK = (queries_VD @ rows_UD.T).gather(1, negatives[session_V]).float()
        else:
            negatives_BKD = nn.functional.embedding(negatives, rows_UD)
            logits_VK = (predictions_BTD @ negatives_BKD.transpose(1, 2))[session_V, place_V].float()
        if self.loss.head == "gbce":
            return gbce(target_V, logits_VK, self.tracks, self.loss.calibration)
        return sampled_softmax(target_V, logits_VK)
