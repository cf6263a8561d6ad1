"""Every row of a batch once: the bags of its one lookup, and where each play and negative is among them.

Shape legend: that of `skipwise.datapipes.batch`.
"""

import numpy as np
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from skipwise.datapipes.batch import FEATURE, SIGNAL_FEATURE, SessionBatch
from skipwise.datapipes.view import Inputs


class Bags:
    """The distinct rows of sessions and negatives as bags, and the bag of each."""

    def __init__(self, inputs: Inputs, negatives: np.ndarray, positions: int, num_tracks: int, num_signals: int):
        """`positions`: the most rows that the sessions of any batch can need; it fixes the number of bags.

        There are never more bags than `num_tracks` and the empty one, or than `num_signals`, the rows of the second
        table, which the first bags hold.
        """
        wanted = np.concatenate([inputs.rows_BT[inputs.valid_BT], negatives])
        self.rows, places = np.unique(wanted, return_inverse=True)
        count = len(wanted) - len(negatives)
        self.empty = max(min(positions + len(negatives), num_tracks), num_signals)
        self._num_signals = num_signals
        self.items_BT = np.full(inputs.rows_BT.shape, self.empty, dtype=np.int64)
        self.items_BT[inputs.valid_BT] = places[:count]
        self.negatives_P = places[count:]

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
        counts = (len(self.rows), self._num_signals) if self._num_signals else (len(self.rows),)
        lengths = torch.zeros(len(counts), self.empty + 1, dtype=torch.int32)
        for feature_lengths, count in zip(lengths, counts, strict=True):
            feature_lengths[:count] = 1
        values = np.concatenate([self.rows, np.arange(self._num_signals, dtype=self.rows.dtype)])
        width = np.arange(arrays["targets_BT"].shape[1])
        arrays |= {
            "items_BT": self.items_BT,
            "negatives_P": self.negatives_P,
            "tokens_N": np.flatnonzero(width < arrays["inputs_B"][:, None]),
            "queries_V": np.flatnonzero(arrays["targets_BT"] != self.empty),
        }
        return SessionBatch(
            tracks=KeyedJaggedTensor(
                keys=[FEATURE, SIGNAL_FEATURE][: len(counts)],
                values=torch.from_numpy(values),
                lengths=lengths.flatten(),
            ),
            negatives=negatives,
            epoch=epoch,
            step=step,
            **{name: torch.from_numpy(values) for name, values in arrays.items()},
        )
