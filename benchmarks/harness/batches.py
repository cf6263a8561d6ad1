"""What `step` and `scale` train: a recipe on batches in memory; and the same global batches for the plain step."""

import itertools
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch

from skipwise.benchmarks.baselines.plain_model import PlainBatch, check_plain
from skipwise.benchmarks.harness.config import SEED, StepConfig
from skipwise.benchmarks.harness.floor import Work
from skipwise.benchmarks.harness.synthetic import MemoryStore
from skipwise.common.distributed import device, rank, world_size
from skipwise.common.errors import UserError
from skipwise.common.product_precision import set_product_precision
from skipwise.components.recipes import named_recipe
from skipwise.datapipes.batch import SessionBatch
from skipwise.datapipes.collate import BatchBuilder
from skipwise.datapipes.loader import StepDataset
from skipwise.datapipes.negatives import STRIDE
from skipwise.datapipes.sessions import Sessions
from skipwise.datapipes.view import counts_as_skipped
from skipwise.training.build import build_model, train_loader
from skipwise.training.config import RunConfig
from skipwise.training.trainer import Trainer


def run_config(config: StepConfig) -> RunConfig:
    """The recipe with the benchmark's settings; raises `UserError` for settings that do not go together."""
    recipe = named_recipe(config.recipe)
    optimizer = recipe.table.optimizer if config.optimizer == "recipe" else config.optimizer
    try:
        run = replace(
            recipe,
            data=replace(recipe.data, batch_size=config.batch, sampling=config.negatives, workers=0),
            table=replace(recipe.table, dim=config.dim, sharding="row_wise", optimizer=optimizer),
            encoder=replace(recipe.encoder, max_length=config.length),
            train=replace(recipe.train, precision=config.precision, compile=config.compile, seed=SEED),
        )
        run.check_device(device().type)
    except ValueError as error:
        # The sections' sentences name their own flags.
        sentence = str(error).replace("--data.sampling", "--negatives")
        raise UserError(sentence.replace("--table.", "--").replace("--train.", "--")) from error
    least = run.data.negatives + config.length
    if config.tracks < least:
        raise UserError(
            f"--tracks {config.tracks} are too few for {run.data.negatives} negatives and sessions of "
            f"{config.length}: ask for at least {least}"
        )
    if config.baseline == "plain":
        check_plain(run)
    return run


class TrainingSteps:
    """The project's training, as `skipwise.training.loop` sets it up, over a cycle of batches in memory."""

    def __init__(self, config: RunConfig, store: MemoryStore):
        set_product_precision(config.train.matmul)
        torch.manual_seed(config.train.seed * world_size() + rank())
        self.model = build_model(config, store.num_tracks).train()
        self._trainer = Trainer(config, self.model, total_steps=1 << 20)
        self.optimizer = self._trainer.optimizer
        self._batches = itertools.cycle(own_batches(config, store))

    def step(self) -> None:
        """Trains on the next batch."""
        self._trainer.step(self._batches)


@lru_cache(maxsize=1)
def made_store(num_sessions: int, num_tracks: int, longest: int) -> MemoryStore:
    """A `MemoryStore`, the same one for cases of one size that follow each other; so are its batches."""
    return MemoryStore(num_sessions, num_tracks, longest)


def own_batches(config: RunConfig, store: MemoryStore) -> list[SessionBatch]:
    """This rank's part of one epoch. No track is held out: a session's length is what is trained on."""
    return _own_batches(_batches_alone(config), store)


def plain_batches(config: RunConfig, store: MemoryStore) -> list[PlainBatch]:
    """The same global batches for the plain step, which draws its own negatives."""
    return _plain_batches(_batches_alone(config), store)


def _batches_alone(config: RunConfig) -> RunConfig:
    """With the same values of what changes no batch."""
    return replace(
        config,
        table=replace(config.table, optimizer="sgd", precision="fp32"),
        train=replace(config.train, precision="fp32", compile=False),
    )


@lru_cache(maxsize=1)
def _own_batches(config: RunConfig, store: MemoryStore) -> list[SessionBatch]:
    return list(train_loader(config, store, held_out=0).epoch(1))


