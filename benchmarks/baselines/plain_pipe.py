"""The baseline of `pipeline`: what an afternoon's code would do with the same Parquet files.

Sessions as Python lists, a collate function that pads them, negatives by `torch.randint`. It looks at no collision
and finds no distinct rows, so it does less than the data pipe.
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
    masked_BT: Tensor
    targets_BT: Tensor
    negatives: Tensor
    """[K] shared by the batch, or [B, K]."""


class PlainDataset(Dataset):
    """One rank's share of the sessions, in memory as Python lists."""

    def __init__(self, store: SessionStore, rank: int, ranks: int):
        self.rows: list[Row] = []
        for part in store.parts:
            table = pq.read_table(part, columns=["tracks", "skips"]).to_pylist()
            self.rows += [(row["tracks"], row["skips"]) for row in table[rank::ranks]]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]


@dataclass(frozen=True)
class PlainCollate:
    """Pads sessions, cuts the held-out tracks off and draws negatives."""

    config: RunConfig
    tracks: int
    held_out: int = field(default=HELD_OUT["validation"])

    def __call__(self, rows: list[Row]) -> PlainBatch:
        data, cloze = self.config.data, self.config.cloze
        spare = 1 if cloze is None else 0  # what predicts the last of the tracks read
        length = self.config.encoder.max_length + spare
        cut = [(tracks[: -self.held_out][-length:], skips[: -self.held_out][-length:]) for tracks, skips in rows]
        tracks_BT = pad_sequence([torch.tensor(tracks, dtype=torch.int64) for tracks, _ in cut], True, -1)
        skips_BT = pad_sequence([torch.tensor(skips, dtype=torch.int64) for _, skips in cut], True, 0)
        masked_BT = torch.zeros_like(tracks_BT, dtype=torch.bool)
        if cloze is None:
            targets_BT = torch.cat([tracks_BT[:, 1:], torch.full((len(rows), 1), -1)], dim=1)
        else:
            masked_BT = (torch.rand(tracks_BT.shape) < cloze) & (tracks_BT >= 0)
            targets_BT = tracks_BT.where(masked_BT, -1)
        shape = (data.negatives,) if data.sampling == "shared" else (len(rows), data.negatives)
        negatives = torch.randint(0, self.tracks, shape)
        skipped_BT = counts_as_skipped(skips_BT, data.skip_up_to)
        return PlainBatch(tracks_BT, skipped_BT, masked_BT, targets_BT, negatives)


def plain_loader(config: RunConfig, dataset: PlainDataset, tracks: int, ranks: int) -> DataLoader:
    """Shuffled batches of this rank's share of `config.data.batch_size`, made in this process."""
    size = config.data.batch_size // ranks
    return DataLoader(dataset, batch_size=size, shuffle=True, collate_fn=PlainCollate(config, tracks))
