"""Synthetic sessions in memory, and the same global batches for the project's step and for the plain one.

Tracks follow Zipf's law with exponent 1, lengths are uniform, and every second play is skipped. What is made into
batches goes through training's own loader, so that the work is training's.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from skipwise.benchmarks.baselines.plain_model import PlainBatch
from skipwise.benchmarks.harness.floor import Work
from skipwise.benchmarks.harness.zipf import Zipf
from skipwise.datapipes.batch import SessionBatch
from skipwise.datapipes.loader import StepDataset
from skipwise.datapipes.manifest import Manifest
from skipwise.datapipes.sessions import Sessions, SessionStore
from skipwise.training.build import train_loader
from skipwise.training.config import RunConfig

SHORTEST = 10
"""Tracks of the shortest session."""


class Flat(NamedTuple):
    """Sessions end to end, as a store reads them: session i is `tracks[offsets[i] : offsets[i + 1]]`."""

    offsets: np.ndarray
    tracks: np.ndarray
    skips: np.ndarray
    numbers: np.ndarray


class MemoryStore(SessionStore):
    """Random sessions behind the interface of a dataset directory, as one row group."""

    def __init__(self, sessions: int, tracks: int, longest: int, seed: int):
        random = np.random.default_rng(seed)
        lengths = random.integers(SHORTEST, longest + 1, sessions)
        plays = int(lengths.sum())
        self._flat = Flat(
            offsets=np.concatenate([[0], np.cumsum(lengths)]),
            tracks=Zipf(tracks, random).draw(plays, random),
            skips=random.integers(0, 4, plays).astype(np.int8),
            numbers=np.arange(sessions),
        )
        self.num_tracks = tracks
        self.group_sizes = np.array([sessions])
        self.manifest = Manifest(
            counts={"sessions": sessions, "plays": plays, "tracks": tracks},
            session_lengths={"min": SHORTEST, "max": longest},
            skip_share=0.5,
            context_columns=[],
            parts={},
            vocabulary_hash="0" * 64,
            sources=[],
            options={},
            dropped_sessions={},
            dropped_rows={},
            versions={},
        )

    def __len__(self) -> int:
        return len(self._flat.numbers)

    def read(self, groups: np.ndarray) -> Flat:
        """All sessions: there is one group."""
        return self._flat


def own_batches(config: RunConfig, store: MemoryStore) -> list[SessionBatch]:
    """This rank's part of one epoch. No track is held out: a session's length is what is trained on."""
    dataset = train_loader(config, store, held_out=0).dataset
    return [dataset[1, step] for step in range(dataset.steps)]


def plain_batches(config: RunConfig, store: MemoryStore) -> list[PlainBatch]:
    """The same global batches for the plain step, which draws its own negatives."""
    dataset = StepDataset(store, config.data, _PlainBuilder(config, store.num_tracks), rank=0, world_size=1)
    return [dataset[1, step] for step in range(dataset.steps)]


def global_work(config: RunConfig, batches: list[PlainBatch]) -> Work:
    """What a global batch asks for, the mean of these."""
    cloze = config.cloze is not None
    per_session = config.data.sampling == "per-session"
    rows = []
    for batch in batches:
        read_B = (batch.length_B if cloze else batch.length_B - 1).double()
        targets = int(batch.masked_BT.sum() if cloze else read_B.sum())
        played = batch.tracks_BT[torch.arange(batch.tracks_BT.shape[1]) < batch.length_B[:, None]]
        unique = len(torch.cat([played, batch.negatives.flatten()]).unique())
        compared = config.data.negatives + (len(played.unique()) if config.loss.in_batch else 0)
        lookups = float(read_B.sum()) + targets + batch.negatives.numel()
        rows.append([float(read_B.sum()), float(read_B.square().sum()), targets, compared, lookups, unique])
    positions, squares, targets, compared, lookups, unique = np.mean(rows, axis=0).tolist()
    return Work(
        positions=positions,
        squares=squares,
        targets=targets,
        negatives=compared,
        per_session=per_session,
        lookups=lookups,
        unique=unique,
        dim=config.table.dim,
        hidden=config.encoder.hidden,
        blocks=config.encoder.blocks,
        number_bytes=2 if config.train.precision == "bf16" else 4,
    )


def _met(negatives_BK: np.ndarray, sessions: Sessions) -> np.ndarray:
    """bool [B, K]: negatives that their session contains."""
    return np.stack([np.isin(*pair) for pair in zip(negatives_BK, sessions.tracks_BT, strict=True)])


@dataclass(frozen=True)
class _PlainBuilder:
    """A `BatchBuilder` of padded sessions."""

    config: RunConfig
    tracks: int

    @property
    def seed(self) -> int:
        return self.config.train.seed

    def build(self, sessions: Sessions, epoch: int, step: int) -> PlainBatch:
        random = np.random.default_rng([self.seed, epoch, step])
        real_BT = sessions.tracks_BT >= 0
        data = self.config.data
        masked_BT = None
        if self.config.cloze is not None:
            masked_BT = (random.random(real_BT.shape) < self.config.cloze) & real_BT
        if data.sampling == "shared":
            negatives = random.choice(self.tracks, data.negatives, replace=False)
            collides_BK = _met(np.broadcast_to(negatives, (len(real_BT), data.negatives)), sessions)
        else:
            negatives, collides_BK = random.integers(0, self.tracks, (len(real_BT), data.negatives)), None
            while (met_BK := _met(negatives, sessions)).any():
                negatives[met_BK] = random.integers(0, self.tracks, met_BK.sum())
        skipped_BT = (sessions.skips_BT >= 1) & (sessions.skips_BT <= data.skip_up_to) & real_BT
        return PlainBatch(
            tracks_BT=torch.from_numpy(np.where(real_BT, sessions.tracks_BT, self.tracks)),
            length_B=torch.from_numpy(sessions.length_B),
            skipped_BT=torch.from_numpy(skipped_BT),
            negatives=torch.from_numpy(negatives),
            collides_BK=None if collides_BK is None else torch.from_numpy(collides_BK),
            masked_BT=None if masked_BT is None else torch.from_numpy(masked_BT),
        )
