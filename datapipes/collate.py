"""From padded sessions to the tensors of one training step: splits, cloze, negatives and what is learned from."""

from dataclasses import dataclass, replace
from typing import Literal, Protocol, Self, TypeVar

import numpy as np

from skipwise.datapipes.bags import Bags
from skipwise.datapipes.batch import SessionBatch
from skipwise.datapipes.config import HELD_OUT
from skipwise.datapipes.negatives import (
    STRIDE,
    draw_pool,
    keys,
    mix,
    own_windows,
    shared_windows,
    uniforms,
)
from skipwise.datapipes.next_plays import next_kept, shifted
from skipwise.datapipes.sessions import Sessions
from skipwise.datapipes.signals import UNKNOWN
from skipwise.datapipes.track_features import TrackFeatures
from skipwise.datapipes.view import Inputs, View, shuffled_order


class Pinnable(Protocol):
    """A batch that can be copied to pinned memory."""

    def pin_memory(self) -> Self: ...


Batch = TypeVar("Batch", bound=Pinnable, covariant=True)


class BatchBuilder(Protocol[Batch]):
    """Turns this rank's sessions of one step into its batch."""

    @property
    def seed(self) -> int: ...

    def build(self, sessions: Sessions, epoch: int, step: int) -> Batch: ...


