"""The whole model: lookup, encoder, losses. The lookup comes first, so that TorchRec can pipeline it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from skipwise.common.distributed import sum_ranks, world_size
from skipwise.datapipes.batch import SessionBatch
from skipwise.models.config import LossConfig
from skipwise.models.encoder import Encoder, Packed
from skipwise.models.heads import gbce_power, sampled_softmax, skip_infonce
from skipwise.models.heard import heard_logits
from skipwise.models.in_batch import in_batch_pool
from skipwise.models.pool import Head, gbce_head, pool_losses, softmax_head


@dataclass
class StepLosses:
    """Detached means over the global batch, for the log: `total`, `nll` (the next-track head) and `nce` (zero
    without a skip head)."""

    total: Tensor
    nll: Tensor
    nce: Tensor


class SessionTask(nn.Module):
    """The table, and the learner over its rows."""

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

    def __init__(
        self,
        encoder: Encoder,
        loss: LossConfig,
        autocast: torch.dtype | None,
        num_tracks: int,
        heard_negatives: bool = False,
    ):
        """`autocast`: the dtype of matrix products in training, None for the table's own."""
        super().__init__()
        self.encoder, self.loss, self.autocast, self.num_tracks = encoder, loss, autocast, num_tracks
        self.heard_negatives = heard_negatives
        # Of this rank's last step, for `NonFiniteCheck`.
        self.own_loss = self.own_row_gradient = torch.zeros(())
        self.own_sessions = torch.empty(0, dtype=torch.int64)

    def forward(self, rows_UD: Tensor, batch: SessionBatch) -> tuple[Tensor, StepLosses]:
        """Means are over the positions of all ranks: without dropout, any number of ranks takes the same step."""
        batch_size, length = batch.items_BT.shape
        target_at_V = batch.targets_BT.flatten()[batch.queries_V]
        wanted = batch.items_BT.flatten(), target_at_V, batch.negatives_P
        # One gather of all rows that are needed, hence one sum of gradients into them.
        items_PD, targets_VD, pool_PD = nn.functional.embedding(torch.cat(wanted), rows_UD).split(
            list(map(len, wanted))
        )
        items_BTD = items_PD.view(batch_size, length, rows_UD.shape[1])
        places = Packed(batch_size, length, batch.tokens_N)
        with torch.autocast(rows_UD.device.type, self.autocast, enabled=self.autocast is not None):
            predictions_ND = self.encoder(places.collect(items_BTD), places, batch.inputs_B, batch.masked_BT)
        queries_VD = predictions_ND
        if len(batch.queries_V) != len(batch.tokens_N):
            queries_VD = predictions_ND[torch.searchsorted(batch.tokens_N, batch.queries_V)]
        if self.loss.in_batch:
            nll = self._in_batch_losses(rows_UD, queries_VD, targets_VD, target_at_V, batch)
        else:
            beside_V = None
            if self.heard_negatives:
                causal = self.encoder.config.direction == "unidirectional"
                beside_V = heard_logits(places.spread(predictions_ND), items_BTD, batch, causal)
            nll = self._pool_losses(queries_VD, targets_VD, pool_PD, beside_V, batch)
        nce, nce_count = nll.new_zeros(()), nll.new_zeros(())
        if self.loss.context != "none":
            output_BTD = places.spread(predictions_ND).float() if self.loss.context == "output" else None
            nce_BT, counts_BT = skip_infonce(
                output_BTD,
                items_BTD,
                batch.skipped_BT,
                batch.items_BT != len(rows_UD) - 1,
                batch.skips_of_B if len(batch.skips_of_B) else None,
                self.loss.temperature,
                self.loss.queries,
                batch.items_BT if self.loss.mask_repeats else None,
            )
            nce, nce_count = nce_BT.sum(), counts_BT.sum()
        self._note(rows_UD, (nll + nce).detach(), batch.session_B)
        sums = torch.stack([nll.detach(), nce.detach(), nll.new_tensor(len(queries_VD)), nce_count.to(nll.dtype)])
        sums = sum_ranks(sums)
        counts = sums[2:].clamp(min=1)
        # TorchRec and DDP average gradients over ranks; times their number is the sum that a mean over all needs.
        loss = world_size() * (self.loss.beta * nll / counts[0] + self.loss.alpha * nce / counts[1])
        means = sums[:2] / counts
        total = self.loss.beta * means[0] + self.loss.alpha * means[1]
        return loss, StepLosses(total, means[0], means[1])

    def _note(self, rows_UD: Tensor, loss: Tensor, session_B: Tensor) -> None:
        def note_gradient(grad_UD: Tensor) -> None:
            self.own_row_gradient = grad_UD.sum()

        self.own_loss, self.own_sessions = loss, session_B
        if rows_UD.requires_grad:
            rows_UD.register_hook(note_gradient)

    def predict(self, rows_UD: Tensor, batch: SessionBatch) -> Tensor:
        """Queries [B, D]: the prediction at each session's last input position, in full precision."""
        items_BTD = nn.functional.embedding(batch.items_BT, rows_UD)
        return self.encoder.queries(items_BTD, batch.inputs_B, batch.masked_BT)

    def _in_batch_losses(
        self, rows_UD: Tensor, queries_VD: Tensor, targets_VD: Tensor, target_at_V: Tensor, batch: SessionBatch
    ) -> Tensor:
        """The sum of the losses."""
        rows_WD, bias_BW, log_expected_U = in_batch_pool(rows_UD, batch, self.num_tracks)
        with torch.autocast(rows_UD.device.type, self.autocast, enabled=self.autocast is not None):
            logits_VW = (queries_VD @ rows_WD.T).float() + bias_BW[batch.queries_V // batch.items_BT.shape[1]]
            target_V = (queries_VD * targets_VD).sum(-1).float()
        return sampled_softmax(target_V - log_expected_U[target_at_V], logits_VW).sum()

    def _pool_losses(
        self,
        queries_VD: Tensor,
        targets_VD: Tensor,
        pool_PD: Tensor,
        beside_V: Tensor | None,
        batch: SessionBatch,
    ) -> Tensor:
        session_V = batch.queries_V // batch.items_BT.shape[1]
        window_V2 = batch.window_B2[session_V]
        collides_Y2 = _by_position(batch.collides_X2, session_V, len(batch.items_BT))
        head: Head = softmax_head
        if self.loss.head == "gbce":
            power = gbce_power(self.loss.calibration, batch.negatives, self.num_tracks)
            head = gbce_head(power, batch.negatives)
        return pool_losses(queries_VD, targets_VD, pool_PD, window_V2, collides_Y2, head, beside_V)


def _by_position(collides_X2: Tensor, session_V: Tensor, sessions: int) -> Tensor:
    """(position, place) pairs: each collision once for every position of its session, ascending by position."""
    first_S = torch.searchsorted(session_V, torch.arange(sessions + 1, device=session_V.device))
    session_X, place_X = collides_X2.unbind(1)
    count_X = first_S[session_X + 1] - first_S[session_X]
    source_Y = torch.repeat_interleave(count_X)
    nth_Y = torch.arange(len(source_Y), device=source_Y.device) - (count_X.cumsum(0) - count_X)[source_Y]
    pairs_Y2 = torch.stack([first_S[session_X][source_Y] + nth_Y, place_X[source_Y]], dim=1)
    return pairs_Y2[pairs_Y2[:, 0].argsort()]
