"""The one contract between data and model.

Shape legend, used in every name that carries a shape: B sessions on this rank, T positions that are read, S positions
of whole sessions, U bags of the lookup, N positions read, V positions with a target, P pool of negatives, X collisions
of sessions, Y those of positions, E entries of the in-batch pool, C candidates or columns of values, M rows of signals,
F numbers of a track, J positions that the keep head learns from, K tracks of a profile.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

FEATURE, SIGNAL_FEATURE = "track", "signal"
_PLAIN = ("drawn_from", "negatives", "epoch", "step", "host")
"""Fields that are no tensors."""


def value_feature(column: int) -> str:
    """The feature of the lookup that holds the values of each bag's track in a column."""
    return f"values_{column}"


@dataclass
class SessionBatch(Pipelineable):
    """What one rank needs for one step. Every index but `session_B` points at a bag of `tracks`.

    The last bag is always empty, so that its looked-up row is zero: padding points there. The number of bags is the
    same on every rank, because a row-wise sharded lookup on gloo needs that: the config fixes it, or the ranks agree.
    """

    tracks: KeyedJaggedTensor
    """U bags of length one (the distinct rows of this step, ascending), then empty bags up to the same number."""
    items_BT: Tensor
    """int64: the session's tracks in play order, right-padded with the empty bag."""
    skipped_BT: Tensor
    """bool: the listener skipped this play."""
    known_BT: Tensor
    """bool: it is known whether they did."""
    signals_BTC: Tensor
    """int64: the rows of the second table that are read of each play; [B, T, 0] without such."""
    inputs_B: Tensor
    """int64: how many positions the encoder reads; in cloze mode for prediction this counts the appended mask."""
    masked_BT: Tensor
    """bool: positions whose track the encoder must not see (cloze)."""
    targets_BT: Tensor
    """int64: what the position should predict; the empty bag where there is nothing to predict."""
    tokens_N: Tensor
    """int64: b * T + t of each position that the encoder reads, ascending: all but padding."""
    queries_V: Tensor
    """int64: b * T + t of each position with a target, ascending."""
    judged_J: Tensor
    """int64: b * T + t of each position whose next track's own flag is learned from, ascending; [0] without a keep
    head."""
    judged_tracks_J: Tensor
    """int64: the bags of those tracks."""
    judged_kept_J: Tensor
    """float32: 1 where the listener kept them."""
    negatives_P: Tensor
    """int64: the batch's pool of negatives, or this rank's share of it; [0] when evaluating."""
    window_B2: Tensor
    """int64: from and until which place of the pool a session's negatives lie; places ascend with the session."""
    collides_X2: Tensor
    """int64: (session, place of the pool) of the session's own tracks in its window."""
    collides_Y2: Tensor
    """int64: the same for every position of the session with a target: (place in `queries_V`, place of the pool),
    ascending by the first."""
    skips_of_B: Tensor
    """int64: the session of this batch whose skipped tracks are the InfoNCE's negatives; [0] where it is its own."""
    log_q_U: Tensor
    """float32: log of each bag's share of the training plays; [0] where no head corrects by it."""
    entries_E: Tensor
    """int64: the bags that are targets or this rank's negatives, ascending; [0] where `log_q_U` is."""
    numbers_UF: Tensor
    """float32: the numbers that are read of each bag's track; [0, 0] where no features of tracks are read."""
    shares_UC: Tensor
    """float32: one over the values that each bag's track has in each column of values, 0 where it has none; [0, 0]."""
    own_U: Tensor
    """float32: 1 where a bag's own row is read, 0 where its track is known by its features alone; [0]."""
    profile_BK: Tensor
    """int64: what the listener kept in the sessions before, the last ones first; [B, 0] where profiles are not read."""
    session_B: Tensor
    """int64: the session's number in the dataset, -1 for a session that only fills up the batch."""
    drawn_from: int
    """How many tracks the uniform negatives are drawn from."""
    negatives: int
    """How many each session is compared with, its own tracks among them where the pool is shared."""
    epoch: int
    step: int
    host: "SessionBatch | None" = None
    """The batch that this one was copied from."""

    @property
    def on_host(self) -> "SessionBatch":
        """The batch in host memory, where sizes are read without a wait for the device."""
        return self.host or self

    @property
    def shares_pool(self) -> bool:
        """Whether the window of every session is the whole pool."""
        first_B, until_B = self.on_host.window_B2.unbind(1)
        return bool(((first_B == 0) & (until_B == len(self.negatives_P))).all())

    def to(self, device: torch.device, non_blocking: bool = False) -> "SessionBatch":
        return replace(self._mapped(lambda value: value.to(device, non_blocking=non_blocking)), host=self.on_host)

    def pin_memory(self) -> Self:
        return self._mapped(lambda value: value.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        for _, value in self._tensors():
            value.record_stream(stream)

    def _mapped(self, function: Callable[[Any], Any]) -> Self:
        changes: dict[str, Any] = {name: function(value) for name, value in self._tensors()}
        return replace(self, **changes)

    def _tensors(self) -> list[tuple[str, Tensor | KeyedJaggedTensor]]:
        return [(field.name, getattr(self, field.name)) for field in fields(self) if field.name not in _PLAIN]


@dataclass
class EvaluationBatch:
    """A `SessionBatch` whose last input position predicts, and what its prediction is ranked among (track rows).

    A session is there once for each of its targets, with what precedes that one.
    """

    sessions: SessionBatch
    target_B: Tensor
    """int64 row of the target, -1 where a row only fills up the batch."""
    history_BS: Tensor
    """int64 rows of all tracks before the target, -1 where there is none."""
    history_strengths_BS: Tensor
    """int8: their skip strengths, 0 where there is none."""
    history_contexts_BSK: Tensor
    """int16: their codes of the context columns that are read, 0 where there is none; [B, S, 0] without such."""
    profile_rows_BK: Tensor
    """int64 rows of what the listener kept in the sessions before, -1 behind them; [B, 0] where profiles are not
    read."""
    candidates_BC: Tensor
    """int64 rows of uniform tracks that the whole session does not contain, -1 where it leaves no more; [B, 0] where
    none are drawn."""
    target_skips_B: Tensor
    """int8: skip strength of the held-out play."""
    position_B: Tensor
    """int64: how many tracks of the session precede the target."""
    plays_B: Tensor
    """int64: how many plays the session has, where all but its first are targets; 0 elsewhere."""
    halved_signals_BTC: Tensor
    """int64: `sessions.signals_BTC`, with nothing known of plays from `plays_B // 2` on, counted from 0."""
    upcoming_BW: Tensor
    """int64 rows of a skipped target and of the plays after it up to and including the next kept one, -1 behind them;
    -1 alone where the target was kept, or no later one was, or only one track of a session is a target."""

    @property
    def repeated_B(self) -> Tensor:
        """bool: the session has played the target before."""
        return (self.history_BS == self.target_B[:, None]).any(dim=1) & (self.target_B >= 0)

    def emptied(self) -> Self:
        """The same batch without a target."""
        return replace(self, target_B=torch.full_like(self.target_B, -1))

    def pin_memory(self) -> Self:
        return replace(self, **{name: value.pin_memory() for name, value in vars(self).items()})


class EvaluationBatches(list[EvaluationBatch]):
    """The batches of one step: one, or more where its sessions have many targets."""

    def pin_memory(self) -> Self:
        return type(self)(batch.pin_memory() for batch in self)
