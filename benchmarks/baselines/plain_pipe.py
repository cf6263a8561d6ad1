"""The baseline of `pipeline`: a simple loader of the same Parquet files.

Sessions as Python lists, a collate function that pads them, negatives by `torch.randint`. It compares no negative with
its session and finds no distinct rows, so it does less than the data pipe. Of recipes without cloze.
"""

from dataclasses import dataclass, field

import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from skipwise.datapipes.config import HELD_OUT
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.view import counts_as_skipped
from skipwise.training.config import RunConfig

Row = tuple[list[int], list[int]]
"""A session's track rows in play order and their skip strengths."""


@dataclass
class PlainBatch:
    """Rows of the table, as lookups of an `nn.Embedding` would take them; -1 is padding."""

    tracks_BT: Tensor
    skipped_BT: Tensor
    targets_BT: Tensor
    negatives_K: Tensor


class PlainDataset(Dataset[Row]):
    """One rank's share of the sessions, in memory as Python lists."""

    def __init__(self, store: SessionStore, rank: int, world_size: int):
        self.rows: list[Row] = []
        for part in store.parts:
            table = pq.read_table(part, columns=["tracks", "skips"]).to_pylist()
            self.rows += [(row["tracks"], row["skips"]) for row in table[rank::world_size]]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]


@dataclass(frozen=True)
class PlainCollate:
    """Pads sessions, removes the held-out tracks and draws negatives."""

    config: RunConfig
    num_tracks: int
    held_out: int = field(default=HELD_OUT["validation"])

    def __call__(self, rows: list[Row]) -> PlainBatch:
        data, length = self.config.data, self.config.encoder.max_length + 1  # one more, which is only predicted
        cut = [(tracks[: -self.held_out][-length:], skips[: -self.held_out][-length:]) for tracks, skips in rows]
        tracks_BT = pad_sequence([torch.tensor(tracks, dtype=torch.int64) for tracks, _ in cut], True, -1)
        skips_BT = pad_sequence([torch.tensor(skips, dtype=torch.int64) for _, skips in cut], True, 0)
        targets_BT = torch.cat([tracks_BT[:, 1:], torch.full((len(rows), 1), -1)], dim=1)
        negatives_K = torch.randint(0, self.num_tracks, (data.negatives,))
        return PlainBatch(tracks_BT, counts_as_skipped(skips_BT, data.skip_up_to), targets_BT, negatives_K)


def plain_loader(config: RunConfig, dataset: PlainDataset, num_tracks: int, world_size: int) -> DataLoader[Row]:
    """Shuffled batches of this rank's share of `config.data.batch_size`, made in this process."""
    size = config.data.batch_size // world_size
    return DataLoader(dataset, batch_size=size, shuffle=True, collate_fn=PlainCollate(config, num_tracks))
