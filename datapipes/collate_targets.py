"""From padded sessions to the tensors of evaluation: targets, what precedes each, and candidates."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from skipwise.datapipes.bags import Bags
from skipwise.datapipes.batch import EvaluationBatch, EvaluationBatches
from skipwise.datapipes.negatives import draw_unseen, keys
from skipwise.datapipes.next_plays import until_kept
from skipwise.datapipes.sessions import Sessions
from skipwise.datapipes.signals import UNKNOWN
from skipwise.datapipes.track_features import TrackFeatures
from skipwise.datapipes.view import View, counts_as_kept, counts_as_skipped, is_known


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
