"""`steering`: how steering away from skipped tracks changes the ranks of held-out targets, kept and skipped ones.

Exact ranks in the whole catalogue without the session's own tracks, as of `evaluate --protocol full`. Three ways:
`contrast` is what recommend's --steer does; `skipped` turns away from the skipped tracks' mean direction, whatever the
kept tracks share of it; `centred` does so after the table's mean is subtracted from each row. All start from the same
queries.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from skipwise.benchmarks.harness.benchmark_report import Report
from skipwise.benchmarks.harness.config import SteeringConfig
from skipwise.common.errors import UserError
from skipwise.datapipes.sessions import SessionStore
from skipwise.models.ranking import full_counts, full_target_scores
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.recommend.recommender import Recommender, SessionHistory, contrasts, excluded, steered
from skipwise.retrieval.search.exact import ExactSearch
from skipwise.training.evaluation.rank_metrics import RankMetrics, SkipRanking

STRENGTHS = (0.05, 0.1, 0.2, 0.5)
WAYS = ("contrast", "skipped", "centred")
SPLITS = {"validation": 2, "test": 1}
"""How many positions before a session's end the target is."""
HEADER = ["split", "way", "steer", "HR@1", "HR@5", "HR@10", "HR@20", "kept HR@10", "skipped HR@10"]
HEADER += ["after a skip HR@10", "else HR@10", "kept pct", "skipped pct"]


def measure(config: SteeringConfig) -> Report:
    """Measures validation and test split."""
    opened = OpenExport.open(Path(config.export))
    store = SessionStore(config.data or opened.manifest.config["data"]["path"])
    if store.manifest.vocabulary_hash != opened.manifest.vocabulary_hash:
        raise UserError(f"{store.path} has another vocabulary than {opened.path}: name the data it was trained on")
    return _report(config, {split: _measure_split(opened, store, back) for split, back in SPLITS.items()})


@torch.no_grad()
def _measure_split(opened: OpenExport, store: SessionStore, back: int) -> dict[str, dict[str, float | int]]:
    """By "way strength", the metrics of the targets `back` places before their session's end."""
    recommender = Recommender(opened, ExactSearch(opened.vectors))
    directions = _directions(opened)
    names = ["off 0", *(f"{way} {strength}" for way in WAYS for strength in STRENGTHS)]
    # Of all targets, of those after a skip and after a kept track, and of skipped and kept targets.
    tallies = {name: (RankMetrics(), RankMetrics(), RankMetrics(), SkipRanking()) for name in names}
    for group in range(len(store.group_sizes)):
        window = store.read(np.array([group]))
        ends_S = window.offsets[1:] - back
        sound = ends_S > window.offsets[:-1]
        starts_Q, ends_Q = window.offsets[:-1][sound], ends_S[sound]
        if not len(ends_Q):
            continue
        plays = np.concatenate([np.arange(start, end) for start, end in zip(starts_Q, ends_Q, strict=True)])
        skipped_P = opened.view.skipped(window.skips[plays])
        history = SessionHistory.flat(ends_Q - starts_Q, window.tracks[plays].astype(np.int64), skipped_P)
        target_Q = torch.from_numpy(window.tracks[ends_Q].astype(np.int64))
        strengths_Q = torch.from_numpy(window.skips[ends_Q])
        after_skip_Q = torch.from_numpy(opened.view.skipped(window.skips[ends_Q - 1]))
        excluded_QX = torch.cat([target_Q[:, None], torch.from_numpy(excluded(history, "both"))], dim=1)
        candidates_Q = torch.tensor([len(opened.tracks) - len(set(rows) - {-1}) for rows in excluded_QX.tolist()])
        plain_QD = recommender.queries(history)
        steered_queries = {"off 0": plain_QD} | {
            f"{way} {strength}": steered(plain_QD, direction(history), strength)
            for way, direction in directions.items()
            for strength in STRENGTHS
        }
        for name, queries_QD in steered_queries.items():
            rank_Q = _ranks(opened, queries_QD, target_Q, excluded_QX)
            overall, after_skip, after_kept, by_target = tallies[name]
            overall.update(rank_Q)
            after_skip.update(rank_Q[after_skip_Q])
            after_kept.update(rank_Q[~after_skip_Q])
            by_target.update(rank_Q, candidates_Q, strengths_Q)
    found = {}
    for name, (overall, after_skip, after_kept, by_target) in tallies.items():
        found[name] = overall.compute() | by_target.compute()
        for when, of in (("after_skip", after_skip.compute()), ("after_kept", after_kept.compute())):
            found[name] |= {f"{when}_{key}": of[key] for key in ("hr@10", "sessions")}
    return found


