"""Every row of a batch once: the bags of its one lookup, and where each play and negative is among them.

Shape legend: that of `skipwise.datapipes.batch`.
"""

from typing import Any

import numpy as np
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from skipwise.datapipes.batch import FEATURE, SIGNAL_FEATURE, SessionBatch, value_feature
from skipwise.datapipes.track_features import TrackFeatures
from skipwise.datapipes.view import Inputs


def bags_of(
    rows: np.ndarray, num_bags: int, num_signals: int, features: TrackFeatures | None = None
) -> tuple[KeyedJaggedTensor, dict[str, np.ndarray]]:
    """The ids of one lookup of these rows, distinct and ascending, and of what is read beside them.

    Bags after the rows are empty. The first `num_signals` bags hold the rows of the signals' table. Also the fields
    `numbers_UF` and `shares_UC` of a batch.
    """
    values, counts = [rows], [np.full(len(rows), 1)]
    keys, numbers_UF, shares_UC = [FEATURE], np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32)
    if num_signals:
        keys.append(SIGNAL_FEATURE)
        values.append(np.arange(num_signals, dtype=rows.dtype))
        counts.append(np.full(num_signals, 1))
    if features is not None:
        content = features.of(rows)
        keys += [value_feature(column) for column in range(features.num_columns)]
        values += content.codes_CZ
        counts += [*content.counts_UC.T]
        padding = (0, num_bags - len(rows)), (0, 0)
        numbers_UF = np.pad(content.numbers_UF, padding)
        shares_UC = np.pad(np.where(content.counts_UC > 0, 1 / np.maximum(content.counts_UC, 1), 0), padding)
    lengths = torch.zeros(len(keys), num_bags, dtype=torch.int32)
    for of_feature, count_U in zip(lengths, counts, strict=True):
        of_feature[: len(count_U)] = torch.from_numpy(count_U)
    ids = KeyedJaggedTensor(
        keys=keys,
        values=torch.from_numpy(np.concatenate(values)),
        lengths=lengths.flatten(),
        length_per_key=[int(count_U.sum()) for count_U in counts],  # else read from the device
    )
    return ids, {"numbers_UF": numbers_UF, "shares_UC": shares_UC.astype(np.float32)}


class Bags:
    """The distinct rows of sessions and negatives as bags, and the bag of each."""

    def __init__(
        self,
        inputs: Inputs,
        negatives: np.ndarray,
        needed: int,
        num_tracks: int,
        num_signals: int,
        features: TrackFeatures | None = None,
        profile_BK: np.ndarray | None = None,
    ):
        """`needed`: the most rows that the sessions and negatives of any rank's batch can need; it fixes the number of
        bags, with the shape of `profile_BK`, rows of their listeners' profiles, -1 for none.

        There are never more bags than `num_tracks` and the empty one, or than `num_signals`, the rows of the second
        table, which the first bags hold.
        """
        profile_BK = np.zeros((len(inputs.rows_BT), 0), dtype=np.int64) if profile_BK is None else profile_BK
        wanted = [inputs.rows_BT[inputs.valid_BT], negatives, profile_BK[profile_BK >= 0]]
        self.rows, places = np.unique(np.concatenate(wanted), return_inverse=True)
        of_inputs, of_negatives, of_profiles = np.split(places, np.cumsum(list(map(len, wanted)))[:-1])
        self.empty = max(min(needed + profile_BK.size, num_tracks), num_signals)
        self._num_signals, self._features = num_signals, features
        self.items_BT = np.full(inputs.rows_BT.shape, self.empty, dtype=np.int64)
        self.items_BT[inputs.valid_BT] = of_inputs
        self.negatives_P = of_negatives
        self.profile_BK = np.full(profile_BK.shape, self.empty, dtype=np.int64)
        self.profile_BK[profile_BK >= 0] = of_profiles

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

    def own(self, kept: np.ndarray | None) -> np.ndarray:
        """float32 [U]: 1, but 0 where bool `kept` [rows] says so; [0] for a model that reads no features."""
        own_U = np.ones(0 if self._features is None else self.empty + 1, dtype=np.float32)
        if kept is not None and len(own_U):
            own_U[: len(kept)] = kept
        return own_U

    def batch(self, epoch: int, step: int, negatives: int, drawn_from: int, **arrays: np.ndarray) -> SessionBatch:
        """The batch of these bags; `arrays`: those of its fields that do not follow from the bags."""
        tracks, content = bags_of(self.rows, self.empty + 1, self._num_signals, self._features)
        width = np.arange(arrays["targets_BT"].shape[1])
        targets = np.flatnonzero(arrays["targets_BT"] != self.empty)
        pooled = [arrays["targets_BT"].ravel()[targets], self.negatives_P] if len(arrays["log_q_U"]) else []
        arrays |= content | {
            "items_BT": self.items_BT,
            "negatives_P": self.negatives_P,
            "profile_BK": self.profile_BK,
            "tokens_N": np.flatnonzero(width < arrays["inputs_B"][:, None]),
            "queries_V": targets,
            "collides_Y2": _by_position(arrays["collides_X2"], targets // len(width), len(self.items_BT)),
            "entries_E": np.unique(np.concatenate(pooled)) if pooled else np.zeros(0, dtype=np.int64),
        }
        tensors: dict[str, Any] = {name: torch.from_numpy(values) for name, values in arrays.items()}
        return SessionBatch(
            tracks=tracks, drawn_from=drawn_from, negatives=negatives, epoch=epoch, step=step, **tensors
        )


def _by_position(collides_X2: np.ndarray, session_V: np.ndarray, sessions: int) -> np.ndarray:
    """(position, place) pairs: each collision once for every position of its session, ascending by position."""
    first_S = np.searchsorted(session_V, np.arange(sessions + 1))
    session_X, place_X = collides_X2.T
    count_X = first_S[session_X + 1] - first_S[session_X]
    source_Y = np.repeat(np.arange(len(count_X)), count_X)
    nth_Y = np.arange(len(source_Y)) - (np.cumsum(count_X) - count_X)[source_Y]
    pairs_Y2 = np.stack([first_S[session_X][source_Y] + nth_Y, place_X[source_Y]], axis=1)
    return pairs_Y2[pairs_Y2[:, 0].argsort(kind="stable")]
