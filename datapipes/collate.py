"""From padded sessions to the tensors of one step: splits, cloze, negatives, and every row once for one lookup."""

from dataclasses import dataclass, replace
from typing import Literal, Protocol, Self, TypeVar

import numpy as np
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from skipwise.datapipes.batch import FEATURE, EvaluationBatch, SessionBatch
from skipwise.datapipes.config import HELD_OUT
from skipwise.datapipes.negatives import (
    STRIDE,
    Windows,
    draw_pool,
    draw_unseen,
    keys,
    own_windows,
    shared_windows,
    uniforms,
)
from skipwise.datapipes.sessions import Sessions
from skipwise.datapipes.view import Inputs, View, shuffle_flags


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
    `shuffle_seed`: where given, skip flags change places within each session.
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
    shuffle_seed: int | None = None

    def build(self, sessions: Sessions, epoch: int, step: int) -> SessionBatch:
        """Removes the held-out tracks and their skips, and draws masks and negatives."""
        # One more track is read: the last one is only predicted, unless the cloze masks tracks.
        spare = 1 if self.mask_probability is None else 0
        view = replace(self.view, length=self.view.length + spare)
        past_B = np.maximum(sessions.length_B - self.held_out, 0)
        seen_BS, skipped_BS = view.before(sessions.tracks_BT, sessions.skips_BT, past_B)
        if self.shuffle_seed is not None:
            skipped_BS = shuffle_flags(skipped_BS, seen_BS >= 0, self.shuffle_seed, sessions.number_B)
        inputs = view.read(seen_BS, skipped_BS)
        batch, width = inputs.rows_BT.shape
        if self.mask_probability is None:
            masked_BT = np.zeros((batch, width), dtype=bool)
            predicts_BT = np.zeros((batch, width), dtype=bool)
            predicts_BT[:, :-1] = inputs.valid_BT[:, 1:]
            inputs_B = np.maximum(inputs.length_B - 1, 0)
        else:
            draws_BT = uniforms(keys("cloze", self.seed, epoch, sessions.number_B), width)
            masked_BT = (draws_BT < self.mask_probability) & inputs.valid_BT
            without = np.flatnonzero(~masked_BT.any(axis=1) & (inputs.length_B > 0))
            masked_BT[without, inputs.length_B[without] - 1] = True
            predicts_BT, inputs_B = masked_BT, inputs.length_B
        pool_key = keys("negative", self.seed, epoch, np.array([step]))[0]
        pool = self.negatives
        if self.sampling == "per-session":
            pool += (batch - 1) * STRIDE + self.longest
        first = self.first_place * STRIDE if self.sampling == "per-session" else 0
        negatives = draw_pool(pool_key, first, pool, self.num_tracks)
        bags = _Bags(inputs, negatives, batch * min(self.longest, view.length), self.num_tracks)
        places_BS = bags.places(seen_BS)
        if self.sampling == "shared":
            windows = shared_windows(places_BS, self.negatives)
        else:
            windows = own_windows(places_BS, self.negatives, self.num_tracks)
        targets_BT = np.full((batch, width), bags.empty)
        if self.mask_probability is None:
            targets_BT[:, :-1] = bags.items_BT[:, 1:]
        else:
            targets_BT[predicts_BT] = bags.items_BT[predicts_BT]
        return bags.batch(
            inputs,
            inputs_B,
            masked_BT,
            targets_BT,
            sessions.number_B,
            epoch,
            step,
            windows,
            self.negatives,
            skips_of_B=_lenders(batch, self.borrow_from) if self.borrow_from else None,
            log_q=self.log_q,
        )


@dataclass(frozen=True)
class EvaluationBuilder:
    """Leave-one-out batches of one split: the input is all that precedes the target.

    `candidates`: uniform tracks a target is ranked among, the same for every model and rank count (they follow from
    `seed`, split and session alone); 0 draws none. `append_mask`: the prediction position is an appended mask token.
    """

    seed: int
    view: View
    longest: int
    num_tracks: int
    split: Literal["validation", "test"]
    candidates: int
    append_mask: bool

    def build(self, sessions: Sessions, epoch: int, step: int) -> EvaluationBatch:
        """Removes the split's track and all after it. A session with no track before it is left out."""
        target_at_B = sessions.length_B - HELD_OUT[self.split]
        real_B = target_at_B >= 1
        spare = 1 if self.append_mask else 0
        view = replace(self.view, length=self.view.length - spare)
        seen_BS, skipped_BS = view.before(sessions.tracks_BT, sessions.skips_BT, np.maximum(target_at_B, 0))
        inputs = view.read(seen_BS, skipped_BS, padding=spare)
        batch, width = inputs.rows_BT.shape
        at_B = np.arange(batch), np.maximum(target_at_B, 0)
        masked_BT = np.zeros((batch, width), dtype=bool)
        if self.append_mask:
            masked_BT[np.flatnonzero(real_B), inputs.length_B[real_B]] = True
        bags = _Bags(inputs, np.zeros(0, dtype=np.int64), batch * min(self.longest, view.length), self.num_tracks)
        candidates_BC = np.zeros((batch, 0), dtype=np.int64)
        if self.candidates:
            key_B = keys("rank-" + self.split[:3], self.seed, 0, sessions.number_B)
            candidates_BC = draw_unseen(key_B, self.num_tracks, self.candidates, sessions.tracks_BT)
        return EvaluationBatch(
            bags.batch(
                inputs,
                inputs.length_B + self.append_mask * real_B,
                masked_BT,
                np.full((batch, width), bags.empty),
                np.where(real_B, sessions.number_B, -1),
                epoch,
                step,
                shared_windows(np.zeros((batch, 0), dtype=np.int64), 0),
                negatives=0,
            ),
            target_B=torch.from_numpy(np.where(real_B, sessions.tracks_BT[at_B], -1)),
            history_BS=torch.from_numpy(seen_BS),
            candidates_BC=torch.from_numpy(candidates_BC),
            target_skips_B=torch.from_numpy(sessions.skips_BT[at_B]),
            position_B=torch.from_numpy(target_at_B),
        )


