"""From sessions of rows to ranked rows: encode, turn the dial, search, and leave out tracks of the session.

Shape legend: B sessions, T tracks, P plays, D width, Y of the encoder's outputs, K best or context columns, X rows to
leave out, Q tracks to find the nearest of, N tracks of a profile.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from skipwise.common.errors import UserError
from skipwise.models.dial import dialled, keep_query
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.recommend.config import Dial, Exclude, Likeness, RecommendOptions
from skipwise.retrieval.recommend.track_columns import TrackColumns
from skipwise.retrieval.search.allowed import Allowed
from skipwise.retrieval.search.exact import ExactSearch, Search


@dataclass(frozen=True)
class SessionHistory:
    """The plays of sessions so far, oldest first, padded on the right."""

    rows_BT: np.ndarray
    """int64: track rows; -1 is padding."""
    strengths_BT: np.ndarray
    """int8: skip strengths, 0 kept, `UNKNOWN` where it is not known; 0 at padding."""
    contexts_BTK: np.ndarray | None = None
    """int64: codes of the context columns that the encoder reads, 0 for what is not known; None: nothing is."""
    profile_BN: np.ndarray | None = None
    """int64: rows of what the listener kept in earlier sessions, the last ones first, -1 behind them; None: nothing."""

    @classmethod
    def of(
        cls, sessions: list[list[tuple[int, ...]]], profiles: Sequence[Sequence[int]] | None = None
    ) -> "SessionHistory":
        """Of (row, strength), and perhaps the K codes of context columns behind these; `profiles`: rows, the last ones
        at the end."""
        plays = [play for session in sessions for play in session]
        rows_P, strengths_P = (np.array([play[column] for play in plays]) for column in (0, 1))
        contexts_PK = np.array([play[2:] for play in plays]) if plays and len(plays[0]) > 2 else None
        profile_BN = None
        if profiles is not None:
            profile_BN = np.full((len(profiles), max(map(len, profiles), default=0)), -1, dtype=np.int64)
            for rows_N, profile in zip(profile_BN, profiles, strict=True):
                rows_N[: len(profile)] = profile[::-1]
        lengths_B = np.array(list(map(len, sessions)), dtype=np.int64)
        return cls.flat(lengths_B, rows_P, strengths_P, contexts_PK, profile_BN)

    @classmethod
    def flat(
        cls,
        lengths_B: np.ndarray,
        rows_P: np.ndarray,
        strengths_P: np.ndarray,
        contexts_PK: np.ndarray | None = None,
        profile_BN: np.ndarray | None = None,
    ) -> "SessionHistory":
        """Of plays in one array, session after session."""
        real_BT = np.arange(lengths_B.max(initial=0)) < lengths_B[:, None]
        rows_BT = np.full(real_BT.shape, -1, dtype=np.int64)
        strengths_BT = np.zeros(real_BT.shape, dtype=np.int8)
        rows_BT[real_BT], strengths_BT[real_BT] = rows_P, strengths_P
        contexts_BTK = None
        if contexts_PK is not None:
            contexts_BTK = np.zeros((*real_BT.shape, contexts_PK.shape[1]), dtype=np.int64)
            contexts_BTK[real_BT] = contexts_PK
        return cls(rows_BT, strengths_BT, contexts_BTK, profile_BN)


class Recommended(NamedTuple):
    """Best first."""

    rows_BK: np.ndarray
    """int64; -1 where the catalogue has no more."""
    scores_BK: np.ndarray
    """float32."""
    kept_BK: np.ndarray | None
    """float32: P(kept) of each, 0 where there is none; None for an export without a keep head."""


_DEFAULT = RecommendOptions()
_TAKEN = 1 << 15
"""Rows of recommended tracks in memory at a time."""
_COOLED = 64
"""Sessions whose artists' tracks are in memory at a time: an artist may have a hundred thousand."""


