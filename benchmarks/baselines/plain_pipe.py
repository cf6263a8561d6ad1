"""The baseline of `pipeline`: a simple loader of the same Parquet files.

Sessions as Python lists, a collate function that pads them, negatives by `torch.randint`. It compares no negative with
its session and finds no distinct rows, so it does less than the data pipe. Of recipes without cloze.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from skipwise.common.tables import read_table
from skipwise.datapipes.config import HELD_OUT
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.view import counts_as_skipped
from skipwise.training.config import RunConfig

Row = tuple[list[int], list[int]]
"""A session's track rows in play order and their skip strengths."""


def read_rows(store: SessionStore, rank: int, world_size: int) -> list[Row]:
    """One rank's share of the sessions, in memory as Python lists."""
    rows = []
    for part in store.parts:
        table = read_table(part, ["tracks", "skips"]).to_pylist()
        rows += [(row["tracks"], row["skips"]) for row in table[rank::world_size]]
    return rows


def collate(rows: list[Row], config: RunConfig, num_tracks: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tracks [B, T] without the held-out ones, which of them are skipped, targets [B, T], negatives [K]; -1 pads."""
    held_out, length = HELD_OUT["validation"], config.encoder.max_length + 1  # one more, which is only predicted
    cut = [(tracks[:-held_out][-length:], skips[:-held_out][-length:]) for tracks, skips in rows]
    tracks_BT = pad_sequence([torch.tensor(tracks, dtype=torch.int64) for tracks, _ in cut], True, -1)
    skips_BT = pad_sequence([torch.tensor(skips, dtype=torch.int64) for _, skips in cut], True, 0)
    targets_BT = torch.cat([tracks_BT[:, 1:], torch.full((len(rows), 1), -1)], dim=1)
    negatives_K = torch.randint(0, num_tracks, (config.data.negatives,))
    return tracks_BT, counts_as_skipped(skips_BT, config.data.skip_up_to), targets_BT, negatives_K


def plain_loader(config: RunConfig, rows: list[Row], num_tracks: int, world_size: int) -> DataLoader[Row]:
    """Shuffled batches of this rank's share of `config.data.batch_size`, made in this process."""
    size, make = config.data.batch_size // world_size, partial(collate, config=config, num_tracks=num_tracks)
    return DataLoader(rows, batch_size=size, shuffle=True, collate_fn=make)  # type: ignore[arg-type]
