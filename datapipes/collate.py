"""From padded sessions to the tensors of one step: splits, cloze, negatives, and every row once for one lookup."""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from datapipes.batch import FEATURE, EvaluationBatch, SessionBatch
from datapipes.negatives import draw_unseen, keys, uniforms
from datapipes.sessions import Sessions

HELD_OUT = {"validation": 2, "test": 1}
"""Which track from the session's end each split predicts; training sees neither."""


class BatchBuilder(Protocol):
    """Turns the sessions a rank was dealt into the batch of one step."""

    seed: int

    def build(self, sessions: Sessions, epoch: int, step: int) -> SessionBatch | EvaluationBatch: ...


@dataclass(frozen=True)
class TrainBuilder:
    """Training batches: next-track targets, or cloze where `mask_probability` is given.

    `length`: most positions a session may have; `tracks`: the catalogue's size; `sampling`: see `DataConfig`.
    """

    seed: int
    length: int
    tracks: int
    negatives: int
    sampling: Literal["shared", "per-session"]
    mask_probability: float | None

    def build(self, sessions: Sessions, epoch: int, step: int) -> SessionBatch:
        """Cuts the two held-out tracks off, with their skips, and draws cloze and negatives."""
        inputs = _Inputs(sessions, np.maximum(sessions.length_B - 2, 0))
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
        if self.sampling == "shared":
            step_key = keys("negative", self.seed, epoch, np.array([step]))
            negatives = draw_unseen(step_key, self.tracks, self.negatives, np.zeros((1, 0), dtype=np.int64))[0]
        else:
            session_keys = keys("negative", self.seed, epoch, sessions.number_B)
            negatives = draw_unseen(session_keys, self.tracks, self.negatives, inputs.rows_BT)
        bags = _Bags(inputs, negatives, batch * self.length, self.tracks)
        targets_BT = np.full((batch, width), bags.empty)
        if self.mask_probability is None:
            targets_BT[:, :-1] = bags.items_BT[:, 1:]
        else:
            targets_BT[predicts_BT] = bags.items_BT[predicts_BT]
        return bags.batch(inputs, inputs_B, masked_BT, targets_BT, sessions.number_B, epoch, step)


@dataclass(frozen=True)
class EvaluationBuilder:
    """Leave-one-out batches of one split: the input is all that precedes the target.

    `candidates`: uniform tracks a target is ranked among, the same for every model and rank count (they follow from
    `seed`, split and session alone); 0 draws none. `append_mask`: the prediction position is an appended mask token.
    """

    seed: int
    length: int
    tracks: int
    split: Literal["validation", "test"]
    candidates: int
    append_mask: bool

    def build(self, sessions: Sessions, epoch: int, step: int) -> EvaluationBatch:
        """Holds the split's track out; its skip flag is cut with it. A session with no track before it is left out."""
        target_at_B = sessions.length_B - HELD_OUT[self.split]
        inputs = _Inputs(sessions, np.maximum(target_at_B, 0), spare=1 if self.append_mask else 0)
        batch, width = inputs.rows_BT.shape
        real_B = target_at_B >= 1
        target_B = np.where(real_B, sessions.tracks_BT[np.arange(batch), np.maximum(target_at_B, 0)], -1)
        masked_BT = np.zeros((batch, width), dtype=bool)
        if self.append_mask:
            masked_BT[np.flatnonzero(real_B), inputs.length_B[real_B]] = True
        bags = _Bags(inputs, np.zeros(0, dtype=np.int64), batch * self.length, self.tracks)
        empty_BT = np.full((batch, width), bags.empty)
        candidates_BC = np.zeros((batch, 0), dtype=np.int64)
        if self.candidates:
            key_B = keys("rank-" + self.split[:3], self.seed, 0, sessions.number_B)
            candidates_BC = draw_unseen(key_B, self.tracks, self.candidates, sessions.tracks_BT)
        return EvaluationBatch(
            bags.batch(
                inputs,
                inputs.length_B + self.append_mask * real_B,
                masked_BT,
                empty_BT,
                np.where(real_B, sessions.number_B, -1),
                epoch,
                step,
            ),
            torch.from_numpy(target_B),
            torch.from_numpy(inputs.rows_BT),
            torch.from_numpy(candidates_BC),
        )


class _Inputs:
    """The first `length_B` tracks of each session, `spare` padding positions kept behind the longest."""

    def __init__(self, sessions: Sessions, length_B: np.ndarray, spare: int = 0):
        width = max(1, int(length_B.max(initial=0)) + spare)
        self.length_B = length_B
        self.valid_BT = np.arange(width) < length_B[:, None]
        self.rows_BT = np.where(self.valid_BT, sessions.tracks_BT[:, :width], -1)
        self.skipped_BT = self.valid_BT & np.isin(sessions.skips_BT[:, :width], (1, 2))


class _Bags:
    """Distinct rows of sessions and negatives as bags, and where each of them went."""

    def __init__(self, inputs: _Inputs, negatives: np.ndarray, positions: int, tracks: int):
        """`positions`: the most rows that the sessions of any batch can ask for; it fixes the number of bags.

        A catalogue of `tracks` rows never needs more bags than that.
        """
        wanted = np.concatenate([inputs.rows_BT[inputs.valid_BT], negatives.ravel()])
        rows, places = np.unique(wanted, return_inverse=True)
        count = len(wanted) - negatives.size
        self.rows = rows
        self.capacity = min(positions + negatives.size, tracks) + 1
        self.empty = self.capacity - 1
        self.items_BT = np.full(inputs.rows_BT.shape, self.empty, dtype=np.int64)
        self.items_BT[inputs.valid_BT] = places[:count]
        self.negatives = places[count:].reshape(negatives.shape)

    def batch(
        self,
        inputs: _Inputs,
        inputs_B: np.ndarray,
        masked_BT: np.ndarray,
        targets_BT: np.ndarray,
        session_B: np.ndarray,
        epoch: int,
        step: int,
    ) -> SessionBatch:
        lengths = torch.zeros(self.capacity, dtype=torch.int32)
        lengths[: len(self.rows)] = 1
        return SessionBatch(
            tracks=KeyedJaggedTensor(keys=[FEATURE], values=torch.from_numpy(self.rows), lengths=lengths),
            items_BT=torch.from_numpy(self.items_BT),
            skipped_BT=torch.from_numpy(inputs.skipped_BT),
            inputs_B=torch.from_numpy(inputs_B),
            masked_BT=torch.from_numpy(masked_BT),
            targets_BT=torch.from_numpy(targets_BT),
            negatives=torch.from_numpy(self.negatives),
            collides_BK=torch.from_numpy(self._collisions()),
            session_B=torch.from_numpy(session_B),
            epoch=epoch,
            step=step,
        )

    def _collisions(self) -> np.ndarray:
        """bool [B, K] for a shared pool, [B, 0] otherwise: per-session draws exclude the session already."""
        batch = len(self.items_BT)
        shared = self.negatives if self.negatives.ndim == 1 else self.negatives[:0, 0]
        column_of_bag = np.full(self.capacity, -1)
        column_of_bag[shared] = np.arange(len(shared))
        column_BT = column_of_bag[self.items_BT]
        collides_BK = np.zeros((batch, len(shared)), dtype=bool)
        session, position = np.nonzero(column_BT >= 0)
        collides_BK[session, column_BT[session, position]] = True
        return collides_BK
