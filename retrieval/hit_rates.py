"""HR@K of what an export recommends, for the same targets as `evaluate` measures, by the rules of `served`.

Shape legend: B targets, S positions, K tracks recommended.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skipwise.common.errors import UserError
from skipwise.datapipes.batch import EvaluationBatch
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.recommend.config import RecommendOptions
from skipwise.retrieval.recommend.recommender import Recommender, SessionHistory
from skipwise.retrieval.search.config import SearchChoice
from skipwise.retrieval.search.exact import ExactSearch, Search
from skipwise.retrieval.search.stored import open_search
from skipwise.training.build import HeldOut, evaluation_loader
from skipwise.training.config import RunConfig, Split
from skipwise.training.config_fields import as_json
from skipwise.training.evaluation.metrics import CUTOFFS, NOT_ELIGIBLE
from skipwise.training.evaluation.rank_metrics import RankMetrics
from skipwise.training.run.directory import RunDirectory

_FIGURES = (*(f"hr@{cutoff}" for cutoff in CUTOFFS), "ndcg@10")
"""Not MRR: a target that is not among the tracks recommended has no rank."""


def open_exported(export: Path, choice: SearchChoice, run: RunDirectory) -> tuple[OpenExport, Search]:
    """An export of `run` and the search over it; raises `UserError` where it is another run's."""
    opened = OpenExport.open(export)
    differs = ""
    if opened.manifest.vocabulary_hash != run.record.rows_hash:
        differs = "has other tracks in its rows"
    elif not _agree(opened.manifest.config, as_json(run.config) | {"run_dir": opened.manifest.config.get("run_dir")}):
        differs = "was exported from a run of another config"
    if differs:
        raise UserError(f"{export} {differs} than {run.path}: give the run that it was exported from")
    return opened, open_search(opened, choice)


def _agree(one: Any, other: Any) -> bool:
    """Whether two configs have the same values, but for fields that only one of them knows."""
    if isinstance(one, dict) and isinstance(other, dict):
        return all(_agree(one[name], other[name]) for name in one.keys() & other.keys())
    return bool(one == other)


def compared_with(
    exact: Mapping[Split, Mapping[str, Any]],
    config: RunConfig,
    held_out: Mapping[Split, HeldOut],
    opened: OpenExport,
    search: Search,
) -> str:
    """A table of the export's metrics for each split in `exact`, the run's own of `served`, and how HR@10 differs."""
    lines = [f"{'export':22}{''.join(f'{name.upper():>9}' for name in _FIGURES)}{'targets':>10}{'HR@10 off by':>15}"]
    for split, own in exact.items():
        found = measure_hit_rates(config, held_out[split], opened, search, split)
        cells = "".join(f"{found[name]:9.4f}" for name in _FIGURES)
        off = found["hr@10"] - own["hr@10"]
        lines.append(f"{opened.manifest.dtype:10}{split:12}{cells}{found['targets']:10d}{off:+15.5f}")
    index = opened.manifest.index
    by = "exactly" if index is None or isinstance(search, ExactSearch) else f"by {index.kind}"
    lines.append(f"export: what {opened.path} recommends, searched {by}, against the run's own figures of served.")
    return "\n".join(lines)


@torch.no_grad()
def measure_hit_rates(
    config: RunConfig, held_out: HeldOut, opened: OpenExport, search: Search, split: Split
) -> dict[str, Any]:
    """HR@{1,5,10,20}, NDCG@10 and `targets`, equal on every rank."""
    torch.set_float32_matmul_precision("highest")
    recommender, metrics = Recommender(opened, search), RankMetrics()
    for batches in evaluation_loader(config, held_out, (), split, config.evaluate.sessions).epoch(0):
        for batch in batches:
            metrics.update(**_listed(batch, recommender, config.evaluate.dial))
    found = metrics.compute()
    return {name: found[name] for name in (*_FIGURES, "targets")}


def _listed(batch: EvaluationBatch, recommender: Recommender, dial: float) -> dict[str, Tensor]:
    """The columns of `RankMetrics.update`: a target's rank is its place among the tracks that are recommended."""
    real_B = batch.target_B >= 0
    past = batch.history_BS, batch.history_strengths_BS, batch.history_contexts_BSK, batch.profile_rows_BK
    history = SessionHistory(*(values[real_B].numpy() for values in past))
    target_B = batch.target_B[real_B]
    found = recommender.recommend(history, RecommendOptions(k=CUTOFFS[-1], dial=dial))
    found_BK = torch.from_numpy(found.rows_BK) == target_B[:, None]
    rank_B = torch.where(found_BK.any(dim=1), found_BK.int().argmax(dim=1) + 1, NOT_ELIGIBLE)
    nothing_B = torch.zeros_like(rank_B)
    return {
        "session": batch.sessions.session_B[real_B],
        "rank": rank_B,
        "ties": nothing_B,
        "candidates": nothing_B,
        "skips": batch.target_skips_B[real_B],
        "repeated": batch.repeated_B[real_B],
    }
