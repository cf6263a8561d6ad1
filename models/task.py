"""The whole model: lookup, encoder, losses. The lookup comes first, so that TorchRec can pipeline it."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torchrec.distributed.types import Awaitable
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from skipwise.common.distributed import sum_ranks, world_size
from skipwise.datapipes.bags import bags_of
from skipwise.datapipes.batch import FEATURE, SIGNAL_FEATURE, SessionBatch
from skipwise.datapipes.signals import Signals
from skipwise.datapipes.track_features import TrackFeatures
from skipwise.models.config import LossConfig
from skipwise.models.content import ContentRows
from skipwise.models.encoder import Encoder
from skipwise.models.heads import gbce_power, keep_losses, skip_infonce
from skipwise.models.in_batch import in_batch_pool
from skipwise.models.packed import Packed
from skipwise.models.pool import Bias, Head, compiled_softmax_head, gbce_head, hardest, pool_losses, softmax_head
from skipwise.models.profile import ReadProfile
from skipwise.models.recurring_products import compiled
from skipwise.models.session_negatives import session_logits
from skipwise.models.time_bias import played_after


@dataclass
class StepLosses:
    """Detached means over the global batch, for the log: `total`, `nll` (the next-track head), `nce` (zero without a
    skip head) and `keep` (zero without a keep head)."""

    total: Tensor
    nll: Tensor
    nce: Tensor
    keep: Tensor


class SessionTask(nn.Module):
    """The tables, and the learner over their rows."""

    def __init__(
        self,
        table: EmbeddingBagCollection,
        learner: "Learner",
        num_signals: int = 0,
        content: ContentRows | None = None,
    ):
        """`num_signals`: rows of the signals' table; `content`: what features add to the tracks' rows, if any."""
        super().__init__()
        self.table = table
        self.learner = learner
        self.content = content
        self.num_signals = num_signals

    def forward(self, batch: SessionBatch) -> tuple[Tensor, StepLosses]:
        """The loss to run backward on, and its parts."""
        rows_UX, signals_MD = self.look_up(batch)
        return self.learner(rows_UX, batch, signals_MD)

    def look_up(self, batch: SessionBatch) -> tuple[Tensor, Tensor | None]:
        """The rows [U, X] of the batch's tracks, and all rows [M, D] of signals, None for a model that reads none."""
        found = self.table(batch.tracks)
        if not self.num_signals and self.content is None:
            return found.values(), None
        signals_MD = found[SIGNAL_FEATURE][: self.num_signals] if self.num_signals else None
        if self.content is None:
            rows_UX = found[FEATURE]
            # Still awaited; only torch's functions take that for a tensor, `len` and autograd's functions do not.
            return (rows_UX.wait() if isinstance(rows_UX, Awaitable) else rows_UX), signals_MD
        return self.content(found, batch.numbers_UF, batch.shares_UC, batch.own_U), signals_MD

    @torch.no_grad()
    def track_rows(self, rows: np.ndarray, num_bags: int, features: TrackFeatures) -> Tensor:
        """[R, X]: the rows of these tracks, distinct and ascending, as `look_up` gives them; all ranks call it with
        the same `num_bags`, at least R and the rows of signals."""
        assert self.content is not None
        device = next(self.learner.parameters()).device
        ids, fields = bags_of(rows, num_bags, self.num_signals, features)
        numbers_UF, shares_UC = (torch.from_numpy(fields[name]).to(device) for name in ("numbers_UF", "shares_UC"))
        found = self.table(ids.to(device))
        return self.content(found, numbers_UF, shares_UC, torch.ones(num_bags, device=device))[: len(rows)]


