"""The encoder of a session: what is read of it, a stack of blocks of one kind, and what it predicts.

A kind is one file of `skipwise.models.blocks` with one module: made from the config, the width D and its place in the
stack, it takes the values [N, D] of all positions, their `places`, a mask for attention and the dropout, and gives the
values [N, D] that the next block takes. What looks across positions goes through `places`.
Shape legend: B sessions, T positions, N positions of the list, D width, H heads.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from skipwise.models.blocks.gru import GruBlock
from skipwise.models.blocks.hstu import HstuBlock
from skipwise.models.blocks.ligr import LigrBlock
from skipwise.models.blocks.nextitnet import NextItNetBlock
from skipwise.models.blocks.transformer import TransformerBlock
from skipwise.models.config import TIMES, EncoderConfig
from skipwise.models.dropout import Dropout
from skipwise.models.keep import KeepHead
from skipwise.models.packed import Packed, Padded
from skipwise.models.profile import Profile, ReadProfile
from skipwise.models.recurring_products import RowLinear
from skipwise.models.time_bias import NO_PAUSE, TimedMask, time_bias, time_buckets

_BLOCKS: dict[str, Callable[[EncoderConfig, int, int], nn.Module]] = {
    "transformer": TransformerBlock,
    "ligr": LigrBlock,
    "hstu": HstuBlock,
    "gru": GruBlock,
    "nextitnet": NextItNetBlock,
}


class Encoder(nn.Module):
    """Track rows in, predictions out; a prediction is compared with track rows by inner product.

    With a keep head F + 1 more columns follow, r and b: r . f + b is the logit of P(kept) of a track whose columns of
    the keep head are f.
    """

    def __init__(
        self,
        config: EncoderConfig,
        dim: int,
        keep_dim: int = 0,
        reads_signals: bool = False,
        keep_dropout: float = 0.0,
        profile: int = 0,
        compiled: bool = False,
    ):
        """`keep_dim`: F, 0 without a keep head; `reads_signals`: whether calls give signals beside tracks; `profile`:
        the most tracks of a listener's profile, which calls then give; `compiled`: training compiles its blocks."""
        super().__init__()
        self.config = config
        learned, relative = config.positions == "learned", config.positions == "relative"
        self.positions = nn.Parameter(torch.empty(config.max_length, dim)) if learned else None
        distances = config.blocks, config.heads, 2 * config.max_length - 1
        self.distance_bias = nn.Parameter(torch.empty(distances)) if relative else None
        times = config.blocks, config.heads, TIMES
        self.time_bias = nn.Parameter(torch.empty(times)) if config.times else None
        self.mask_token = nn.Parameter(torch.empty(dim)) if config.direction == "bidirectional" else None
        self.norm = nn.LayerNorm(dim)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(_BLOCKS[config.kind](config, dim, number) for number in range(config.blocks))
        self.final_norm = nn.LayerNorm(dim) if config.ends_with_norm else None
        self.prediction = nn.Sequential()
        if config.prediction != "none":
            self.prediction.append(RowLinear(dim, dim))
        if config.prediction == "gelu":
            self.prediction.append(nn.GELU())
        self.keep = KeepHead(dim, keep_dim, reads_signals, config.dropout, keep_dropout) if keep_dim else None
        self.profile = Profile(dim, profile) if profile else None
        self.compiled = compiled

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Truncated normal in plus and minus 0.02 for weights and positions, zero for biases (paper, section 4)."""
        for name, parameter in self.named_parameters():
            if name.startswith("profile."):
                continue  # so that all other weights are those of an encoder without
            if "norm" in name:
                nn.init.constant_(parameter, 1.0 if name.endswith("weight") else 0.0)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.trunc_normal_(parameter, std=0.02, a=-0.02, b=0.02, generator=generator)
        for module in (*self.blocks, self.keep):
            if isinstance(module, (GruBlock, KeepHead)):
                module.reset_parameters(generator)
        if self.profile is not None:
            self.profile.reset_parameters()

    def padded(
        self,
        items_BTD: Tensor,
        inputs_B: Tensor,
        masked_BT: Tensor,
        signals_BTD: Tensor | None = None,
        profile: ReadProfile | None = None,
        pauses_BT: Tensor | None = None,
    ) -> Tensor:
        """Predictions [B, T, D], computed at padding too: for programs whose shapes must not depend on the data.

        `inputs_B`: positions to read of each session; `masked_BT`: positions whose track is replaced by the mask
        token. Learned positions count from the session's end: the last one, which predicts, is the same for any length.
        `signals_BTD`: the sum of what is read of each play beside its track; `profile`: of `Profile`; `pauses_BT`: of
        `time_buckets`, which an encoder that reads times is given.
        """
        batch, length, dim = items_BTD.shape
        places = Padded(batch, length)
        signals_ND = None if signals_BTD is None else signals_BTD.reshape(-1, dim)
        items_ND = items_BTD.reshape(-1, dim)
        return self(items_ND, places, inputs_B, masked_BT, signals_ND, profile, pauses_BT).view(batch, length, -1)

    def queries(
        self,
        items_BTD: Tensor,
        inputs_B: Tensor,
        masked_BT: Tensor,
        signals_BTD: Tensor | None = None,
        profile: ReadProfile | None = None,
        pauses_BT: Tensor | None = None,
    ) -> Tensor:
        """[B, D]: the prediction at each session's last position to read, of `padded`."""
        predictions_BTD = self.padded(items_BTD, inputs_B, masked_BT, signals_BTD, profile, pauses_BT)
        last_B = (inputs_B - 1).clamp(min=0)
        # By shape, because `len` would fix a traced program to the number of sessions of its example.
        return predictions_BTD[torch.arange(items_BTD.shape[0], device=items_BTD.device), last_B]

    def forward(
        self,
        items_ND: Tensor,
        places: Padded | Packed,
        inputs_B: Tensor,
        masked_BT: Tensor,
        signals_ND: Tensor | None = None,
        profile: ReadProfile | None = None,
        pauses_BT: Tensor | None = None,
    ) -> Tensor:
        """Predictions [N, D] at the positions in `places`.

        Only the blocks and the keep head's state look across positions, within a session. The token of the listener's
        profile stands before the session's tracks in the blocks alone: each position sees it, none predicts it, and it
        has no place in their order.
        """
        device = items_ND.device
        place_T = torch.arange(places.length, device=device)
        prepends = profile is not None
        inner = places.prepended() if prepends else places
        if self.training and device.type == "cpu":
            width = max(items_ND.shape[1], self.config.hidden)
            most_scores = inner.most_scores(self.config.heads) if self.config.attends else 0
            self.dropout.renew(max((len(items_ND) + prepends * inner.batch) * width, most_scores), device)
        states_NH = None
        if signals_ND is not None:
            items_ND = items_ND + signals_ND
            if self.keep is not None and self.keep.state is not None:
                read_ND = signals_ND.masked_fill(places.collect(masked_BT)[:, None], 0.0)
                states_NH = places.collect(self.keep.states(places.spread(read_ND)))
        if self.training and self.config.track_dropout:
            shown_N1 = torch.rand(len(items_ND), 1, device=device) >= self.config.track_dropout
            items_ND = items_ND * shown_N1
        if self.mask_token is not None:
            items_ND = torch.where(places.collect(masked_BT)[:, None], self.mask_token.to(items_ND.dtype), items_ND)
        if self.positions is not None:
            from_end_BT = (place_T - inputs_B[:, None] + self.config.max_length).clamp(max=self.config.max_length - 1)
            items_ND = items_ND + nn.functional.embedding(places.collect(from_end_BT), self.positions)
        if profile is not None:
            items_ND = inner.prepend(profile.token_BD, items_ND)
            place_T = torch.arange(inner.length, device=device)
        # Plain numbers would be copied to a GPU, which waits for it.
        seen, hidden = (torch.full((), value, device=device) for value in (0.0, float("-inf")))
        visible_TT = (place_T[:, None] >= place_T) | (self.config.direction == "bidirectional")
        hidden_mask = torch.where(visible_TT, seen, hidden)[None]
        if isinstance(inner, Padded):
            # A row that sees nothing would become NaN: padding sees itself, and nothing read sees padding.
            real_BT = place_T < (inputs_B + prepends)[:, None]
            padding_B1TT = torch.where(real_BT[:, None, :] | ~real_BT[:, :, None], seen, hidden)[:, None]
            hidden_mask = hidden_mask + padding_B1TT
        buckets_BTT = None
        if self.time_bias is not None:
            assert pauses_BT is not None
            buckets_BTT = time_buckets(pauses_BT.masked_fill(masked_BT, NO_PAUSE), prepends)
        through = _compiled() if self.compiled and self.training else _through_blocks
        hidden_ND, predictions_ND = through(self, items_ND, inner, hidden_mask, place_T, prepends, buckets_BTT)
        if profile is not None:
            every_BTD = profile.repeats_BD[:, None].expand(-1, places.length, -1)
            predictions_ND = predictions_ND + places.collect(every_BTD)
        if self.keep is None:
            return predictions_ND
        return torch.cat([predictions_ND, self.keep(hidden_ND, states_NH)], dim=1)

    def biased(
        self, mask: Tensor, block: int, place_T: Tensor, prepends: bool, buckets_BTT: Tensor | None
    ) -> Tensor | TimedMask:
        """The mask with the block's biases of distances and times, of which the token before the first track has none.

        For packed positions, whose mask is the same for all sessions, that of times stands beside it.
        """
        if self.distance_bias is not None:
            farthest = self.config.max_length - 1
            distance_TT = (place_T[:, None] - place_T).clamp(-farthest, farthest) + farthest
            bias_HTT = self.distance_bias[block][:, distance_TT]
            if prepends:
                bias_HTT = bias_HTT * ((place_T[:, None] > 0) & (place_T > 0))
            mask = mask + bias_HTT
        if self.time_bias is None or buckets_BTT is None:
            return mask
        bias_HK = self.time_bias[block]
        return TimedMask(mask, bias_HK, buckets_BTT) if mask.dim() == 3 else mask + time_bias(bias_HK, buckets_BTT)


def _through_blocks(
    encoder: Encoder,
    items_ND: Tensor,
    inner: Padded | Packed,
    mask: Tensor,
    place_T: Tensor,
    prepends: bool,
    buckets_BTT: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """[N, D] each: the values after the last block, and the predictions without those of a profile."""
    hidden_ND = encoder.dropout(encoder.norm(items_ND))
    for number, block in enumerate(encoder.blocks):
        biased = encoder.biased(mask, number, place_T, prepends, buckets_BTT)
        hidden_ND = block(hidden_ND, inner, biased, encoder.dropout)
    hidden_ND = inner.without_first(hidden_ND) if prepends else hidden_ND
    hidden_ND = hidden_ND if encoder.final_norm is None else encoder.final_norm(hidden_ND)
    return hidden_ND, encoder.prediction(hidden_ND)


@lru_cache
def _compiled() -> Callable[..., Any]:
    """`_through_blocks` as one graph for any number of positions; what would break it up is refused."""
    return torch.compile(_through_blocks, dynamic=True, fullgraph=True)