def _ranks(opened: OpenExport, queries_QD: Tensor, target_Q: Tensor, excluded_QX: Tensor) -> Tensor:
    """int64 [Q]: the targets' exact ranks, 1 is best."""
    scores_Q, counts_Q = torch.zeros(len(target_Q)), torch.zeros(len(target_Q), dtype=torch.int64)
    for first, block_BD in opened.vectors.blocks():
        scores_Q += full_target_scores(queries_QD, target_Q, first, block_BD)
    for first, block_BD in opened.vectors.blocks():
        counts_Q += full_counts(queries_QD, scores_Q, excluded_QX, first, block_BD)
    return 1 + counts_Q


def _directions(opened: OpenExport) -> dict[str, Callable[[SessionHistory], Tensor]]:
    """What each way turns from, by its name."""
    mean_D = sum(block_BD.double().sum(dim=0) for _, block_BD in opened.vectors.blocks()) / len(opened.tracks)

    def of_skipped(history: SessionHistory, mean_D: Tensor | float) -> Tensor:
        skipped_BT = torch.from_numpy(history.skipped_BT)
        rows_P = history.rows_BT[history.skipped_BT]
        means_BTD = torch.zeros(*skipped_BT.shape, opened.vectors.dim)
        rows_PD = torch.from_numpy(opened.vectors.take(rows_P)) - mean_D
        means_BTD[skipped_BT] = torch.nn.functional.normalize(rows_PD.float(), dim=1)
        return means_BTD.sum(dim=1) / skipped_BT.sum(dim=1, keepdim=True).clamp(min=1)

    return {
        "contrast": lambda history: contrasts(opened.vectors, history),
        "skipped": lambda history: of_skipped(history, 0.0),
        "centred": lambda history: of_skipped(history, mean_D),
    }


def _report(config: SteeringConfig, figures: dict[str, dict[str, dict[str, float | int]]]) -> Report:
    hits = ["hr@1", "hr@5", "hr@10", "hr@20", "kept_hr@10", "skipped_hr@10", "after_skip_hr@10", "after_kept_hr@10"]
    rows = [
        [split, *name.split(), *(f"{found[key]:.4f}" for key in hits)]
        + [f"{found[f'{kind}_percentile_rank']:.2f}" for kind in ("kept", "skipped")]
        for split, of_split in figures.items()
        for name, found in of_split.items()
    ]

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        off, found = figures["test"]["off 0"], figures["test"]
        for way in WAYS:
            points = [off, *(found[f"{way} {strength}"] for strength in STRENGTHS)]
            axis.plot(*([one[f"{kind}_hr@10"] for one in points] for kind in ("kept", "skipped")), ".-", label=way)
        axis.set_xlabel("HR@10 of kept targets, test: higher is better")
        axis.set_ylabel("HR@10 of skipped targets: lower is better")
        axis.legend()

    off = figures["test"]["off 0"]
    return Report(
        name="steering",
        title="Steering away from skipped tracks",
        figures={"steering": figures},
        samples={},
        header=HEADER,
        rows=rows,
        notes=[
            f"Test: {off['sessions']:,} targets, {off['kept_sessions']:,} kept and {off['skipped_sessions']:,} "
            f"skipped; {off['after_skip_sessions']:,} come after a skip.",
            "kept pct and skipped pct: mean percentile rank, the share of the candidates that come after the target "
            "(100 is first, 0 last). For kept targets higher is better; for skipped ones lower is better.",
        ],
        draw=draw,
    )
