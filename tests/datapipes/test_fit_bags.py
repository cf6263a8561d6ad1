"""Batches of several ranks with as many bags as the rank with most rows needs: nothing else of them changes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import embedding

from skipwise.datapipes.batch import FEATURE, SIGNAL_FEATURE, SessionBatch
from skipwise.datapipes.fit_bags import fitted
from skipwise.datapipes.sessions import SessionStore
from skipwise.training.build import reading_inputs, train_loader
from tests.conftest import random_sessions
from tests.ranks import run_on_ranks
from tests.training.test_equality import small

TRACKS = 2000


def read(batch: SessionBatch) -> dict[str, Tensor]:
    """What is read by way of bags: one more than each track's number, and 0 for an empty bag."""
    track_U = torch.zeros(batch.tracks.stride(), 1, dtype=torch.float64)
    track_U[batch.tracks[FEATURE].lengths() > 0] = batch.tracks[FEATURE].values().double()[:, None] + 1
    names = "items_BT", "targets_BT", "judged_tracks_J", "negatives_P", "entries_E"
    found = {name: embedding(getattr(batch, name), track_U) for name in names}
    signals = batch.tracks[SIGNAL_FEATURE]
    return found | {"signals": signals.values()[: int(signals.lengths().sum())], "log_q": batch.log_q_U[: len(track_U)]}


def first_batches(path: str) -> list[tuple[int, int, int]]:
    """Of each of some batches: the bags that it uses, has, and had."""
    config = small("best", Path(path))
    config = replace(config, data=replace(config.data, negatives=0))
    store = reading_inputs(config, SessionStore(path))
    made = list(train_loader(config, store)._built(1, 0))[:3]
    numbers = []
    for before, after in zip(made, fitted(iter(made)), strict=True):
        was, now = read(before), read(after)
        was["log_q"] = was["log_q"][: len(now["log_q"])]
        for name, values in was.items():
            assert torch.equal(values, now[name]), name
        numbers.append((len(before.tracks[FEATURE].values()), after.tracks.stride(), before.tracks.stride()))
    return numbers


@pytest.mark.ranks
def test_ranks_have_as_many_bags_as_the_most_that_one_uses(make_dataset, tmp_path: Path):
    data = make_dataset(random_sessions(80, TRACKS), TRACKS)
    for of_ranks in zip(*run_on_ranks(tmp_path, 2, first_batches, str(data)), strict=True):
        used, has, had = map(set, zip(*of_ranks, strict=True))
        assert has == {min(-(-(max(used) + 1) // 64) * 64, *had)}
    assert max(has) < min(had)
