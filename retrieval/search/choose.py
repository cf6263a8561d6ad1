"""From an export to its index: build each kind, measure it, keep the fastest that finds enough, and store it.

Shape legend: S queries, D width, K best.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import torch
from torch import Tensor

from skipwise.common.errors import UserError
from skipwise.common.versions import import_faiss
from skipwise.retrieval.export_manifest import DialRecall, Measurement
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.search.config import FEW_ROWS, IndexConfig, IndexKind
from skipwise.retrieval.search.exact import ExactSearch, Search
from skipwise.retrieval.search.faiss_build import BuiltIndex, build, fewest_rows, search_settings
from skipwise.retrieval.search.faiss_search import IndexSearch
from skipwise.retrieval.search.stored import index_folder, store_index
from skipwise.retrieval.vectors import Vectors

QUERIES_A_CALL = 8
"""Queries of one call while measuring, as a service of some hundred requests a second batches them."""
_PASSES = 3


@dataclass(frozen=True)
class ExactAnswers:
    """Queries, and the best K rows of each by the exact search: what recall is measured against."""

    queries_SD: Tensor
    rows_SK: Tensor
    scores_SK: Tensor

    @classmethod
    def of(cls, vectors: Vectors, queries_SD: Tensor, k: int) -> "ExactAnswers":
        """K is `k`."""
        return cls(queries_SD, *ask(ExactSearch(vectors), queries_SD, k))


def make_index(config: IndexConfig) -> None:
    """Adds the chosen index to the export, replacing what `config.overwrite` allows, and prints what was measured.

    Raises `UserError` where none of the kinds finds enough; the export is then as it was.
    """
    faiss = import_faiss()
    if config.threads:
        faiss.omp_set_num_threads(config.threads)
        torch.set_num_threads(config.threads)
    torch.set_float32_matmul_precision("highest")
    with index_folder(config.export) as folder:
        opened = OpenExport.open(config.export)
        num_rows = opened.manifest.rows
        if opened.manifest.index and not config.overwrite:
            raise UserError(f"{config.export} has an index ({opened.manifest.index.kind}): replace it with --overwrite")
        exact = ExactAnswers.of(opened.vectors, opened.queries(), min(config.k, num_rows))
        tried: list[tuple[Measurement, BuiltIndex | None]] = []
        kinds = config.kinds_for(num_rows)
        if not config.kinds and num_rows < FEW_ROWS:
            few = f"{num_rows:,} tracks are few: the exact search (flat) is taken"
            print(f"{few}; --kinds with --overwrite measures others")
        for kind in dict.fromkeys(kinds):
            fewest = fewest_rows(kind)
            if num_rows < fewest:
                print(f"{kind} is left out: it needs {fewest} tracks to be trained on, there are {num_rows}")
                continue
            built = None if kind == "flat" else build(kind, opened.vectors, num_rows)
            for settings in search_settings(kind, built, exact.rows_SK.shape[1]):
                search = IndexSearch(built.index, opened.vectors, settings) if built else ExactSearch(opened.vectors)
                tried.append((measure(kind, settings, search, exact), built))
        measured = [measurement for measurement, _ in tried]
        enough = [pair for pair in tried if pair[0].recall_at_10 >= config.recall]
        if not enough:
            raise UserError(_none_reaches(config, kinds, measured))
        measurement, built = max(enough, key=lambda pair: pair[0].queries_per_s)
        others = dial_recalls(opened, built, measurement) if built else None
        entry = {
            "kind": measurement.kind,
            "metric": "inner product",
            "built": built.parameters if built else {},
            "search": measurement.search,
            "wanted": {"recall_at_10": config.recall, "k": exact.rows_SK.shape[1]},
            "measured": measured,
            "dials": others,
            "queries": len(exact.queries_SD),
            "queries_a_call": QUERIES_A_CALL,
            "threads": torch.get_num_threads(),
            "versions": {"faiss-cpu": version("faiss-cpu")},
        }
        store_index(folder, opened, built.index if built else None, entry)
    print("\n".join(_table(measured, measurement, exact)))
    if others:
        found = ", ".join(f"{one.dial:g}: {one.recall_at_10:.4f}" for one in others)
        print(
            f"recall@10 of the chosen one by dial: {found}. Where that is too little, ask for more --recall, or flat."
        )


def measure(kind: IndexKind | str, settings: dict[str, int], search: Search, exact: ExactAnswers) -> Measurement:
    """Asks every query for its best K, `QUERIES_A_CALL` in one call; the speed is that of the fastest pass."""
    k = exact.rows_SK.shape[1]
    seconds = []
    for _ in range(_PASSES):
        began = time.perf_counter()
        rows_SK, scores_SK = ask(search, exact.queries_SD, k)
        seconds.append(time.perf_counter() - began)
    at_10, at_k = (recall(rows_SK, scores_SK, exact, at) for at in (10, k))
    return Measurement(
        kind=kind,
        search=settings,
        recall_at_10=at_10,
        recall_at_k=at_k,
        queries_per_s=len(exact.queries_SD) / min(seconds),
    )


def dial_recalls(opened: OpenExport, built: BuiltIndex, chosen: Measurement) -> list[DialRecall] | None:
    """The recall of the chosen index at each setting of the dial that `export` has measured; None without a dial."""
    keep = opened.manifest.keep
    if keep is None or opened.manifest.queries.dial is None:
        return None
    search, found = IndexSearch(built.index, opened.vectors, chosen.search), []
    for dial in sorted({keep.dial, *(point.dial for point in keep.curve)}):
        exact = ExactAnswers.of(opened.vectors, opened.queries(dial), min(10, opened.manifest.rows))
        found.append(
            DialRecall(
                dial=dial, recall_at_10=recall(*ask(search, exact.queries_SD, exact.rows_SK.shape[1]), exact, 10)
            )
        )
    return found


def recall(rows_SK: Tensor, scores_SK: Tensor, exact: ExactAnswers, at: int) -> float:
    """The share of each query's exact best `at` rows that are among the first `at` found.

    A row whose score equals the last of those best is as good. Where the table has fewer rows, the share of all.
    """
    there_SK = exact.rows_SK[:, :at] >= 0
    found_SKK = rows_SK[:, :at, None] == exact.rows_SK[:, None, :at]
    lowest_S1 = exact.scores_SK[:, :at].masked_fill(~there_SK, float("inf")).min(dim=1, keepdim=True).values
    good_SK = found_SKK.any(dim=2) | (scores_SK[:, :at] >= lowest_S1)
    return float((good_SK & (rows_SK[:, :at] >= 0)).sum() / there_SK.sum())


def ask(search: Search, queries_SD: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Rows and scores [S, K] of each query's best `k`, `QUERIES_A_CALL` queries in one call, no row excluded."""
    found = [
        search.search(part_QD, k, torch.empty(len(part_QD), 0, dtype=torch.int64))
        for part_QD in queries_SD.split(QUERIES_A_CALL)
    ]
    rows_SK, scores_SK = (torch.cat(pieces) for pieces in zip(*found, strict=True))
    return rows_SK, scores_SK


