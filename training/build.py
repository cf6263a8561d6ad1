"""From a config to the sharded model and the loaders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from skipwise.common.distributed import device, logger, rank, world_size
from skipwise.common.errors import UserError
from skipwise.common.node_disks import num_machines
from skipwise.datapipes.batch import EvaluationBatches, SessionBatch
from skipwise.datapipes.collate import TrainBuilder
from skipwise.datapipes.collate_targets import EvaluationBuilder
from skipwise.datapipes.config import HELD_OUT
from skipwise.datapipes.counts import train_counts
from skipwise.datapipes.fit_bags import fitted
from skipwise.datapipes.loader import StepDataset, StepLoader
from skipwise.datapipes.negatives import keys, uniforms
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.signals import PAUSE, SKIPS, Signals
from skipwise.datapipes.track_features import TrackFeatures
from skipwise.datapipes.view import View
from skipwise.models.content import BLOCK, ContentRows, block_rows
from skipwise.models.encoder import Encoder
from skipwise.models.rows import own_rows
from skipwise.models.table import (
    SIGNAL_TABLE,
    TABLE,
    VALUE_TABLE,
    initialize,
    local_shards,
    make_plan,
    make_sharder,
    make_table,
)
from skipwise.models.task import Learner, SessionTask
from skipwise.training.config import EvaluateConfig, Protocol, RunConfig, Split

TABLE_WEIGHT = f"table.embedding_bags.{TABLE}.weight"


def reading_inputs(config: RunConfig, store: SessionStore) -> SessionStore:
    """The dataset to train on with the context columns that the config reads, by the values that training sees, and
    with the features of tracks and the profiles of listeners.

    Raises `UserError` for a name that it does not have, and for pauses that say no times where these are read.
    """
    known = store.manifest.contexts
    for name in config.data.inputs:
        if name not in (SKIPS, *known):
            again = "--pause" if name == PAUSE else f"{name} in --context"
            raise UserError(
                f"--data.inputs {name}: {store.path} has {', '.join([SKIPS, *known])}; name these, or prepare the log "
                f"again with {again}"
            )
    contexts = {name: known[name] for name in config.data.inputs if name != SKIPS}
    Signals.of(config.data.inputs, contexts).pauses(config.encoder.times)
    return store.reading(contexts).featuring(config.data.features).profiling(config.data.profile)


def build_model(
    config: RunConfig,
    num_tracks: int,
    num_rows: int | None = None,
    contexts: Mapping[str, Sequence[str]] = MappingProxyType({}),
    features: TrackFeatures | None = None,
    to_load: bool = False,
) -> DistributedModelParallel:
    """The sharded model, initialized from the config's seed alone: the same weights on any number of ranks.

    `num_rows`: of the table, where it has more than the data's `num_tracks` (`RunConfig.vanished`).
    `contexts`: see `RunRecord`; `features`: what is read of tracks; `to_load`: its tables are read from a checkpoint
    next, so nothing is drawn for them.
    """
    rows, dim, keep_dim = config.row_table, config.table.dim, config.loss.keep_width
    signals = Signals.of(config.data.inputs, contexts)
    num_values, columns = (features.num_values, features.num_columns) if features else (0, 0)
    table = make_table(num_rows or num_tracks, rows.dim, signals.num_rows, dim, num_values, columns, rows.precision)
    reads = signals.num_rows > 0, config.loss.keep_dropout, config.data.profile
    encoder = Encoder(config.encoder, dim, keep_dim, *reads, compiled=config.train.compile)
    encoder.reset_parameters(torch.Generator().manual_seed(config.train.seed))
    autocast = torch.bfloat16 if config.train.precision == "bf16" else None
    beside = config.data.heard_negatives, config.data.skipped_negatives
    learner = Learner(encoder, config.loss, autocast, num_tracks, *beside, signals)
    content = ContentRows(features.num_numbers, features.num_columns, rows.dim) if features else None
    if content is not None:
        content.reset_parameters(config.table.init_bound, torch.Generator().manual_seed(config.train.seed))
    task = SessionTask(table, learner.to(device()), signals.num_rows, content and content.to(device()))
    model = DistributedModelParallel(
        task,
        device=device(),
        plan=make_plan(rows, task, "table", world_size(), device().type, num_machines()),
        sharders=[make_sharder(rows)],
        init_data_parallel=world_size() > 1,  # one rank has nothing to average
    )
    if to_load:
        return model
    bound, seed = config.table.init_bound, config.train.seed
    if not features:  # with features, a track's own row begins at zero, which is what one that is never played keeps
        initialize(local_shards(table_weight(model)), dim, bound, seed, keep_dim)
    if num_values:
        initialize(local_shards(table_weight(model, VALUE_TABLE)), dim, bound, seed + (1 << 41), keep_dim)
    if signals.num_rows:
        # A seed that no run of the tracks' table is likely to have.
        initialize(local_shards(table_weight(model, SIGNAL_TABLE)), dim, bound, seed + (1 << 40))
    return model


def stateless(config: RunConfig) -> RunConfig:
    """The config to read weights with: SGD has no optimizer state and runs on any device."""
    return replace(config, table=replace(config.table, optimizer="sgd"), train=replace(config.train, compile=False))


def table_weight(model: DistributedModelParallel, name: str = TABLE) -> torch.Tensor | ShardedTensor:
    """A table's entry in `state_dict()`: this rank's live shards, and the metadata of all others."""
    return model.state_dict()[f"table.embedding_bags.{name}.weight"]


def track_rows(
    model: DistributedModelParallel, features: TrackFeatures | None, num_rows: int
) -> tuple[int, torch.Tensor]:
    """The first row and [R, X]: this rank's block of the tracks' rows, as they are ranked and exported.

    `num_rows`: of the table, without spare ones behind them.
    """
    if features is None:
        first, rows_RX = own_rows(table_weight(model), rank(), world_size())
        return first, rows_RX[: max(num_rows - first, 0)]
    first, _, pieces = block_rows(num_rows, rank(), world_size())
    bags = max(BLOCK, model.module.num_signals)
    return first, torch.cat([model.module.track_rows(rows, bags, features) for rows in pieces])


def training_data(store: SessionStore, refit: bool = False, hold_out_tracks: float = 0.0) -> tuple[SessionStore, int]:
    """The sessions to train on, and how many tracks of each one's end training does not see.

    `refit`: the validation is trained on too; `hold_out_tracks`: see `DataConfig`.
    """
    part, held_out = store, HELD_OUT["test" if refit else "validation"]
    if store.unseen:
        part, held_out = store.part("train", "validation") if refit else store.part("train"), 0
    if hold_out_tracks:
        draw_N = uniforms(keys("cold", 0, 0, np.arange(store.num_tracks)), 1)[:, 0]
        part = part.without(draw_N < hold_out_tracks, held_out)
    return part, held_out


def cold_tracks(config: RunConfig, store: SessionStore, refit: bool = False) -> np.ndarray | None:
    """bool [num_tracks]: tracks without a play in training; None where neither features nor held-out tracks ask for
    their figures. All ranks call it together."""
    if not (config.data.features or config.data.hold_out_tracks):
        return None
    return play_counts(*training_data(store, refit, config.data.hold_out_tracks)) == 0


def train_loader(
    config: RunConfig,
    store: SessionStore,
    held_out: int = HELD_OUT["validation"],
    plays_R: np.ndarray | None = None,
) -> StepLoader[SessionBatch]:
    """This rank's training batches, made of all but each session's last `held_out` tracks.

    `plays_R`: [tracks], how often each is played, by which in-batch negatives are corrected; None for the plays of
    `store`.
    """
    longest, negatives = store.manifest.session_lengths["max"], config.data.negatives
    # A pool for the whole batch avoids no session; what is drawn for a session avoids all of its tracks.
    avoided = longest if config.data.sampling == "per-session" else 0
    drawable = np.flatnonzero(play_counts(store, held_out)) if store.features else None
    num_drawn = store.num_tracks if drawable is None else len(drawable)
    if negatives + avoided > num_drawn:
        logger.info(
            f"--data.negatives {negatives}: {store.path} has {num_drawn} tracks to draw from, so a session may have "
            "fewer negatives: all of these that it does not contain"
        )
    builder = TrainBuilder(
        seed=config.train.seed,
        view=_view(config, store),
        longest=longest,
        num_tracks=store.num_tracks,
        negatives=min(negatives, num_drawn),
        sampling=config.data.sampling,
        mask_probability=config.cloze,
        borrow_from=config.data.borrow_from,
        held_out=held_out,
        log_q=_log_q(play_counts(store, held_out) if plays_R is None else plays_R) if config.loss.in_batch else None,
        first_place=rank() * config.data.batch_size // world_size(),
        pool_share=(rank(), world_size()) if config.loss.in_batch else (0, 1),
        shuffle_inputs=config.data.skip_flags in ("shuffled", "shuffled-input"),
        shuffle_labels=config.data.skip_flags in ("shuffled", "shuffled-label"),
        targets=config.data.targets,
        judge=config.loss.keep > 0,
        hidden_inputs=config.data.hidden_inputs,
        features=store.features,
        id_dropout=config.data.id_dropout if store.features else 0.0,
        drawable=drawable,
        profile=config.data.profile,
    )
    dataset = StepDataset(store, config.data, builder, rank(), world_size())
    if device().type == "cuda":
        return StepLoader(dataset, pin_memory=True)
    return StepLoader(dataset, fit=fitted if world_size() > 1 else None)


def _view(config: RunConfig, store: SessionStore) -> View:
    signals = Signals.of(config.data.inputs, store.contexts)
    return View(config.encoder.max_length, config.data.skip_up_to, config.data.skipped_tracks == "filter", signals)


def _log_q(plays_R: np.ndarray) -> np.ndarray:
    """float32 [tracks]: log of each track's share of the plays; one without any counts as the least played one."""
    least = plays_R[plays_R > 0].min(initial=1)
    played = torch.from_numpy(plays_R).double().clamp(min=float(least))
    return (played / played.sum()).log().float().numpy()