@dataclass(frozen=True)
class TrainBuilder:
    """Training batches: next-track targets, or cloze where `mask_probability` is given.

    `longest`: most tracks a session of the data has; `num_tracks`: the catalogue's size; `sampling`: see `DataConfig`.
    `held_out`: tracks of each session's end that training does not see.
    `borrow_from`: 0, or the size of the groups of sessions within which each takes the skipped tracks of the next.
    `log_q`: float32 [tracks], log of each track's share of the training plays, for heads that correct by it.
    `first_place`: the first session's place in the global batch, which decides where in the pool its negatives begin.
    `pool_share`: number and count of the ranks that share one shared pool, where each looks up its part alone.
    `shuffle_inputs`, `shuffle_labels`: skip flags change places within each session, as inputs and as what is learned;
    with `shuffle_inputs` what else is read of a play changes places with its flag.
    `targets`, `hidden_inputs`, `id_dropout`: see `DataConfig`; `judge`: the batch says which of the next tracks were
    kept. `features`: what is read of tracks; `drawable`: ascending rows of the tracks that negatives are drawn from;
    `profile`: the most tracks that are read of a listener's profile.
    """

    seed: int
    view: View
    longest: int
    num_tracks: int
    negatives: int
    sampling: Literal["shared", "per-session"]
    mask_probability: float | None
    borrow_from: int = 0
    held_out: int = HELD_OUT["validation"]
    log_q: np.ndarray | None = None
    first_place: int = 0
    pool_share: tuple[int, int] = (0, 1)
    shuffle_inputs: bool = False
    shuffle_labels: bool = False
    targets: Literal["next", "next-kept"] = "next"
    judge: bool = False
    hidden_inputs: float = 0.0
    features: TrackFeatures | None = None
    id_dropout: float = 0.0
    drawable: np.ndarray | None = None
    profile: int = 0

    def build(self, sessions: Sessions, epoch: int, step: int) -> SessionBatch:
        """Removes the held-out tracks and their skips, and draws masks and negatives."""
        batch = len(sessions.length_B)
        read = self._read(sessions, epoch)
        inputs, view = read.inputs, read.view
        pool, drawn_from = self._pool(batch, epoch, step)
        share, shares = self.pool_share
        needed = batch * min(self.longest, view.length) + -(-len(pool) // shares)
        pool, profile_BK = pool[share::shares], sessions.profiles(self.profile)
        bags = Bags(inputs, pool, needed, self.num_tracks, view.signals.num_rows, self.features, profile_BK)
        places_BS = bags.places(read.seen_BS)
        if self.sampling == "per-session":
            window_B2, collides_X2 = own_windows(places_BS, self.negatives, drawn_from)
        else:
            window_B2, collides_X2 = shared_windows(places_BS, len(pool))
        skipped_BT, kept_BT = view.skipped(inputs.strengths_BT), view.kept(inputs.strengths_BT)
        own_rows = None
        if self.id_dropout:
            # By the track and the step alone, so that all ranks drop the same.
            draw = uniforms(mix(keys("drop-id", self.seed, epoch, np.array([step])) ^ mix(bags.rows + 1)), 1)[:, 0]
            own_rows = draw >= self.id_dropout
        return bags.batch(
            epoch,
            step,
            self.negatives,
            drawn_from,
            own_U=bags.own(own_rows),
            skipped_BT=skipped_BT,
            known_BT=skipped_BT | kept_BT,
            signals_BTC=view.signals.rows(read.told_BT, read.contexts_BTK),
            window_B2=window_B2,
            collides_X2=collides_X2,
            skips_of_B=_lenders(batch, self.borrow_from),
            log_q_U=bags.padded(self.log_q),
            session_B=sessions.number_B,
            **self._targets(inputs, bags, skipped_BT, kept_BT, sessions.number_B, epoch),
        )

    def _read(self, sessions: Sessions, epoch: int) -> "_Read":
        # One more track is read: the last one is only predicted, unless the cloze masks tracks.
        view = replace(self.view, length=self.view.length + (self.mask_probability is None))
        past_B = np.maximum(sessions.length_B - self.held_out, 0)
        seen_BS, strengths_BS = view.before(sessions.tracks_BT, sessions.skips_BT, past_B)
        contexts_BSK = sessions.contexts_BTK
        if self.shuffle_inputs or self.shuffle_labels:
            order_BS = shuffled_order(seen_BS >= 0, self.seed, sessions.number_B)
            shuffled_BS = np.take_along_axis(strengths_BS, order_BS, axis=1)
            if self.shuffle_inputs and contexts_BSK is not None:
                contexts_BSK = np.take_along_axis(contexts_BSK, order_BS[:, :, None], axis=1)
        inputs = view.read(seen_BS, shuffled_BS if self.shuffle_labels else strengths_BS, contexts_BSK=contexts_BSK)
        told_BT, contexts_BTK = inputs.strengths_BT, inputs.contexts_BTK
        if self.shuffle_inputs != self.shuffle_labels:
            told_BT = view.read(seen_BS, shuffled_BS if self.shuffle_inputs else strengths_BS).strengths_BT
        if view.signals.num_rows:
            draws_B1 = uniforms(keys("hide", self.seed, epoch, sessions.number_B), 1)
            told_BT = np.where(draws_B1 < self.hidden_inputs, UNKNOWN, told_BT)
            if contexts_BTK is not None:
                contexts_BTK = np.where(draws_B1[:, :, None] < 2 * self.hidden_inputs, 0, contexts_BTK)
        return _Read(view, seen_BS, inputs, told_BT, contexts_BTK)

    def _pool(self, batch: int, epoch: int, step: int) -> tuple[np.ndarray, int]:
        """The rows that are negatives of any of these sessions, and of how many tracks they are drawn."""
        own = self.sampling == "per-session"
        drawn_from = self.num_tracks if self.drawable is None else len(self.drawable)
        pool = draw_pool(
            keys("negative", self.seed, epoch, np.array([step]))[0],
            self.first_place * STRIDE if own else 0,
            self.negatives + ((batch - 1) * STRIDE + self.longest if own else 0),
            drawn_from,
        )
        return pool if self.drawable is None else self.drawable[pool], drawn_from

    def _targets(
        self,
        inputs: Inputs,
        bags: Bags,
        skipped_BT: np.ndarray,
        kept_BT: np.ndarray,
        number_B: np.ndarray,
        epoch: int,
    ) -> dict[str, np.ndarray]:
        """What is predicted at each position, and of which next tracks it is learned whether they were kept."""
        known_BT = skipped_BT | kept_BT
        if self.mask_probability is not None:
            masked_BT, inputs_B = self._masks(inputs, number_B, epoch), inputs.length_B
            targets_BT = next_BT = np.where(masked_BT, bags.items_BT, bags.empty)
            next_known_BT, next_kept_BT = known_BT, kept_BT
        else:
            masked_BT, inputs_B = np.zeros_like(inputs.valid_BT), np.maximum(inputs.length_B - 1, 0)
            next_BT = shifted(bags.items_BT, bags.empty)
            next_known_BT, next_kept_BT = shifted(known_BT, False), shifted(kept_BT, False)
            targets_BT = next_BT
            if self.targets == "next-kept":
                targets_BT = next_kept(bags.items_BT, inputs.valid_BT & kept_BT, bags.empty)
        judged_J = np.flatnonzero((next_BT != bags.empty) & next_known_BT & self.judge)
        return {
            "inputs_B": inputs_B,
            "masked_BT": masked_BT,
            "targets_BT": targets_BT,
            "judged_J": judged_J,
            "judged_tracks_J": next_BT.ravel()[judged_J],
            "judged_kept_J": next_kept_BT.ravel()[judged_J].astype(np.float32),
        }

    def _masks(self, inputs: Inputs, number_B: np.ndarray, epoch: int) -> np.ndarray:
        """bool [B, T]: the tracks to predict: drawn ones, or the last where none is drawn."""
        draws_BT = uniforms(keys("cloze", self.seed, epoch, number_B), inputs.rows_BT.shape[1])
        masked_BT = (draws_BT < self.mask_probability) & inputs.valid_BT
        without = np.flatnonzero(~masked_BT.any(axis=1) & (inputs.length_B > 0))
        masked_BT[without, inputs.length_B[without] - 1] = True
        return masked_BT


@dataclass(frozen=True)
class _Read:
    """What is read of sessions, of which the skip flags that are inputs may differ from those that are learned."""

    view: View
    seen_BS: np.ndarray
    inputs: Inputs
    told_BT: np.ndarray
    contexts_BTK: np.ndarray | None


def _lenders(batch: int, group: int) -> np.ndarray:
    """int64 [B]: the next session in its group of `group`, the first after the last; [0] for groups of 0."""
    place_B = np.arange(batch if group else 0)
    return place_B // max(group, 1) * group + (place_B + 1) % max(group, 1)