class Recommender:
    """Recommends rows of one export by one search. Safe to call from several threads."""

    def __init__(self, opened: OpenExport, search: Search, columns: TrackColumns | None = None):
        """`columns`: what `filter` and `cool_down` read; the export's own unless given."""
        self._opened, self._search, self._columns = opened, search, columns
        self._nearest = {by: ExactSearch(opened.embeddings, by == "cosine") for by in get_args(Likeness)}
        if isinstance(search, ExactSearch) and not opened.manifest.keep:
            self._nearest["inner-product"] = search  # over the same rows, so with one first pass

    def over(self, opened: OpenExport, search: Search, columns: TrackColumns) -> "Recommender":
        """Of an export that this one's is to become, by a search of it; `changed` then says which rows it has anew."""
        found = Recommender(opened, search, columns)
        mine = self._nearest
        found._nearest |= {by: mine[by].over(opened.embeddings) for by in mine if mine[by] is not self._search}
        return found

    def set_up(self) -> None:
        """Sets the exact search up before it is asked; that for `similar` waits until it is."""
        if isinstance(self._search, ExactSearch):
            self._search.set_up()

    def changed(self, rows_X: np.ndarray) -> None:
        """Rows `rows_X` have been written anew; nobody may be asking."""
        for search in {id(one): one for one in (self._search, *self._nearest.values())}.values():
            search.changed(rows_X)

    @cached_property
    def columns(self) -> TrackColumns:
        """What tracks are chosen by."""
        return TrackColumns(self._opened.tracks) if self._columns is None else self._columns

    @torch.no_grad()
    def recommend(self, history: SessionHistory, options: RecommendOptions = _DEFAULT) -> Recommended:
        """Recommends `options.k` rows for each session."""
        keep, view = self._opened.manifest.keep, self._opened.view
        if not len(history.rows_BT):
            empty_BK = np.zeros((0, options.k), dtype=np.float32)
            return Recommended(empty_BK.astype(np.int64), empty_BK, empty_BK if keep else None)
        outputs_BY = self.outputs(history)
        queries_BD = dialled(outputs_BY, keep.dim if keep else 0, self.dial(options.dial))
        excluded_BX = excluded(history, view.skipped(history.strengths_BT), options.exclude)
        rows_BK, scores_BK = self._best(queries_BD, history, excluded_BX, options)
        kept_BK = self._kept(outputs_BY, rows_BK.numpy(), keep.dim) if keep else None
        return Recommended(rows_BK.numpy(), scores_BK.numpy(), kept_BK)

    def _best(
        self, queries_BD: Tensor, history: SessionHistory, excluded_BX: np.ndarray, options: RecommendOptions
    ) -> tuple[Tensor, Tensor]:
        """The search, among the tracks that `filter` and `cool_down` allow."""
        allowed = self.columns.allowed(options.filter)
        if not options.cool_down:
            return self._search.search(queries_BD, options.k, torch.from_numpy(excluded_BX), allowed)
        if allowed is None:
            allowed = Allowed.of(np.ones(self._opened.manifest.rows, dtype=bool))
        found = []
        for first in range(0, len(queries_BD), _COOLED):
            part = slice(first, first + _COOLED)
            cooling_BX = self.columns.cooling(history.rows_BT[part], options.cool_down)
            left_out_BX = torch.from_numpy(np.concatenate([excluded_BX[part], cooling_BX], axis=1))
            found.append(self._search.search(queries_BD[part], options.k, left_out_BX, allowed))
        rows_BK, scores_BK = (torch.cat(pieces) for pieces in zip(*found, strict=True))
        return rows_BK, scores_BK

    def dial(self, setting: Dial) -> float:
        """The number that `setting` stands for; raises `UserError` where the export has no keep head to turn."""
        keep = self._opened.manifest.keep
        if keep is None and setting:
            raise UserError(
                f"dial {setting} needs a keep head: train with --loss.keep and export, or leave the dial at 0"
            )
        return (keep.dial if keep else 0.0) if setting == "auto" else setting

    def unmeasured(self, setting: Dial) -> str:
        """A sentence where the dial lies beyond what `export` has measured; else empty."""
        keep = self._opened.manifest.keep
        if keep is None or setting == "auto" or setting <= keep.curve[-1].dial:
            return ""
        return (
            f"dial {setting:g} lies beyond {keep.curve[-1].dial:g}, up to which {self._opened.path} says what the dial "
            "costs and gains: evaluate --dial measures it"
        )

    def _kept(self, outputs_BY: Tensor, rows_BK: np.ndarray, keep_dim: int) -> np.ndarray:
        """float32 [B, K]: P(kept) of these rows, 0 for -1."""
        queries_BD, bias_B1 = keep_query(outputs_BY, keep_dim)
        kept_BK = np.zeros(rows_BK.shape, dtype=np.float32)
        size = max(_TAKEN // rows_BK.shape[1], 1)
        for first in range(0, len(rows_BK), size):
            part = slice(first, first + size)
            taken_ND = self._opened.vectors.take(np.maximum(rows_BK[part], 0).ravel())
            taken_BKD = torch.from_numpy(taken_ND).view(*rows_BK[part].shape, -1)
            logits_BK = torch.einsum("bkd,bd->bk", taken_BKD, queries_BD[part]) + bias_B1[part]
            kept_BK[part] = logits_BK.sigmoid().numpy() * (rows_BK[part] >= 0)
        return kept_BK

    @torch.no_grad()
    def similar(self, rows_Q: np.ndarray, k: int, by: Likeness) -> tuple[np.ndarray, np.ndarray]:
        """Rows int64 [Q, K] most similar to each of `rows_Q`, itself left out, and their similarity float32 [Q, K].

        By the exact search. Row -1 where there are no more.
        """
        queries_QD = torch.from_numpy(self._opened.embeddings.take(rows_Q))
        if by == "cosine":
            queries_QD = normalize(queries_QD, dim=1)
        rows_QK, scores_QK = self._nearest[by].search(queries_QD, k, torch.from_numpy(rows_Q)[:, None])
        return rows_QK.numpy(), scores_QK.numpy()

    def queries(self, history: SessionHistory, dial: float = 0.0) -> Tensor:
        """Queries, float32 [B, D], B at least 1: their inner product with a row is its score at this dial."""
        keep = self._opened.manifest.keep
        return dialled(self.outputs(history), keep.dim if keep else 0, dial)

    @torch.inference_mode()
    def outputs(self, history: SessionHistory) -> Tensor:
        """The encoder's outputs, float32 [B, Y], B at least 1.

        Reads each session as in training: its last tracks, and without the skipped ones if the run was trained so. A
        session of which nothing is read gets the query of an empty session, as in `evaluate`.
        """
        view = self._opened.view
        inputs = view.read(history.rows_BT, history.strengths_BT, contexts_BSK=history.contexts_BTK)
        read = [self._vectors(inputs.rows_BT), inputs.length_B]
        if view.signals.num_rows:
            read.append(view.signals.rows(inputs.strengths_BT, inputs.contexts_BTK))
        profiles: dict[str, Tensor] = {}
        if most := self._opened.profile:
            given_BN = np.full((len(history.rows_BT), most), -1, dtype=np.int64)
            if history.profile_BN is not None:
                width = min(most, history.profile_BN.shape[1])
                given_BN[:, :width] = history.profile_BN[:, :width]
            profiles["profile_BKD"] = torch.from_numpy(self._vectors(given_BN))
            profiles["profile_lengths_B"] = torch.from_numpy((given_BN >= 0).sum(axis=1))
        outputs_BY: Tensor = self._opened.encoder(*map(torch.from_numpy, read), **profiles)
        return outputs_BY

    def _vectors(self, rows_BT: np.ndarray) -> np.ndarray:
        """float32 [B, T, X]; zero where a row is -1."""
        items_BTX: np.ndarray = self._opened.vectors.take(np.maximum(rows_BT, 0).ravel()).reshape(*rows_BT.shape, -1)
        items_BTX[rows_BT < 0] = 0
        return items_BTX


def excluded(history: SessionHistory, skipped_BT: np.ndarray, exclude: Exclude) -> np.ndarray:
    """int64 [B, X]: the rows that `exclude` leaves out of each session's recommendations; -1 for none."""
    chosen_BT = {
        "session": history.rows_BT >= 0,
        "kept": ~skipped_BT,
        "skipped": skipped_BT,
        "none": np.zeros_like(skipped_BT),
    }[exclude]
    return np.where(chosen_BT, history.rows_BT, -1)
