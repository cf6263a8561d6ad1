"""Encoder programs, read back, against the live model on sessions of the dataset; and the queries it gave there.

Shape legend: B sessions, T positions, D width of a query, X of a row, Y of an output, U bags of the lookup, S sessions
compared.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel

from skipwise.common.distributed import device, gather_objects, on_all_ranks
from skipwise.common.errors import UserError
from skipwise.datapipes.batch import SessionBatch
from skipwise.datapipes.sessions import SessionStore
from skipwise.models.task import Learner
from skipwise.retrieval.export.encoder_program import PROFILE_INPUTS, QueryFunction
from skipwise.training.build import HeldOut, evaluation_loader
from skipwise.training.config import SPLITS, RunConfig

Rows = tuple[Tensor, Tensor | None]
"""What `SessionTask.look_up` returns."""
SESSIONS = 1000
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Comparison:
    """What was compared: `sessions` whole and cut to half, and the largest difference of any number of a query."""

    sessions: int
    largest_difference: float
    tolerance: float = TOLERANCE


@torch.no_grad()
def compare_programs(
    loaders: dict[str, Callable[[], QueryFunction]],
    config: RunConfig,
    store: SessionStore,
    model: DistributedModelParallel,
) -> tuple[dict[str, Comparison], np.ndarray]:
    """Each rank compares its share of up to 1,000 validation and test sessions; `UserError` where any differs.

    `loaders`: how to read each program, by what to call it. Also returns the live outputs, float32 [S, Y], of the
    whole sessions: those of validation, then those of the test, each in the dataset's order.
    """
    batches = on_all_ranks(lambda: _batches(config, store))
    programs = on_all_ranks(lambda: {name: load() for name, load in loaders.items()})
    task = model.module
    # All ranks take part in a lookup, so all are done before anything that may fail on one.
    looked_up = [task.look_up(batch) for _, batch in batches]
    largest = on_all_ranks(
        lambda: {
            name: max(
                (
                    difference
                    for rows, (_, batch) in zip(looked_up, batches, strict=True)
                    for difference in _differences(name, program, task.learner, rows, batch)
                ),
                default=0.0,
            )
            for name, program in programs.items()
        }
    )
    queries = on_all_ranks(lambda: _queries(task.learner, looked_up, batches))
    shares = gather_objects((largest, *queries))
    places = np.concatenate([places for _, places, _ in shares])
    if not len(places):
        raise UserError(f"{store.path} has no session of two tracks to compare the encoder program on: add some")
    # By split and session, so that any number of ranks gives the same order.
    queries_SD = np.concatenate([queries for _, _, queries in shares])[np.lexsort(places.T[::-1])]
    comparisons = {name: Comparison(len(places), max(largest[name] for largest, _, _ in shares)) for name in programs}
    return comparisons, queries_SD


def _batches(config: RunConfig, store: SessionStore) -> list[tuple[int, SessionBatch]]:
    """This rank's share, with the number of each one's split; the same number of batches on every rank."""
    last = replace(config.evaluate, positions="last")  # one query a session
    loaders = [
        evaluation_loader(config, HeldOut.of(last, store, split), (), split, SESSIONS // len(SPLITS))
        for split in SPLITS
    ]
    return [
        (number, batch.sessions.to(device()))
        for number, loader in enumerate(loaders)
        for batches in loader.epoch(0)
        for batch in batches
    ]


def _queries(
    learner: Learner, looked_up: list[Rows], batches: list[tuple[int, SessionBatch]]
) -> tuple[np.ndarray, np.ndarray]:
    """int64 [S, 2], split and session, and float32 [S, Y], the live output of the whole session."""
    places, queries = [np.empty((0, 2), dtype=np.int64)], []
    for (rows_UX, signals_MD), (split, batch) in zip(looked_up, batches, strict=True):
        real_B = batch.session_B >= 0
        sessions_S = batch.session_B[real_B].cpu().numpy().astype(np.int64)
        places.append(np.stack([np.full_like(sessions_S, split), sessions_S], axis=1))
        queries.append(learner.predict(rows_UX, batch, signals_MD)[real_B].float().cpu().numpy())
    return np.concatenate(places), np.concatenate(queries)


def _differences(
    name: str, program: QueryFunction, learner: Learner, rows: Rows, batch: SessionBatch
) -> Iterator[float]:
    """The largest difference of each call of the program: one session, a few, and the rest at full width."""
    encoder, (rows_UX, signals_MD) = learner.encoder, rows
    appended = encoder.config.appended_positions
    items_BTX = nn.functional.embedding(batch.items_BT, rows_UX)
    profiles: dict[str, Tensor] = {}
    if encoder.profile is not None:
        lengths = (batch.profile_BK != batch.tracks.stride() - 1).sum(dim=1)
        profiles = dict(zip(PROFILE_INPUTS, (nn.functional.embedding(batch.profile_BK, rows_UX), lengths), strict=True))
    real_S = (batch.session_B >= 0).nonzero().squeeze(1)
    for variant in (batch, _first_half(batch, appended)):
        lengths_B = variant.inputs_B - appended
        live_BD = learner.predict(rows_UX, variant, signals_MD)
        for chosen_S, padded in zip(real_S.tensor_split([1, 8]), (False, False, True), strict=True):
            if not len(chosen_S):
                continue
            width = max(int(lengths_B[chosen_S].max()), 1)  # of a session whose tracks are all filtered out, too
            padding = encoder.config.max_length - appended - width if padded else 0
            inputs = [nn.functional.pad(items_BTX[chosen_S, :width], (0, 0, 0, padding)), lengths_B[chosen_S]]
            if signals_MD is not None:
                inputs.append(nn.functional.pad(batch.signals_BTC[chosen_S, :width], (0, 0, 0, padding)))
            of_listeners = {name: values[chosen_S].cpu() for name, values in profiles.items()}
            query_SD = program(*(values.cpu() for values in inputs), **of_listeners)
            live_SD = live_BD[chosen_S].cpu()
            difference = float((query_SD - live_SD).abs().max())
            if not torch.allclose(query_SD, live_SD, rtol=TOLERANCE, atol=TOLERANCE):
                raise UserError(
                    f"{name} read back differs from the model by {difference:.1e} where {TOLERANCE:.0e} "
                    "is allowed: nothing was exported; see what `skipwise doctor` says of the versions"
                )
            yield difference


def _first_half(batch: SessionBatch, appended: int) -> SessionBatch:
    """The same sessions cut to the first half of their tracks."""
    lengths_B = (batch.inputs_B - appended + 1) // 2
    place_T = torch.arange(batch.items_BT.shape[1], device=lengths_B.device)
    masked_BT = (place_T == lengths_B[:, None]) if appended else batch.masked_BT
    return replace(batch, inputs_B=lengths_B + appended, masked_BT=masked_BT)