@lru_cache(maxsize=1)
def _plain_batches(config: RunConfig, store: MemoryStore) -> list[PlainBatch]:
    builder = cast(BatchBuilder[Any], _PlainBuilder(config, store.num_tracks, config.train.seed))
    dataset: StepDataset[Any] = StepDataset(store, config.data, builder, rank=0, world_size=1)
    return [cast(PlainBatch, dataset[1, step]) for step in range(dataset.steps)]


def global_work(config: RunConfig, batches: list[PlainBatch]) -> Work:
    """What a global batch asks for, the mean of these."""
    causal = config.encoder.direction == "unidirectional"
    rows = []
    for batch in batches:
        read_B = (batch.length_B - 1 if batch.masked_BT is None else batch.length_B).double()
        targets = int(read_B.sum() if batch.masked_BT is None else batch.masked_BT.sum())
        played = batch.tracks_BT[torch.arange(batch.tracks_BT.shape[1]) < batch.length_B[:, None]]
        drawn = batch.negatives.flatten()
        if config.data.sampling == "per-session":  # windows of one list, which need fewer rows than plain's draws
            drawn = drawn[: config.data.negatives + (len(batch.length_B) - 1) * STRIDE]
        unique = len(torch.cat([played, drawn]).unique())
        compared = config.data.negatives + (len(played.unique()) if config.loss.in_batch else 0)
        lookups = float(read_B.sum()) + targets + len(drawn)
        pairs_B = read_B * (read_B + 1) / 2 if causal else read_B.square()
        rows.append([float(read_B.sum()), float(pairs_B.sum()), targets, compared, lookups, unique])
    positions, pairs, targets, compared, lookups, unique = np.mean(rows, axis=0).tolist()
    return Work(
        positions=positions,
        pairs=pairs,
        targets=targets,
        negatives=compared,
        lookups=lookups,
        unique=unique,
        dim=config.table.dim,
        hidden=config.encoder.hidden,
        blocks=config.encoder.blocks,
        heads=config.encoder.heads,
        number_bytes=2 if config.train.precision == "bf16" else 4,
    )


def _met(negatives_BK: np.ndarray, sessions: Sessions) -> np.ndarray:
    """bool [B, K]: negatives that their session contains."""
    return np.stack([np.isin(*pair) for pair in zip(negatives_BK, sessions.tracks_BT, strict=True)])


@dataclass(frozen=True)
class _PlainBuilder:
    """A `BatchBuilder` of padded sessions."""

    config: RunConfig
    num_tracks: int
    seed: int

    def build(self, sessions: Sessions, epoch: int, step: int) -> PlainBatch:
        random = np.random.default_rng([self.seed, epoch, step])
        real_BT = sessions.tracks_BT >= 0
        data = self.config.data
        masked_BT = None
        if self.config.cloze is not None:
            masked_BT = (random.random(real_BT.shape) < self.config.cloze) & real_BT
        if data.sampling == "shared":
            negatives = random.choice(self.num_tracks, data.negatives, replace=False)
            collides_BK = _met(np.broadcast_to(negatives, (len(real_BT), data.negatives)), sessions)
        else:
            negatives, collides_BK = random.integers(0, self.num_tracks, (len(real_BT), data.negatives)), None
            while (met_BK := _met(negatives, sessions)).any():
                negatives[met_BK] = random.integers(0, self.num_tracks, met_BK.sum())
        skipped_BT = counts_as_skipped(sessions.skips_BT, data.skip_up_to) & real_BT
        return PlainBatch(
            tracks_BT=torch.from_numpy(np.where(real_BT, sessions.tracks_BT, self.num_tracks)),
            length_B=torch.from_numpy(sessions.length_B),
            skipped_BT=torch.from_numpy(skipped_BT),
            negatives=torch.from_numpy(negatives),
            collides_BK=None if collides_BK is None else torch.from_numpy(collides_BK),
            masked_BT=None if masked_BT is None else torch.from_numpy(masked_BT),
        )
