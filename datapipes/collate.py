"""From padded sessions to the tensors of one step: splits, cloze, negatives, and every row once for one lookup."""

from dataclasses import dataclass, replace
from typing import Literal, Protocol, Self, TypeVar

import numpy as np
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from skipwise.datapipes.batch import FEATURE, EvaluationBatch, EvaluationBatches, SessionBatch
from skipwise.datapipes.config import HELD_OUT
from skipwise.datapipes.negatives import STRIDE, draw_pool, draw_unseen, keys, own_windows, shared_windows, uniforms
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
        cloze = self.mask_probability is not None
        # One more track is read: the last one is only predicted, unless the cloze masks tracks.
        view = replace(self.view, length=self.view.length + (not cloze))
        past_B = np.maximum(sessions.length_B - self.held_out, 0)
        seen_BS, skipped_BS = view.before(sessions.tracks_BT, sessions.skips_BT, past_B)
        if self.shuffle_seed is not None:
            skipped_BS = shuffle_flags(skipped_BS, seen_BS >= 0, self.shuffle_seed, sessions.number_B)
        inputs = view.read(seen_BS, skipped_BS)
        batch = len(past_B)
        own = self.sampling == "per-session"
        pool = draw_pool(
            keys("negative", self.seed, epoch, np.array([step]))[0],
            self.first_place * STRIDE if own else 0,
            self.negatives + ((batch - 1) * STRIDE + self.longest if own else 0),
            self.num_tracks,
        )
        bags = _Bags(inputs, pool, batch * min(self.longest, view.length), self.num_tracks)
        places_BS = bags.places(seen_BS)
        if own:
            window_B2, collides_X2 = own_windows(places_BS, self.negatives, self.num_tracks)
        else:
            window_B2, collides_X2 = shared_windows(places_BS, self.negatives)
        if cloze:
            masked_BT, inputs_B = self._masks(inputs, sessions.number_B, epoch), inputs.length_B
            targets_BT = np.where(masked_BT, bags.items_BT, bags.empty)
        else:
            masked_BT, inputs_B = np.zeros_like(inputs.skipped_BT), np.maximum(inputs.length_B - 1, 0)
            targets_BT = np.full_like(bags.items_BT, bags.empty)
            targets_BT[:, :-1] = bags.items_BT[:, 1:]
        return bags.batch(
            epoch,
            step,
            self.negatives,
            inputs_B=inputs_B,
            masked_BT=masked_BT,
            targets_BT=targets_BT,
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
        seen_BS, skipped_BS = view.before(tracks_BT, skips_BT, at_B)
        inputs = view.read(seen_BS, skipped_BS, padding=self.append_mask)
        masked_BT = np.zeros_like(inputs.skipped_BT)
        if self.append_mask:
            masked_BT[np.flatnonzero(real_B), inputs.length_B[real_B]] = True
        none = np.zeros(0, dtype=np.int64)
        bags = _Bags(inputs, none, self.size * min(self.longest, view.length), self.num_tracks)
        candidates_BC = np.zeros((self.size, 0), dtype=np.int64)
        if self.candidates:
            used, place_B = np.unique(owner_B, return_inverse=True)
            key_B = keys(self.purpose, self.seed, 0, sessions.number_B[used])
            candidates_BC = draw_unseen(key_B, self.num_tracks, self.candidates, sessions.tracks_BT[used])[place_B]
        row_B = np.arange(self.size), at_B
        return EvaluationBatch(
            bags.batch(
                epoch,
                step,
                negatives=0,
                inputs_B=inputs.length_B + self.append_mask * real_B,
                masked_BT=masked_BT,
                targets_BT=np.full_like(bags.items_BT, bags.empty),
                window_B2=np.zeros((self.size, 2), dtype=np.int64),
                collides_X2=np.zeros((0, 2), dtype=np.int64),
                skips_of_B=none,
                log_q_U=bags.padded(None),
                session_B=np.where(real_B, number_B, -1),
            ),
            target_B=torch.from_numpy(np.where(real_B, tracks_BT[row_B], -1)),
            history_BS=torch.from_numpy(seen_BS),
            history_skipped_BS=torch.from_numpy(skipped_BS),
            candidates_BC=torch.from_numpy(candidates_BC),
            target_skips_B=torch.from_numpy(skips_BT[row_B]),
            position_B=torch.from_numpy(at_B),
        )


def _lenders(batch: int, group: int) -> np.ndarray:
    """int64 [B]: the next session in its group of `group`, the first after the last; [0] for groups of 0."""
    place_B = np.arange(batch if group else 0)
    return place_B // max(group, 1) * group + (place_B + 1) % max(group, 1)


class _Bags:
    """The distinct rows of sessions and negatives as bags, and the bag of each."""

    def __init__(self, inputs: Inputs, negatives: np.ndarray, positions: int, num_tracks: int):
        """`positions`: the most rows that the sessions of any batch can need; it fixes the number of bags.

        There are never more bags than `num_tracks` and the empty one.
        """
        wanted = np.concatenate([inputs.rows_BT[inputs.valid_BT], negatives])
        self.rows, places = np.unique(wanted, return_inverse=True)
        count = len(wanted) - len(negatives)
        self.empty = min(positions + len(negatives), num_tracks)
        self.items_BT = np.full(inputs.rows_BT.shape, self.empty, dtype=np.int64)
        self.items_BT[inputs.valid_BT] = places[:count]
        self.negatives_P = places[count:]
        self._skipped_BT = inputs.skipped_BT

    def places(self, tracks_BS: np.ndarray) -> np.ndarray:
        """Returns int64 [B, S]: the first place of each track in the pool of negatives, -1 for a track not in it."""
        place_of_bag = np.full(self.empty + 1, -1)
        # In reverse order, so that the first of several places is kept.
        place_of_bag[self.negatives_P[::-1]] = np.arange(len(self.negatives_P))[::-1]
        bag_BS = np.searchsorted(self.rows, tracks_BS)
        found_BS = np.append(self.rows, -2)[bag_BS] == tracks_BS
        return np.where(found_BS, place_of_bag[bag_BS], -1)

    def padded(self, values: np.ndarray | None) -> np.ndarray:
        """float32 [U]: each bag's value of `values` [num_tracks], 0 for an empty bag; [0] without values."""
        padded_U = np.zeros(0 if values is None else self.empty + 1, dtype=np.float32)
        if values is not None:
            padded_U[: len(self.rows)] = values[self.rows]
        return padded_U

    def batch(self, epoch: int, step: int, negatives: int, **arrays: np.ndarray) -> SessionBatch:
        """The batch of these bags; `arrays`: those of its fields that do not follow from the bags."""
        lengths = torch.zeros(self.empty + 1, dtype=torch.int32)
        lengths[: len(self.rows)] = 1
        width = np.arange(arrays["targets_BT"].shape[1])
        arrays |= {
            "items_BT": self.items_BT,
            "skipped_BT": self._skipped_BT,
            "negatives_P": self.negatives_P,
            "tokens_N": np.flatnonzero(width < arrays["inputs_B"][:, None]),
            "queries_V": np.flatnonzero(arrays["targets_BT"] != self.empty),
        }
        return SessionBatch(
            tracks=KeyedJaggedTensor(keys=[FEATURE], values=torch.from_numpy(self.rows), lengths=lengths),
            negatives=negatives,
            epoch=epoch,
            step=step,
            **{name: torch.from_numpy(values) for name, values in arrays.items()},
        )
