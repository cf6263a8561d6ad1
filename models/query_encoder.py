"""The encoder as it is served: track rows of sessions in, one query per session out.

Imports neither TorchRec nor FBGEMM, so that a server rebuilds it from weights and an `EncoderConfig`.
Shape legend: B sessions, T tracks, D width of an embedding, F columns of a row that are the keep head's, M rows of
signals, C signals of a play, K tracks of a profile.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from skipwise.datapipes.signals import Signals
from skipwise.models.config import EncoderConfig
from skipwise.models.encoder import Encoder
from skipwise.models.time_bias import played_after

_SIGNALS = "signals"
"""The table's name beside the encoder's weights."""


@dataclass(frozen=True)
class EncoderShape:
    """What the encoder reads of a track's row and of a play, and what it gives."""

    dim: int
    """D."""
    keep_dim: int = 0
    """F, 0 without a keep head."""
    num_signals: int = 0
    """M, 0 for an encoder that reads tracks alone."""
    columns: int = 0
    """C."""
    profile: int = 0
    """K, 0 for an encoder that reads no profiles."""
    pauses: tuple[int, ...] = ()
    """Of each of the M, what it says of times (`Signals.pauses`), for an encoder that reads them."""

    @classmethod
    def of(cls, dim: int, keep_dim: int, signals: Signals, profile: int, times: bool) -> "EncoderShape":
        """Of an encoder that reads these signals, and with `times` the times between plays."""
        return cls(dim, keep_dim, signals.num_rows, len(signals.columns), profile, signals.pauses(times))

    @property
    def row_dim(self) -> int:
        """Width of a track's row: its embedding, then its columns of the keep head."""
        return self.dim + self.keep_dim

    @property
    def output_dim(self) -> int:
        """Width of what the encoder gives of a session: q [D], and with a keep head r [F] and b [1]."""
        return self.dim + self.keep_dim + bool(self.keep_dim)


class QueryEncoder(nn.Module):
    """An encoder in evaluation mode, on the CPU, read at the position that predicts the next track."""

    signals: Tensor | None
    pauses: Tensor | None

    def __init__(self, encoder: Encoder, signals_MD: Tensor | None = None, pauses: Sequence[int] = ()):
        """Copies `encoder`; `signals_MD`: the table of what it reads of a play beside its track; `pauses`: of
        `EncoderShape`."""
        super().__init__()
        self.encoder = copy.deepcopy(encoder).cpu().eval().requires_grad_(False)
        self.register_buffer("signals", signals_MD)
        self.register_buffer("pauses", torch.tensor(pauses) if encoder.config.times else None)
        self.appended = encoder.config.appended_positions
        self.max_tracks = encoder.config.max_tracks

    def forward(
        self,
        items_BTD: Tensor,
        lengths_B: Tensor,
        signals_BTC: Tensor | None = None,
        profile_BKD: Tensor | None = None,
        profile_lengths_B: Tensor | None = None,
    ) -> Tensor:
        """Outputs at each session's last position, which for a bidirectional encoder is the mask token.

        Queries [B, D], or with a keep head [B, D + F + 1], as `Encoder` has them. `items_BTD`: the tracks' rows, of
        which the embedding is read; `signals_BTC`: rows of the table of signals, for an encoder that has one;
        `profile_BKD`: rows of what the listener kept before, the last ones first, for one that reads profiles, as many
        as `profile_lengths_B`; without them each is empty.
        """
        dim = self.encoder.norm.normalized_shape[0]
        items_BTD, profile = items_BTD[..., :dim], None
        if self.encoder.profile is not None:
            if profile_BKD is None or profile_lengths_B is None:
                profile_BKD, profile_lengths_B = items_BTD[:, :1], torch.zeros_like(lengths_B)
            place_K = torch.arange(profile_BKD.shape[1], device=items_BTD.device)
            profile = self.encoder.profile(profile_BKD[..., :dim], place_K < profile_lengths_B[:, None])
        signals_BTD = pauses_BT = None
        if signals_BTC is not None and self.pauses is not None:
            pauses_BT = played_after(self.pauses, nn.functional.pad(signals_BTC, (0, 0, 0, self.appended)))
        if signals_BTC is not None and self.signals is not None:
            signals_BTD = nn.functional.embedding(signals_BTC, self.signals).sum(dim=2)
            signals_BTD = nn.functional.pad(signals_BTD, (0, 0, 0, self.appended))
        items_BTD = nn.functional.pad(items_BTD, (0, 0, 0, self.appended))
        place_T = torch.arange(items_BTD.shape[1], device=items_BTD.device)
        masked_BT = place_T == lengths_B[:, None]
        return self.encoder.queries(items_BTD, lengths_B + self.appended, masked_BT, signals_BTD, profile, pauses_BT)


def weights_of(encoder: Encoder, signals_MD: Tensor | None) -> dict[str, Tensor]:
    """The encoder's `state_dict`, on the CPU, with its table of signals, if any, as one more tensor."""
    state = encoder.state_dict() | ({} if signals_MD is None else {_SIGNALS: signals_MD})
    return {name: tensor.cpu().contiguous() for name, tensor in state.items()}


def load_query_encoder(config: EncoderConfig, shape: EncoderShape, state: Mapping[str, Tensor]) -> QueryEncoder:
    """Rebuilds the encoder from its config, its shape, and `weights_of` it.

    Raises `RuntimeError` where the names, shapes or types in `state` are others.
    """
    with torch.device("meta"):
        encoder = Encoder(config, shape.dim, shape.keep_dim, shape.num_signals > 0, profile=shape.profile)
    state = dict(state)
    if other := [name for name, tensor in state.items() if tensor.dtype != torch.float32]:
        raise RuntimeError(f"'{other[0]}' is {state[other[0]].dtype}, expected torch.float32")
    signals_MD = state.pop(_SIGNALS, None) if shape.num_signals else None
    if shape.num_signals and (signals_MD is None or signals_MD.shape != (shape.num_signals, shape.dim)):
        raise RuntimeError(f"there is no table of {shape.num_signals} signals of width {shape.dim}")
    try:
        encoder.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise RuntimeError("its weights have other names or shapes, as those of another version have") from error
    return QueryEncoder(encoder, signals_MD, shape.pauses)