class Learner(nn.Module):
    """Encoder and heads over looked-up rows [U, X]: a track's embedding, and with a keep head its F columns."""

    pauses_M: Tensor | None

    def __init__(
        self,
        encoder: Encoder,
        loss: LossConfig,
        autocast: torch.dtype | None,
        num_tracks: int,
        heard_negatives: bool = False,
        skipped_negatives: float = 0.0,
        signals: Signals | None = None,
    ):
        """`autocast`: the dtype of matrix products in training, None for the table's own; negatives: `DataConfig`;
        `signals`: what is read of plays, of which an encoder that reads times takes the pauses."""
        super().__init__()
        pauses_M = torch.tensor(signals.pauses()) if signals is not None and encoder.config.times else None
        self.register_buffer("pauses_M", pauses_M, persistent=False)
        self.encoder, self.loss, self.autocast, self.num_tracks = encoder, loss, autocast, num_tracks
        self.heard_negatives, self.skipped_negatives = heard_negatives, skipped_negatives
        # Of this rank's last step, for `NonFiniteCheck`.
        self.own_loss = self.own_row_gradient = torch.zeros(())
        self.own_sessions = torch.empty(0, dtype=torch.int64)

    def forward(
        self, rows_UX: Tensor, batch: SessionBatch, signals_MD: Tensor | None = None
    ) -> tuple[Tensor, StepLosses]:
        """Means are over the positions of all ranks: without dropout, any number of ranks takes the same step."""
        batch_size, length = batch.items_BT.shape
        dim = rows_UX.shape[1] - self.loss.keep_width
        # A slice's gradient is a copy: where the embedding is all of a row, none is made.
        rows_UD = rows_UX[:, :dim] if self.loss.keep else rows_UX
        target_at_V = batch.targets_BT.flatten()[batch.queries_V]
        drawn_P = batch.negatives_P[:0] if self.loss.in_batch else batch.negatives_P  # those are in the exchanged pool
        wanted = batch.items_BT.flatten(), target_at_V, drawn_P, batch.profile_BK.flatten()
        # One gather of all rows that are needed, hence one sum of gradients into them.
        items_PD, targets_VD, pool_PD, profiles_PD = nn.functional.embedding(torch.cat(wanted), rows_UD).split(
            list(map(len, wanted))
        )
        items_BTD = items_PD.view(batch_size, length, dim)
        places = Packed(batch_size, length, batch.tokens_N)
        with torch.autocast(rows_UX.device.type, self.autocast, enabled=self.autocast is not None):
            signals_BTD = _signals(signals_MD, batch)
            signals_ND = None if signals_BTD is None else places.collect(signals_BTD)
            items_ND, profile = places.collect(items_BTD), self._profile(profiles_PD, batch)
            pauses_BT = self._pauses(batch)
            outputs_NX = self.encoder(items_ND, places, batch.inputs_B, batch.masked_BT, signals_ND, profile, pauses_BT)
        predictions_ND = outputs_NX[:, :dim] if self.loss.keep else outputs_NX
        queries_VD = predictions_ND
        if len(batch.queries_V) != len(batch.tokens_N):
            queries_VD = predictions_ND[torch.searchsorted(batch.tokens_N, batch.queries_V)]
        beside_V = None
        if self.heard_negatives or self.skipped_negatives:
            beside_V = session_logits(
                places.spread(predictions_ND),
                items_BTD,
                batch,
                self.encoder.config.direction == "unidirectional",
                self.heard_negatives,
                self.skipped_negatives,
            )
        if self.loss.in_batch:
            nll = self._in_batch_losses(rows_UD, queries_VD, targets_VD, target_at_V, beside_V, batch)
        else:
            nll = self._pool_losses(queries_VD, targets_VD, pool_PD, beside_V, batch)
        nce, nce_count = self._skip_losses(rows_UX, items_BTD, predictions_ND, places, batch)
        keep = self._keep_losses(rows_UX, outputs_NX, batch) if self.loss.keep else nll.new_zeros(())
        self._note([rows_UX, signals_MD], (nll + nce + keep).detach(), batch.session_B)
        return self._means((nll, nce, keep), (len(queries_VD), nce_count, len(batch.judged_J)))

    def _skip_losses(
        self, rows_UX: Tensor, items_BTD: Tensor, predictions_ND: Tensor, places: Packed, batch: SessionBatch
    ) -> tuple[Tensor, Tensor]:
        """The sum of the skip InfoNCE, and of how many positions; zeros without a skip head."""
        if self.loss.context == "none":
            return items_BTD.new_zeros(()), items_BTD.new_zeros(())
        output_BTD = places.spread(predictions_ND).float() if self.loss.context == "output" else None
        nce_BT, counts_BT = skip_infonce(
            output_BTD,
            items_BTD,
            batch.skipped_BT,
            (batch.items_BT != rows_UX.shape[0] - 1) & batch.known_BT,
            batch.skips_of_B if len(batch.skips_of_B) else None,
            self.loss.temperature,
            self.loss.queries,
            batch.items_BT if self.loss.mask_repeats else None,
        )
        return nce_BT.sum(), counts_BT.sum()

    def _keep_losses(self, rows_UX: Tensor, outputs_NX: Tensor, batch: SessionBatch) -> Tensor:
        """The sum of the losses."""
        dim = rows_UX.shape[1] - self.loss.keep_width
        outputs_JK = outputs_NX[torch.searchsorted(batch.tokens_N, batch.judged_J), dim:]
        rows_JF = nn.functional.embedding(batch.judged_tracks_J, rows_UX[:, dim:])
        assert self.encoder.keep is not None
        return keep_losses(outputs_JK, self.encoder.keep.keep_dropout(rows_JF), batch.judged_kept_J).sum()

    def _means(
        self, losses: tuple[Tensor, Tensor, Tensor], counts: tuple[int, Tensor, int]
    ) -> tuple[Tensor, StepLosses]:
        """From this rank's sums and counts of the three losses: what to run backward on, and the global means."""
        counts_3 = [
            losses[0].new_full((), count) if isinstance(count, int) else count.to(losses[0]) for count in counts
        ]
        sums = sum_ranks(torch.stack([*(loss.detach() for loss in losses), *counts_3]))
        weights, totals = (self.loss.beta, self.loss.alpha, self.loss.keep), sums[3:].clamp(min=1)
        means = sums[:3] / totals
        nll, nce, keep = losses
        # TorchRec and DDP average gradients over ranks; times their number is the sum that a mean over all needs.
        loss = world_size() * (
            weights[0] * nll / totals[0] + weights[1] * nce / totals[1] + weights[2] * keep / totals[2]
        )
        total = weights[0] * means[0] + weights[1] * means[1] + weights[2] * means[2]
        return loss, StepLosses(total, *means)

    def _note(self, looked_up: list[Tensor | None], loss: Tensor, session_B: Tensor) -> None:
        self.own_loss, self.own_sessions = loss, session_B
        self.own_row_gradient = torch.zeros((), device=loss.device)

        def note_gradient(gradient: Tensor) -> None:
            self.own_row_gradient = self.own_row_gradient + gradient.sum()

        for rows in looked_up:
            if rows is not None and rows.requires_grad:
                rows.register_hook(note_gradient)

    def predict(self, rows_UX: Tensor, batch: SessionBatch, signals_MD: Tensor | None = None) -> Tensor:
        """[B, D], or with a keep head [B, D + F + 1]: the output at each session's last position, in full precision."""
        rows_UD = rows_UX[:, : rows_UX.shape[1] - self.loss.keep_width]
        items_BTD = nn.functional.embedding(batch.items_BT, rows_UD)
        profile = self._profile(nn.functional.embedding(batch.profile_BK.flatten(), rows_UD), batch)
        read = _signals(signals_MD, batch), profile, self._pauses(batch)
        return self.encoder.queries(items_BTD, batch.inputs_B, batch.masked_BT, *read)

    def _pauses(self, batch: SessionBatch) -> Tensor | None:
        """[B, T]: of `time_buckets`."""
        return None if self.pauses_M is None else played_after(self.pauses_M, batch.signals_BTC)

    def _profile(self, profiles_PD: Tensor, batch: SessionBatch) -> ReadProfile | None:
        """What is read of each session's profile, of its tracks' rows [B * K, D]."""
        if self.encoder.profile is None:
            return None
        real_BK = batch.profile_BK != batch.tracks.stride() - 1
        read: ReadProfile = self.encoder.profile(profiles_PD.view(*real_BK.shape, profiles_PD.shape[1]), real_BK)
        return read

    @property
    def _softmax_head(self) -> Head:
        head = compiled_softmax_head() if self.encoder.compiled else softmax_head
        return hardest(head, self.loss.hardest) if self.loss.hardest else head

    def _in_batch_losses(
        self,
        rows_UD: Tensor,
        queries_VD: Tensor,
        targets_VD: Tensor,
        target_at_V: Tensor,
        beside_V: Tensor | None,
        batch: SessionBatch,
    ) -> Tensor:
        """The sum of the losses."""
        exact_targets = self.loss.log_q == "negatives"
        pad = compiled(queries_VD)
        rows_WD, bias_BW, target_bias_U = in_batch_pool(rows_UD, batch, self.num_tracks, exact_targets, pad)
        bias = Bias(target_bias_U[target_at_V], bias_BW, batch.queries_V // batch.items_BT.shape[1])
        return pool_losses(queries_VD, targets_VD, rows_WD, None, None, self._softmax_head, beside_V, bias)

    def _pool_losses(
        self,
        queries_VD: Tensor,
        targets_VD: Tensor,
        pool_PD: Tensor,
        beside_V: Tensor | None,
        batch: SessionBatch,
    ) -> Tensor:
        host, window_V2, host_window_V2 = batch.on_host, None, None
        if not batch.shares_pool:
            length = batch.items_BT.shape[1]
            window_V2, host_window_V2 = (one.window_B2[one.queries_V // length] for one in (batch, host))
        on_host = host_window_V2, host.collides_Y2
        head = self._softmax_head
        if self.loss.head == "gbce":
            power = gbce_power(self.loss.calibration, batch.negatives, batch.drawn_from)
            head = gbce_head(power, batch.negatives)
        return pool_losses(
            queries_VD, targets_VD, pool_PD, window_V2, batch.collides_Y2, head, beside_V, on_host=on_host
        )


def _signals(signals_MD: Tensor | None, batch: SessionBatch) -> Tensor | None:
    """[B, T, D]: the sum of what is read of each play beside its track."""
    if signals_MD is None:
        return None
    return nn.functional.embedding(batch.signals_BTC, signals_MD).sum(dim=2)
