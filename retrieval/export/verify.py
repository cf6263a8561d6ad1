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

    def compare() -> tuple[dict[str, float], tuple[np.ndarray, np.ndarray]]:
        outputs, largest = [], dict.fromkeys(programs, 0.0)
        for rows, (_, batch) in zip(looked_up, batches, strict=True):
            outputs.append(task.learner.predict(rows[0], batch, rows[1]))
            for call in _calls(task.learner, rows, batch, outputs[-1]):
                for name, program in programs.items():
                    largest[name] = max(largest[name], _difference(name, program, *call))
        return largest, _queries(outputs, batches)

    largest, queries = on_all_ranks(compare)
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


def _queries(outputs: list[Tensor], batches: list[tuple[int, SessionBatch]]) -> tuple[np.ndarray, np.ndarray]:
    """int64 [S, 2], split and session, and float32 [S, Y], the live output of the whole session."""
    places, queries = [np.empty((0, 2), dtype=np.int64)], []
    for output_BY, (split, batch) in zip(outputs, batches, strict=True):
        real_B = batch.session_B >= 0
        sessions_S = batch.session_B[real_B].cpu().numpy().astype(np.int64)
        places.append(np.stack([np.full_like(sessions_S, split), sessions_S], axis=1))
        queries.append(output_BY[real_B].float().cpu().numpy())
    return np.concatenate(places), np.concatenate(queries)


Call = tuple[list[Tensor], dict[str, Tensor], Tensor]
"""Inputs of a program, by position and by name, and the live output for them, all on the CPU."""


def _calls(learner: Learner, rows: Rows, batch: SessionBatch, whole_BY: Tensor) -> Iterator[Call]:
    """One session, a few, and the rest at full width; then all of them cut to half. `whole_BY`: of whole sessions."""
    encoder, (rows_UX, signals_MD) = learner.encoder, rows
    appended = encoder.config.appended_positions
    items_BTX = nn.functional.embedding(batch.items_BT, rows_UX)
    profiles: dict[str, Tensor] = {}
    if encoder.profile is not None:
        lengths = (batch.profile_BK != batch.tracks.stride() - 1).sum(dim=1)
        profiles = dict(zip(PROFILE_INPUTS, (nn.functional.embedding(batch.profile_BK, rows_UX), lengths), strict=True))
    real_S = (batch.session_B >= 0).nonzero().squeeze(1)
    half = _first_half(batch, appended)
    for variant, live_BY in ((batch, whole_BY), (half, learner.predict(rows_UX, half, signals_MD))):
        lengths_B = variant.inputs_B - appended
        for chosen_S, padded in zip(real_S.tensor_split([1, 8]), (False, False, True), strict=True):
            if not len(chosen_S):
                continue
            width = max(int(lengths_B[chosen_S].max()), 1)  # of a session whose tracks are all filtered out, too
            padding = encoder.config.max_length - appended - width if padded else 0
            inputs = [nn.functional.pad(items_BTX[chosen_S, :width], (0, 0, 0, padding)), lengths_B[chosen_S]]
            if signals_MD is not None:
                inputs.append(nn.functional.pad(batch.signals_BTC[chosen_S, :width], (0, 0, 0, padding)))
            of_listeners = {name: values[chosen_S].cpu() for name, values in profiles.items()}
            yield [values.cpu() for values in inputs], of_listeners, live_BY[chosen_S].cpu()


def _difference(
    name: str, program: QueryFunction, inputs: list[Tensor], of_listeners: dict[str, Tensor], live_SY: Tensor
) -> float:
    """The largest difference of any number."""
    query_SY = program(*inputs, **of_listeners)
    difference = float((query_SY - live_SY).abs().max())
    if not torch.allclose(query_SY, live_SY, rtol=TOLERANCE, atol=TOLERANCE):
        raise UserError(
            f"{name} read back differs from the model by {difference:.1e} where {TOLERANCE:.0e} "
            "is allowed: nothing was exported; see what `skipwise doctor` says of the versions"
        )
    return difference


def _first_half(batch: SessionBatch, appended: int) -> SessionBatch:
    """The same sessions cut to the first half of their tracks."""
    lengths_B = (batch.inputs_B - appended + 1) // 2
    place_T = torch.arange(batch.items_BT.shape[1], device=lengths_B.device)
    masked_BT = (place_T == lengths_B[:, None]) if appended else batch.masked_BT
    return replace(batch, inputs_B=lengths_B + appended, masked_BT=masked_BT)
