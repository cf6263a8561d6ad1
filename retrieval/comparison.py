"""The encoder program, read back, against the live model on sessions of the dataset.

Shape legend: B sessions, T positions, D width, U bags of the lookup, S sessions compared.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel

from datapipes.batch import SessionBatch
from datapipes.errors import UserError
from datapipes.sessions import SessionStore
from models.task import Learner
from retrieval.encoder import appended_positions
from retrieval.together import gather_objects, together
from training.build import evaluation_loader
from training.config import RunConfig
from training.distributed import device
from training.evaluate import SPLITS

SESSIONS = 1000
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Comparison:
    """What was compared: `sessions` whole and cut to half, and the largest difference of any number of a query."""

    sessions: int
    largest_difference: float
    tolerance: float = TOLERANCE


@torch.no_grad()
def compare_program(file: Path, config: RunConfig, store: SessionStore, model: DistributedModelParallel) -> Comparison:
    """Each rank compares its share of up to 1,000 validation and test sessions; `UserError` where any differs."""
    batches = together(lambda: _batches(config, store))
    program = together(lambda: torch.export.load(str(file)).module())
    task = model.module
    # All ranks take part in a lookup, so all are done before anything that may fail on one.
    looked_up = [task.table(batch.tracks).values() for batch in batches]
    differences = together(
        lambda: [
            difference
            for rows_UD, batch in zip(looked_up, batches, strict=True)
            for difference in _differences(program, task.learner, rows_UD, batch)
        ]
    )
    sessions = sum(int((batch.session_B >= 0).sum()) for batch in batches)
    shares = gather_objects((sessions, max(differences, default=0.0)))
    comparison = Comparison(sum(sessions for sessions, _ in shares), max(largest for _, largest in shares))
    if not comparison.sessions:
        raise UserError(f"{store.path} has no session of two tracks to compare the encoder program on: add some")
    return comparison


def _batches(config: RunConfig, store: SessionStore) -> list[SessionBatch]:
    """This rank's share; the same number of batches on every rank."""
    loaders = [evaluation_loader(config, store, "full", split, SESSIONS // len(SPLITS)) for split in SPLITS]
    return [batch.sessions.to(device()) for loader in loaders for batch in loader.epoch(0)]


def _differences(program: nn.Module, learner: Learner, rows_UD: Tensor, batch: SessionBatch) -> Iterator[float]:
    """The largest difference of each call of the program: one session, a few, and the rest at full width."""
    encoder = learner.encoder
    appended = appended_positions(encoder)
    items_BTD = nn.functional.embedding(batch.items_BT, rows_UD)
    real_S = (batch.session_B >= 0).nonzero().squeeze(1)
    for variant in (batch, _first_half(batch, appended)):
        lengths_B = variant.inputs_B - appended
        live_BD = learner.predict(rows_UD, variant)
        for chosen_S, padded in zip(real_S.tensor_split([1, 8]), (False, False, True), strict=True):
            if not len(chosen_S):
                continue
            width = int(lengths_B[chosen_S].max())
            padding = encoder.config.max_length - appended - width if padded else 0
            items_STD = nn.functional.pad(items_BTD[chosen_S, :width], (0, 0, 0, padding))
            query_SD = program(items_STD.cpu(), lengths_B[chosen_S].cpu())
            live_SD = live_BD[chosen_S].cpu()
            difference = float((query_SD - live_SD).abs().max())
            if not torch.allclose(query_SD, live_SD, rtol=TOLERANCE, atol=TOLERANCE):
                raise UserError(
                    f"the encoder program read back differs from the model by {difference:.1e} where {TOLERANCE:.0e} "
                    "is allowed: nothing was exported; see what `skipwise doctor` says of the versions"
                )
            yield difference


def _first_half(batch: SessionBatch, appended: int) -> SessionBatch:
    """The same sessions cut to their first tracks, as if the listener had just got there."""
    lengths_B = (batch.inputs_B - appended + 1) // 2
    place_T = torch.arange(batch.items_BT.shape[1], device=lengths_B.device)
    masked_BT = (place_T == lengths_B[:, None]) if appended else batch.masked_BT
    return replace(batch, inputs_B=lengths_B + appended, masked_BT=masked_BT)