def _lenders(batch: int, group: int) -> np.ndarray:
    """int64 [B]: the next session in its group of `group`, the first after the last."""
    place_B = np.arange(batch)
    return place_B // group * group + (place_B + 1) % group


class _Bags:
    """The distinct rows of sessions and negatives as bags, and the bag of each."""

    def __init__(self, inputs: Inputs, negatives: np.ndarray, positions: int, num_tracks: int):
        """`positions`: the most rows that the sessions of any batch can need; it fixes the number of bags.

        There are never more bags than `num_tracks` and the empty one.
        """
        wanted = np.concatenate([inputs.rows_BT[inputs.valid_BT], negatives.ravel()])
        rows, places = np.unique(wanted, return_inverse=True)
        count = len(wanted) - negatives.size
        self.rows = rows
        self.capacity = min(positions + negatives.size, num_tracks) + 1
        self.empty = self.capacity - 1
        self.items_BT = np.full(inputs.rows_BT.shape, self.empty, dtype=np.int64)
        self.items_BT[inputs.valid_BT] = places[:count]
        self.negatives_P = places[count:]

    def places(self, tracks_BS: np.ndarray) -> np.ndarray:
        """Returns int64 [B, S]: the first place of each track in the pool of negatives, -1 for a track not in it."""
        place_of_bag = np.full(self.capacity, -1)
        # In reverse order, so that the first of several places is kept.
        place_of_bag[self.negatives_P[::-1]] = np.arange(len(self.negatives_P))[::-1]
        bag_BS = np.searchsorted(self.rows, tracks_BS)
        found_BS = np.append(self.rows, -2)[bag_BS] == tracks_BS
        return np.where(found_BS, place_of_bag[bag_BS], -1)

    def batch(
        self,
        inputs: Inputs,
        inputs_B: np.ndarray,
        masked_BT: np.ndarray,
        targets_BT: np.ndarray,
        session_B: np.ndarray,
        epoch: int,
        step: int,
        windows: Windows,
        negatives: int,
        skips_of_B: np.ndarray | None = None,
        log_q: np.ndarray | None = None,
    ) -> SessionBatch:
        lengths = torch.zeros(self.capacity, dtype=torch.int32)
        lengths[: len(self.rows)] = 1
        log_q_U = np.zeros(0 if log_q is None else self.capacity, dtype=np.float32)
        if log_q is not None:
            log_q_U[: len(self.rows)] = log_q[self.rows]
        return SessionBatch(
            tracks=KeyedJaggedTensor(keys=[FEATURE], values=torch.from_numpy(self.rows), lengths=lengths),
            items_BT=torch.from_numpy(self.items_BT),
            skipped_BT=torch.from_numpy(inputs.skipped_BT),
            inputs_B=torch.from_numpy(inputs_B),
            masked_BT=torch.from_numpy(masked_BT),
            targets_BT=torch.from_numpy(targets_BT),
            tokens_N=torch.from_numpy(np.flatnonzero(np.arange(targets_BT.shape[1]) < inputs_B[:, None])),
            queries_V=torch.from_numpy(np.flatnonzero(targets_BT != self.empty)),
            negatives_P=torch.from_numpy(self.negatives_P),
            window_B2=torch.from_numpy(windows.window_B2),
            collides_X2=torch.from_numpy(windows.collides_X2),
            skips_of_B=torch.from_numpy(np.zeros(0, dtype=np.int64) if skips_of_B is None else skips_of_B),
            log_q_U=torch.from_numpy(log_q_U),
            session_B=torch.from_numpy(session_B),
            negatives=negatives,
            epoch=epoch,
            step=step,
        )
