"""Where held-out targets stand among what is recommended, at several settings of the dial, encoded once.

Shape legend: B targets of this rank's batch, Q targets of all ranks, N of all batches, S positions, D width of a row, X
of the encoder's outputs, R rows of this rank, K tracks recommended.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel
from tqdm import tqdm

from skipwise.common.distributed import device, gather_rows, rank, world_size
from skipwise.common.product_precision import exact_products
from skipwise.datapipes.batch import EvaluationBatch
from skipwise.models.dial import dialled, keep_query
from skipwise.models.ranking import candidate_scores, distinct, full_topk
from skipwise.training.build import HeldOut, evaluation_loader, table_weight, track_rows
from skipwise.training.config import RunConfig, Split
from skipwise.training.evaluation.evaluator import gather_padded
from skipwise.training.evaluation.measure_ranks import together
from skipwise.training.evaluation.metrics import CUTOFFS, NOT_ELIGIBLE
from skipwise.training.evaluation.records import TargetRanks, target_ranks
from skipwise.training.evaluation.skip_metrics import skip_columns

EXPECTED = 10
"""Of the tracks recommended, those whose expected skips are recorded."""


@torch.no_grad()
def rank_at_dials(
    config: RunConfig,
    model: DistributedModelParallel,
    held_out: HeldOut,
    split: Split,
    sessions: int,
    dials: Sequence[float],
) -> dict[float, TargetRanks]:
    """By the rules of `served`, equal on every rank; `sessions`: how many are measured (0: all). Needs a keep head.

    A target that is not among the first 20 tracks has rank 0, as one that cannot be recommended: hit rates and NDCG@10
    are those of `served`, and MRR and percentile ranks are not known. MAA is that of the run whatever the dial, and
    left out.
    """
    num_rows = table_weight(model).shape[0]
    loader = evaluation_loader(config, held_out, (), split, sessions)
    model.eval()
    first, rows_RD = track_rows(model, held_out.sessions.features, num_rows)
    found: dict[float, list[dict[str, Tensor]]] = {dial: [] for dial in dials}
    with exact_products():
        desc = f"{split} by dial"
        bar = tqdm(loader.epoch(0), desc, loader.steps, leave=False, disable=rank() != 0, mininterval=1)
        for batch in together(bar):
            for dial, columns in _columns(config, model, batch, dials, first, rows_RD, num_rows).items():
                found[dial].append(columns)
    return {
        dial: target_ranks({name: np.concatenate([one[name].cpu().numpy() for one in parts]) for name in parts[0]})
        for dial, parts in found.items()
    }


def _columns(
    config: RunConfig,
    model: DistributedModelParallel,
    batch: EvaluationBatch,
    dials: Sequence[float],
    first: int,
    rows_RD: Tensor,
    num_rows: int,
) -> dict[float, dict[str, Tensor]]:
    """The columns of `TargetRanks` of a batch, by dial, of all ranks' targets."""
    sessions, task, keep_dim = batch.sessions.to(device()), model.module, config.loss.keep_width
    rows_UX, signals_MD = task.look_up(sessions)
    outputs_QX = gather_rows(task.learner.predict(rows_UX, sessions, signals_MD))
    target_Q, heard_QS, upcoming_QW = (
        gather_rows(batch.target_B.to(device())),
        gather_padded(batch.history_BS.to(device())),
        gather_padded(batch.upcoming_BW.to(device())),
    )
    facts_B3 = torch.stack([batch.sessions.session_B, batch.target_skips_B.long(), batch.position_B], dim=1)
    session_Q, skips_Q, position_Q = gather_rows(facts_B3.to(device())).unbind(dim=1)
    repeated_Q = (heard_QS == target_Q[:, None]).any(dim=1)
    facts = {
        "session": session_Q,
        "ties": torch.zeros_like(target_Q),
        "candidates": num_rows - 1 - (distinct(heard_QS) >= 0).sum(dim=1) + repeated_Q.long(),
        "skips": skips_Q,
        "repeated": repeated_Q,
        "position": position_Q,
        "target": target_Q,
    }
    found = {}
    for dial in dials:
        queries_QD = dialled(outputs_QX, keep_dim, dial)
        rows_QK, logits_QK = _best(queries_QD, outputs_QX, keep_dim, heard_QS, first, rows_RD)
        hit_QK = rows_QK == target_Q[:, None]
        rank_Q = torch.where(hit_QK.any(dim=1), hit_QK.int().argmax(dim=1) + 1, NOT_ELIGIBLE)
        listed_QK = rows_QK[:, :EXPECTED] >= 0
        expected_Q = ((1 - logits_QK[:, :EXPECTED].sigmoid()) * listed_QK).sum(dim=1) / listed_QK.sum(dim=1)
        skips = skip_columns(outputs_QX, queries_QD, keep_dim, target_Q, upcoming_QW, first, rows_RD)
        columns = facts | skips | {"rank": rank_Q, "listed_skips": expected_Q}
        found[dial] = {name: values[(target_Q >= 0).to(values.device)] for name, values in columns.items()}
    return found


def _best(
    queries_QD: Tensor, outputs_QX: Tensor, keep_dim: int, heard_QS: Tensor, first: int, rows_RD: Tensor
) -> tuple[Tensor, Tensor]:
    """The best rows [Q, K] of all ranks, -1 where there are no more, and their logits of P(kept)."""
    rows_QK, scores_QK = full_topk(queries_QD, CUTOFFS[-1], heard_QS, first, rows_RD)
    keep_QD, bias_Q1 = keep_query(outputs_QX, keep_dim)
    logits_QK, _ = candidate_scores(keep_QD, rows_QK, first, rows_RD)
    if world_size() > 1:
        rows_QK, scores_QK, logits_QK = (
            torch.cat(gather_rows(values_QK).split(len(queries_QD)), dim=1)
            for values_QK in (rows_QK, scores_QK, logits_QK)
        )
        # Of equal scores the lower row first, as on one rank.
        best_QK = scores_QK.sort(dim=1, descending=True, stable=True).indices[:, : CUTOFFS[-1]]
        rows_QK, logits_QK = rows_QK.gather(1, best_QK), logits_QK.gather(1, best_QK)
    return rows_QK, logits_QK + bias_Q1
