"""From padded sessions to the tensors of one step: splits, cloze, negatives and what is learned from."""

from dataclasses import dataclass, replace
from typing import Literal, Protocol, Self, TypeVar

import numpy as np
import torch

from skipwise.datapipes.bags import Bags
from skipwise.datapipes.batch import EvaluationBatch, EvaluationBatches, SessionBatch
from skipwise.datapipes.config import HELD_OUT
from skipwise.datapipes.negatives import (
    STRIDE,
    draw_pool,
    draw_unseen,
    keys,
    mix,
    own_windows,
    shared_windows,
    uniforms,
)
from skipwise.datapipes.next_plays import next_kept, shifted, until_kept
from skipwise.datapipes.sessions import Sessions
from skipwise.datapipes.signals import UNKNOWN
from skipwise.datapipes.track_features import TrackFeatures
from skipwise.datapipes.view import Inputs, View, counts_as_kept, counts_as_skipped, is_known, shuffled_order


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
        cloze = self.mask_probability is not None
        # One more track is read: the last one is only predicted, unless the cloze masks tracks.
        view = replace(self.view, length=self.view.length + (not cloze))
        past_B = np.maximum(sessions.length_B - self.held_out, 0)
        seen_BS, strengths_BS = view.before(sessions.tracks_BT, sessions.skips_BT, past_B)
        contexts_BSK = sessions.contexts_BTK
        if self.shuffle_inputs or self.shuffle_labels:
            order_BS = shuffled_order(seen_BS >= 0, self.seed, sessions.number_B)
            shuffled_BS = np.take_along_axis(strengths_BS, order_BS, axis=1)
            if self.shuffle_inputs and contexts_BSK is not None:
                contexts_BSK = np.take_along_axis(contexts_BSK, order_BS[:, :, None], axis=1)
        inputs = view.read(seen_BS, shuffled_BS if self.shuffle_labels else strengths_BS, contexts_BSK=contexts_BSK)
        skipped_BT, kept_BT = view.skipped(inputs.strengths_BT), view.kept(inputs.strengths_BT)
        known_BT = skipped_BT | kept_BT
        told_BT, contexts_BTK = inputs.strengths_BT, inputs.contexts_BTK
        if self.shuffle_inputs != self.shuffle_labels:
            told_BT = view.read(seen_BS, shuffled_BS if self.shuffle_inputs else strengths_BS).strengths_BT
        if view.signals.num_rows:
            draws_B1 = uniforms(keys("hide", self.seed, epoch, sessions.number_B), 1)
            told_BT = np.where(draws_B1 < self.hidden_inputs, UNKNOWN, told_BT)
            if contexts_BTK is not None:
                contexts_BTK = np.where(draws_B1[:, :, None] < 2 * self.hidden_inputs, 0, contexts_BTK)
        batch = len(past_B)
        own = self.sampling == "per-session"
        drawn_from = self.num_tracks if self.drawable is None else len(self.drawable)
        pool = draw_pool(
            keys("negative", self.seed, epoch, np.array([step]))[0],
            self.first_place * STRIDE if own else 0,
            self.negatives + ((batch - 1) * STRIDE + self.longest if own else 0),
            drawn_from,
        )
        if self.drawable is not None:
            pool = self.drawable[pool]
        share, shares = self.pool_share
        needed = batch * min(self.longest, view.length) + -(-len(pool) // shares)
        pool, profile_BK = pool[share::shares], sessions.profiles(self.profile)
        bags = Bags(inputs, pool, needed, self.num_tracks, view.signals.num_rows, self.features, profile_BK)
        places_BS = bags.places(seen_BS)
        if own:
            window_B2, collides_X2 = own_windows(places_BS, self.negatives, drawn_from)
        else:
            window_B2, collides_X2 = shared_windows(places_BS, len(pool))
        if cloze:
            masked_BT, inputs_B = self._masks(inputs, sessions.number_B, epoch), inputs.length_B
            targets_BT = next_BT = np.where(masked_BT, bags.items_BT, bags.empty)
            next_known_BT, next_kept_BT = known_BT, kept_BT
        else:
            masked_BT, inputs_B = np.zeros_like(inputs.valid_BT), np.maximum(inputs.length_B - 1, 0)
            next_BT = shifted(bags.items_BT, bags.empty)
            next_known_BT, next_kept_BT = shifted(known_BT, False), shifted(kept_BT, False)
            targets_BT = next_BT
            if self.targets == "next-kept":
                targets_BT = next_kept(bags.items_BT, inputs.valid_BT & kept_BT, bags.empty)
        judged_BT = (next_BT != bags.empty) & next_known_BT & self.judge
        judged_J = np.flatnonzero(judged_BT)
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
            inputs_B=inputs_B,
            skipped_BT=skipped_BT,
            known_BT=known_BT,
            signals_BTC=view.signals.rows(told_BT, contexts_BTK),
            masked_BT=masked_BT,
            targets_BT=targets_BT,
            judged_J=judged_J,
            judged_tracks_J=next_BT.ravel()[judged_J],
            judged_kept_J=next_kept_BT.ravel()[judged_J].astype(np.float32),
            window_B2=window_B2,
            collides_X2=collides_X2,
            skips_of_B=_lenders(batch, self.borrow_from),
            log_q_U=bags.padded(self.log_q),
            session_B=sessions.number_B,
        )

    def _masks(self, inputs: Inputs, number_B: np.ndarray, epoch: int) -> np.ndarray:
        """bool [B, T]: the tracks to predict: drawn ones, or the last where none is drawn."""
        draws_BT = uniforms(keys("cloze", self.seed, epoch, number_B), inputs.rows_BT.shape[1])
        masked_BT = (draws_BT < self.mask_probability) & inputs.valid_BT
        without = np.flatnonzero(~masked_BT.any(axis=1) & (inputs.length_B > 0))
        masked_BT[without, inputs.length_B[without] - 1] = True
        return masked_BT


