"""The baseline: the same model and losses in plain PyTorch, at torch's default settings.

One process, padded sessions, a dense `nn.Embedding` with sparse gradients under SparseAdam, Adam for the other
parameters, torch's own transformer layers.
Shape legend: B sessions, T positions, D width, Q positions with a context, V positions with a target, K negatives.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipwise.common.errors import UserError
from skipwise.training.config import RunConfig


@dataclass(frozen=True)
class PlainBatch:
    """Padded sessions and their negatives, as track rows."""

    tracks_BT: Tensor
    """int64: rows in play order, right-padded with the number of tracks."""
    length_B: Tensor
    skipped_BT: Tensor
    negatives: Tensor
    """int64 rows: [K] for the whole batch, or [B, K]."""
    collides_BK: Tensor | None = None
    """bool: negatives of the whole batch that the session contains, which are masked."""
    masked_BT: Tensor | None = None
    """bool: what a bidirectional model must guess; None for a unidirectional one."""

    def to(self, device: torch.device) -> "PlainBatch":
        """The batch on another device."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in tensors.items() if value is not None})


def check_plain(config: RunConfig) -> None:
    """Raises `UserError` for a recipe whose work the plain model does not have."""
    lacks = {
        f"encoder of kind {config.encoder.kind}": config.encoder.kind != "transformer",
        "in-batch negatives": config.loss.in_batch,
        "hardest negatives": config.loss.hardest > 0,
        "gBCE": config.loss.head == "gbce",
        "profiles of listeners": config.data.profile > 0,
        "heard tracks among the negatives": config.data.heard_negatives,
        "next kept tracks as targets": config.data.targets == "next-kept",
        "inputs beside the tracks": bool(config.data.inputs),
        "keep head": config.loss.keep > 0,
        "other sessions' skips": config.data.skip_negatives == "other",
        "sessions without their skipped tracks": config.data.skipped_tracks == "filter",
    }
    for work, wanted in lacks.items():
        if wanted:
            raise UserError(f"--baseline plain has no {work}: choose another --recipe, or --baseline none")