def _none_reaches(config: IndexConfig, kinds: Sequence[IndexKind], tried: list[Measurement]) -> str:
    if not tried:
        return f"{config.export} has too few tracks for --kinds {' '.join(kinds)}: add flat to --kinds"
    most = max(tried, key=lambda one: one.recall_at_10)
    return (
        f"none of --kinds {' '.join(kinds)} finds --recall {config.recall} of the ten best: {most.kind} finds "
        f"{most.recall_at_10:.4f}: add flat to --kinds, or ask for less"
    )


def _table(tried: list[Measurement], chosen: Measurement, exact: ExactAnswers) -> list[str]:
    k, threads = exact.rows_SK.shape[1], torch.get_num_threads()
    lines = [f"{'kind':10}{'setting':32}{'recall@10':>10}{f'recall@{k}':>12}{'queries/s':>11}"]
    for one in tried:
        setting = " ".join(f"{name} {value}" for name, value in one.search.items())
        lines.append(
            f"{one.kind:10}{setting:32}{one.recall_at_10:10.4f}{one.recall_at_k:12.4f}{one.queries_per_s:11,.0f}"
            + ("  chosen" if one is chosen else "")
        )
    lines.append(
        f"against the exact inner product, on {len(exact.queries_SD):,} queries of the model, {QUERIES_A_CALL} a call, "
        f"{threads} thread{'s' * (threads > 1)}."
    )
    return lines