@dataclass(frozen=True)
class EvaluationBuilder:
    """Batches of targets, each with all that precedes it in its session as the input.

    `targets`: how many tracks from a session's end its one target stands, or "all": every track but the first.
    `size`: targets of a batch.
    `candidates`: uniform tracks a target is ranked among, the same for every model and rank count and for all targets
    of a session (they follow from `seed`, `purpose` and session alone); 0 draws none.
    `append_mask`: the prediction position is an appended mask token.
    """

    seed: int
    view: View
    longest: int
    num_tracks: int
    targets: int | Literal["all"]
    size: int
    candidates: int
    purpose: str
    append_mask: bool
    features: TrackFeatures | None = None
    profile: int = 0

    def build(self, sessions: Sessions, epoch: int, step: int) -> EvaluationBatches:
        """The targets of these sessions; the last batch is filled up."""
        if self.targets == "all":
            owner_V = np.repeat(np.arange(len(sessions.length_B)), np.maximum(sessions.length_B - 1, 0))
            at_V = np.arange(len(owner_V)) - np.searchsorted(owner_V, owner_V) + 1
        else:
            owner_V, at_V = np.arange(len(sessions.length_B)), sessions.length_B - self.targets
            owner_V, at_V = owner_V[at_V >= 1], at_V[at_V >= 1]
        pieces = EvaluationBatches()
        for first in range(0, max(len(owner_V), 1), self.size):
            real = len(owner_V[first : first + self.size])
            owner_B, at_B = np.zeros(self.size, dtype=np.int64), np.zeros(self.size, dtype=np.int64)
            owner_B[:real], at_B[:real] = owner_V[first : first + real], at_V[first : first + real]
            pieces.append(self._piece(sessions, owner_B, at_B, epoch, step))
        return pieces

    def _piece(
        self, sessions: Sessions, owner_B: np.ndarray, at_B: np.ndarray, epoch: int, step: int
    ) -> EvaluationBatch:
        """The targets at `at_B` of the sessions `owner_B`; where that is 0, nothing."""
        real_B = at_B >= 1
        tracks_BT, skips_BT, number_B = (
            sessions.tracks_BT[owner_B],
            sessions.skips_BT[owner_B],
            sessions.number_B[owner_B],
        )
        view = replace(self.view, length=self.view.length - self.append_mask)
        seen_BS, strengths_BS = view.before(tracks_BT, skips_BT, at_B)
        contexts_BSK = None if sessions.contexts_BTK is None else sessions.contexts_BTK[owner_B]
        inputs = view.read(seen_BS, strengths_BS, self.append_mask, contexts_BSK)
        past_BSK = np.zeros((*seen_BS.shape, 0), dtype=np.uint16)
        if contexts_BSK is not None:
            past_BSK = np.where(seen_BS[:, :, None] >= 0, contexts_BSK[:, : seen_BS.shape[1]], 0)
        masked_BT = np.zeros_like(inputs.valid_BT)
        if self.append_mask:
            masked_BT[np.flatnonzero(real_B), inputs.length_B[real_B]] = True
        none = np.zeros(0, dtype=np.int64)
        positions = self.size * min(self.longest, view.length)
        profile_BK = np.where(real_B[:, None], sessions.profiles(self.profile)[owner_B], -1)
        bags = Bags(inputs, none, positions, self.num_tracks, view.signals.num_rows, self.features, profile_BK)
        candidates_BC = np.zeros((self.size, 0), dtype=np.int64)
        if self.candidates:
            used, place_B = np.unique(owner_B, return_inverse=True)
            key_B = keys(self.purpose, self.seed, 0, sessions.number_B[used])
            candidates_BC = draw_unseen(key_B, self.num_tracks, self.candidates, sessions.tracks_BT[used])[place_B]
        row_B = np.arange(self.size), at_B
        # Where one track of a session is held out, those after it are another split's.
        whole_B = real_B & (self.targets == "all")
        known_BS = np.arange(tracks_BT.shape[1]) < sessions.length_B[owner_B][:, None]
        plays_B = np.where(whole_B, sessions.length_B[owner_B], 0)
        place_BT = (at_B - inputs.length_B)[:, None] + np.arange(inputs.rows_BT.shape[1])
        second_BT = inputs.valid_BT & (place_BT >= plays_B[:, None] // 2)
        halved_BT, halved_BTK = np.where(second_BT, UNKNOWN, inputs.strengths_BT), inputs.contexts_BTK
        if halved_BTK is not None:
            halved_BTK = np.where(second_BT[:, :, None], 0, halved_BTK)
        kept_BS, skipped_BS = known_BS & counts_as_kept(skips_BT), known_BS & counts_as_skipped(skips_BT)
        upcoming_BW = until_kept(tracks_BT, kept_BS, skipped_BS, np.where(whole_B, at_B, -1))
        return EvaluationBatch(
            bags.batch(
                epoch,
                step,
                negatives=0,
                drawn_from=0,
                own_U=bags.own(None),
                inputs_B=inputs.length_B + self.append_mask * real_B,
                skipped_BT=view.skipped(inputs.strengths_BT),
                known_BT=is_known(inputs.strengths_BT),
                signals_BTC=view.signals.rows(inputs.strengths_BT, inputs.contexts_BTK),
                masked_BT=masked_BT,
                targets_BT=np.full_like(bags.items_BT, bags.empty),
                judged_J=none,
                judged_tracks_J=none,
                judged_kept_J=np.zeros(0, dtype=np.float32),
                window_B2=np.zeros((self.size, 2), dtype=np.int64),
                collides_X2=np.zeros((0, 2), dtype=np.int64),
                skips_of_B=none,
                log_q_U=bags.padded(None),
                session_B=np.where(real_B, number_B, -1),
            ),
            target_B=torch.from_numpy(np.where(real_B, tracks_BT[row_B], -1)),
            history_BS=torch.from_numpy(seen_BS),
            history_strengths_BS=torch.from_numpy(strengths_BS),
            history_contexts_BSK=torch.from_numpy(past_BSK.astype(np.int16)),
            profile_rows_BK=torch.from_numpy(profile_BK),
            candidates_BC=torch.from_numpy(candidates_BC),
            target_skips_B=torch.from_numpy(skips_BT[row_B]),
            position_B=torch.from_numpy(at_B),
            plays_B=torch.from_numpy(plays_B),
            halved_signals_BTC=torch.from_numpy(view.signals.rows(halved_BT, halved_BTK)),
            upcoming_BW=torch.from_numpy(upcoming_BW),
        )


def _lenders(batch: int, group: int) -> np.ndarray:
    """int64 [B]: the next session in its group of `group`, the first after the last; [0] for groups of 0."""
    place_B = np.arange(batch if group else 0)
    return place_B // max(group, 1) * group + (place_B + 1) % max(group, 1)