def play_counts(store: SessionStore, held_out: int) -> np.ndarray:
    """int64 [tracks]: plays of each track in training; all ranks call it together."""
    counts = torch.from_numpy(train_counts(store, rank(), world_size(), held_out)).to(device())
    if world_size() > 1:
        dist.all_reduce(counts)
    return counts.cpu().numpy()


@dataclass(frozen=True)
class HeldOut:
    """The sessions that a split is measured on, and which of their tracks are targets."""

    sessions: SessionStore
    targets: int | Literal["all"]
    """See `EvaluationBuilder`."""

    @classmethod
    def of(cls, config: EvaluateConfig, store: SessionStore, split: Split) -> "HeldOut":
        """A split of the dataset that a run was trained on."""
        return cls.unseen(config, store, split) if store.unseen else cls(store, HELD_OUT[split])

    @classmethod
    def unseen(cls, config: EvaluateConfig, store: SessionStore, split: Split = "test") -> "HeldOut":
        """Sessions that were not trained on: those of the split, or all where the dataset has no such splits."""
        return cls(store.part(split) if store.unseen else store, "all" if config.positions == "all" else 1)


def evaluation_loader(
    config: RunConfig, held_out: HeldOut, protocols: Sequence[Protocol], split: Split, sessions: int
) -> StepLoader[EvaluationBatches]:
    """This rank's evaluation batches, on any number of ranks; `sessions`: how many are measured in all (0: all).

    A batch has `evaluate.batch_size` targets over all ranks, rounded down to a multiple of these.
    """
    longest = held_out.sessions.manifest.session_lengths["max"]
    size = max(config.evaluate.batch_size // world_size(), 1)
    builder = EvaluationBuilder(
        seed=config.evaluate.seed,
        view=_view(config, held_out.sessions),
        longest=longest,
        num_tracks=held_out.sessions.num_tracks,
        targets=held_out.targets,
        size=size,
        candidates=config.evaluate.candidates if "paper" in protocols else 0,
        purpose="rank-" + split[:3],
        append_mask=config.cloze is not None,
        features=held_out.sessions.features,
        profile=config.data.profile,
    )
    num_sessions = max(size // max(longest - 1, 1), 1) if held_out.targets == "all" else size
    data = replace(config.data, lanes=world_size(), batch_size=num_sessions * world_size(), skip_negatives="own")
    dataset = StepDataset(held_out.sessions, data, builder, rank(), world_size(), sessions)
    return StepLoader(dataset, pin_memory=device().type == "cuda")
