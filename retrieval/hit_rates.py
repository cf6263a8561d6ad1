"""HR@K of what an export recommends, for the same sessions and by the same rules as `evaluate --protocol full`.

Shape legend: B sessions, T tracks, D width, K best, X rows to leave out.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skipwise.common.distributed import rank, world_size
from skipwise.common.errors import UserError
from skipwise.datapipes.config import HELD_OUT
from skipwise.datapipes.loader import StepDataset
from skipwise.datapipes.sessions import Sessions, SessionStore
from skipwise.datapipes.view import View
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.recommend.recommender import Recommender, SessionHistory
from skipwise.retrieval.search.config import SearchChoice
from skipwise.retrieval.search.exact import ExactSearch, Search
from skipwise.retrieval.search.stored import open_search
from skipwise.training.config import RunConfig
from skipwise.training.evaluation.metrics import CUTOFFS
from skipwise.training.evaluation.rank_metrics import RankMetrics
from skipwise.training.run.directory import RunDirectory

_LISTED = CUTOFFS[-1] + 1
"""One more than the largest cutoff, so that a target that ties with the next row is not counted as better."""


def open_exported(export: Path, choice: SearchChoice, run: RunDirectory) -> tuple[OpenExport, Search]:
    """An export of `run` and the search over it; raises `UserError` where its rows are not those of the run's table."""
    opened = OpenExport.open(export)
    if opened.manifest.vocabulary_hash != run.record.rows_hash:
        raise UserError(
            f"{export} has other tracks in its rows than {run.path}: give the run that it was exported from"
        )
    return opened, open_search(opened, choice)


def compared_with(
    exact: dict[str, dict[str, float | int]], run: RunDirectory, store: SessionStore, opened: OpenExport, search: Search
) -> str:
    """A table of the export's metrics for each split in `exact`, the run's own metrics, and the difference in HR@10."""
    names = [f"hr@{cutoff}" for cutoff in CUTOFFS] + ["ndcg@10"]
    lines = [f"{'export':22}{''.join(f'{name.upper():>9}' for name in names)}{'sessions':>10}{'HR@10 off by':>15}"]
    for split, own in exact.items():
        found = measure_hit_rates(run.config, store, opened, search, split)
        cells = "".join(f"{found[name]:9.4f}" for name in names)
        off = found["hr@10"] - own["hr@10"]
        lines.append(f"{opened.manifest.dtype:10}{split:12}{cells}{found['sessions']:10d}{off:+15.5f}")
    index = opened.manifest.index
    by = "exactly" if index is None or isinstance(search, ExactSearch) else f"by {index.kind}"
    lines.append(f"export: what {opened.path} recommends, searched {by}, by the rules of full.")
    return "\n".join(lines)


@torch.no_grad()
def measure_hit_rates(
    config: RunConfig, store: SessionStore, opened: OpenExport, search: Search, split: str
) -> dict[str, float | int]:
    """HR@{1,5,10,20}, NDCG@10 and `sessions`, equal on every rank.

    Not MRR: a target that is not among the first rows found has no rank.
    """
    torch.set_float32_matmul_precision("highest")
    recommender, metrics = Recommender(opened, search), RankMetrics()
    data = replace(config.data, batch_size=config.evaluate.batch_size)
    builder = _Builder(config.evaluate.seed, View(config.encoder.max_length, config.data.skip_up_to), split)
    batches: StepDataset[Any] = StepDataset(store, data, builder, rank(), world_size(), config.evaluate.sessions)
    for step in range(batches.steps):
        history, target_B = batches[0, step]
        if not len(target_B):
            continue
        heard_BX = torch.from_numpy(history.rows_BT)
        if not config.evaluate.filter_history:
            heard_BX = heard_BX[:, :0]
        # The target is ranked even where the session has heard it before.
        excluded_BX = torch.where(heard_BX == target_B[:, None], -1, heard_BX)
        queries_BD = recommender.queries(history)
        rows_BK, scores_BK = best_among(
            search, queries_BD, _LISTED, excluded_BX, store.num_tracks, opened.manifest.rows
        )
        metrics.update(ranks_of(target_B, rows_BK, scores_BK))
    found = metrics.compute()
    del found["mrr"]
    return found


def best_among(
    search: Search, queries_BD: Tensor, k: int, excluded_BX: Tensor, num_tracks: int, num_rows: int
) -> tuple[Tensor, Tensor]:
    """The best of the first `num_tracks` rows of `num_rows`: the rest are of tracks that the data do not have."""
    width = k
    while True:
        rows_BW, scores_BW = search.search(queries_BD, width, excluded_BX)
        counts_BW = rows_BW < num_tracks  # also -1, where there is no more to find
        if width >= num_rows or bool((counts_BW.sum(dim=1) >= k).all()):
            break
        width = min(2 * width, num_rows)
    order_BK = (~counts_BW).to(torch.int8).argsort(dim=1, stable=True)[:, :k]
    kept_BK = counts_BW.gather(1, order_BK)
    return (
        rows_BW.gather(1, order_BK).masked_fill(~kept_BK, -1),
        scores_BW.gather(1, order_BK).masked_fill(~kept_BK, float("-inf")),
    )


def ranks_of(target_B: Tensor, rows_BK: Tensor, scores_BK: Tensor) -> Tensor:
    """int64 [B]: the rank of each target in its list, behind rows of the same score; K + 1 where it is not there."""
    is_target_BK = rows_BK == target_B[:, None]
    score_B = scores_BK.masked_fill(~is_target_BK, float("inf")).min(dim=1).values
    before_B = ((scores_BK >= score_B[:, None]) & ~is_target_BK).sum(dim=1)
    return torch.where(is_target_BK.any(dim=1), before_B, rows_BK.shape[1]) + 1


@dataclass(frozen=True)
class _Builder:
    """A `skipwise.datapipes.collate.BatchBuilder`, whose seed makes the order of sessions that evaluation reads too."""

    seed: int
    view: View
    split: str

    def build(self, sessions: Sessions, epoch: int, step: int) -> tuple[SessionHistory, Tensor]:
        """Sessions up to a target, and the target; without those that have no track before it, or fill up the batch."""
        target_at_B = sessions.length_B - HELD_OUT[self.split]
        real_B = target_at_B >= 1
        tracks_BT, skips_BT, target_at_B = sessions.tracks_BT[real_B], sessions.skips_BT[real_B], target_at_B[real_B]
        history = SessionHistory(*self.view.before(tracks_BT, skips_BT, target_at_B))
        return history, torch.from_numpy(tracks_BT[np.arange(len(tracks_BT)), target_at_B])