class Plain(nn.Module):
    """Table, encoder and both losses."""

    def __init__(self, config: RunConfig, tracks: int):
        super().__init__()
        self.loss, self.max_length, dim = config.loss, config.encoder.max_length, config.table.dim
        self.causal = config.encoder.direction == "unidirectional"
        self.table = nn.Embedding(tracks + 1, dim, padding_idx=tracks, sparse=True)
        nn.init.normal_(self.table.weight, std=0.02)
        self.positions = nn.Embedding(self.max_length, dim)
        self.mask_token = None if self.causal else nn.Parameter(torch.zeros(dim))
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(config.encoder.dropout)
        block = nn.TransformerEncoderLayer(
            dim, config.encoder.heads, config.encoder.hidden, config.encoder.dropout, batch_first=True
        )
        self.blocks = nn.TransformerEncoder(block, config.encoder.blocks, enable_nested_tensor=False)
        self.prediction = nn.Sequential(nn.Linear(dim, dim), nn.GELU())

    def forward(self, batch: PlainBatch) -> Tensor:
        """The batch's loss."""
        items_BTD = self.table(batch.tracks_BT)
        place_T = torch.arange(items_BTD.shape[1], device=items_BTD.device)
        if self.causal:
            read_B, inputs_BQD, targets_BQD = batch.length_B - 1, items_BTD[:, :-1], items_BTD[:, 1:]
            predicts_BQ = place_T[:-1] < read_B[:, None]
        else:
            assert batch.masked_BT is not None and self.mask_token is not None
            read_B, targets_BQD, predicts_BQ = batch.length_B, items_BTD, batch.masked_BT
            inputs_BQD = torch.where(predicts_BQ[:, :, None], self.mask_token, items_BTD)
        output_BQD = self.encode(inputs_BQD, read_B)
        target_V1 = (output_BQD * targets_BQD)[predicts_BQ].sum(dim=-1, keepdim=True)
        negatives = self.table(batch.negatives)
        if negatives.dim() == 2:
            logits_VK = output_BQD[predicts_BQ] @ negatives.T
        else:
            logits_VK = (output_BQD @ negatives.transpose(1, 2))[predicts_BQ]
        if batch.collides_BK is not None:
            session_V = predicts_BQ.nonzero()[:, 0]
            logits_VK = logits_VK.masked_fill(batch.collides_BK[session_V], float("-inf"))
        logits = torch.cat([target_V1, logits_VK], dim=1).float()
        first = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
        loss = self.loss.beta * F.cross_entropy(logits, first)
        if self.loss.context != "none":
            context_BQD = output_BQD if self.loss.context == "output" else items_BTD[:, : output_BQD.shape[1]]
            loss = loss + self.loss.alpha * self.skip_loss(context_BQD, items_BTD, batch)
        return loss

    def encode(self, inputs_BTD: Tensor, read_B: Tensor) -> Tensor:
        """Outputs [B, T, D]; positions count from the session's end."""
        length = inputs_BTD.shape[1]
        place_T = torch.arange(length, device=inputs_BTD.device)
        from_end_BT = (place_T - read_B[:, None] + self.max_length).clamp(0, self.max_length - 1)
        hidden_BTD = self.dropout(self.norm(inputs_BTD + self.positions(from_end_BT)))
        later_TT = torch.ones(length, length, dtype=torch.bool, device=place_T.device).triu(1) if self.causal else None
        # Softmax over nothing is NaN: an empty session reads its first padding.
        padding_BT = place_T >= read_B.clamp(min=1)[:, None]
        return self.prediction(self.blocks(hidden_BTD, mask=later_TT, src_key_padding_mask=padding_BT))

    def skip_loss(self, context_BQD: Tensor, items_BTD: Tensor, batch: PlainBatch) -> Tensor:
        """InfoNCE of each context between the next kept track and the session's skipped ones."""
        queries, length = context_BQD.shape[1], items_BTD.shape[1]
        valid_BT = torch.arange(length, device=items_BTD.device) < batch.length_B[:, None]
        kept_BT, skipped_BT = valid_BT & ~batch.skipped_BT, valid_BT & batch.skipped_BT
        later_QT = torch.ones(queries, length, dtype=torch.bool, device=items_BTD.device).triu(1)
        kept_later_BQT = later_QT & kept_BT[:, None, :]
        positive_at_BQ1 = kept_later_BQT.int().argmax(dim=2, keepdim=True)
        negative_BQT = skipped_BT[:, None, :].expand(-1, queries, -1)
        if self.loss.mask_repeats:
            tracks_BT = batch.tracks_BT
            positive_BQ = tracks_BT.gather(1, positive_at_BQ1[:, :, 0])
            negative_BQT = negative_BQT & (tracks_BT[:, None, :] != positive_BQ[:, :, None])
            if self.loss.context == "track":
                negative_BQT = negative_BQT & (tracks_BT[:, None, :] != tracks_BT[:, :queries, None])
        counts_BQ = valid_BT[:, :queries] & kept_later_BQT.any(dim=2) & negative_BQT.any(dim=2)
        if self.loss.queries == "kept":
            counts_BQ = counts_BQ & kept_BT[:, :queries]
        similar_BQT = F.normalize(context_BQD, dim=-1) @ F.normalize(items_BTD, dim=-1).transpose(1, 2)
        similar_BQT = similar_BQT / self.loss.temperature
        positive_BQ1 = similar_BQT.gather(2, positive_at_BQ1)
        negatives_BQT = similar_BQT.masked_fill(~negative_BQT, float("-inf"))
        logits = torch.cat([positive_BQ1, negatives_BQT], dim=2)[counts_BQ].float()
        first = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
        return F.cross_entropy(logits, first, reduction="sum") / max(1, len(logits))


class PlainStep:
    """One training step of the plain model."""

    def __init__(self, model: Plain, config: RunConfig, table_optimizer: Any = None):
        """`table_optimizer`: what has a `step()`; SparseAdam unless given."""
        self.model, self.clip_norm = model, config.optimizer.clip_norm
        self.device = model.table.weight.device
        self.autocast = config.train.precision == "bf16"
        self.dense = [value for name, value in model.named_parameters() if name != "table.weight"]
        self.adam = torch.optim.Adam(self.dense, lr=config.optimizer.learning_rate)
        self.table_optimizer = table_optimizer or torch.optim.SparseAdam([model.table.weight])

    def __call__(self, batch: PlainBatch) -> Tensor:
        """Takes the step and returns the loss before it."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            loss = self.model(batch.to(self.device))
        self.model.zero_grad()
        loss.backward()
        if self.clip_norm:
            nn.utils.clip_grad_norm_(self.dense, self.clip_norm)
        self.adam.step()
        self.table_optimizer.step()
        return loss.detach()
