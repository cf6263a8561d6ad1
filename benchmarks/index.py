"""`index`: queries answered per second by each kind of index, against the exact search in the same run.

Each kind is built once, and searched at the fastest of its settings that finds the wanted share of the ten best. It is
then timed in turn with the exact search, both of them as retrieval runs them: candidates are scored again by their own
vectors. `faiss flat` is FAISS's own exact search, over a copy of the table. The table is synthetic: `clustered`.
"""

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from skipwise.benchmarks.harness.benchmark_report import Report
from skipwise.benchmarks.harness.config import IndexBenchmarkConfig, IndexKind
from skipwise.benchmarks.harness.synthetic import clustered
from skipwise.benchmarks.harness.timing import Times, alternate, ratios
from skipwise.common.errors import UserError
from skipwise.common.versions import import_faiss
from skipwise.retrieval.export_manifest import Measurement
from skipwise.retrieval.search import choose
from skipwise.retrieval.search.choose import QUERIES_A_CALL, ExactAnswers, ask
from skipwise.retrieval.search.exact import ExactSearch, Search
from skipwise.retrieval.search.faiss_build import BuiltIndex, build, fewest_rows, search_settings
from skipwise.retrieval.search.faiss_search import IndexSearch
from skipwise.retrieval.vectors import Piece, Vectors

RECALL = 0.95
"""Share of the ten best that a setting must find to be timed; the setting that finds most, where none does."""


@dataclass(frozen=True)
class _Case:
    search: Search
    measured: Measurement
    built: dict[str, int]
    built_in_s: float
    bytes: int


def measure(config: IndexBenchmarkConfig) -> Report:
    """Builds, measures, and times in turn."""
    if config.tracks < fewest_rows("ivfpq"):
        raise UserError(f"--tracks {config.tracks} must be at least {fewest_rows('ivfpq')}")
    faiss = import_faiss()
    if config.threads:
        faiss.omp_set_num_threads(config.threads)
    torch.set_float32_matmul_precision("highest")
    table_ND, queries_SD = clustered(config.tracks, config.queries, config.dim)
    vectors = Vectors([Piece(0, table_ND)])
    truth = ExactAnswers.of(vectors, torch.from_numpy(queries_SD), config.k)
    cases: dict[str, _Case] = {kind: _case(kind, vectors, config, truth) for kind in dict.fromkeys(config.kinds)}
    searches = {"exact": ExactSearch(vectors)} | {kind: case.search for kind, case in cases.items()}
    asked = {kind: partial(ask, search, truth.queries_SD, config.k) for kind, search in searches.items()}
    return _report(config, cases, alternate(asked, config.rounds, config.warmup))


def _case(kind: IndexKind, vectors: Vectors, config: IndexBenchmarkConfig, truth: ExactAnswers) -> _Case:
    faiss = import_faiss()
    began = time.perf_counter()
    if kind == "faiss flat":
        built = BuiltIndex(faiss.IndexFlatIP(config.dim), {})
        tried: list[dict[str, int]] = [{}]
        for _, block_BD in vectors.blocks():
            built.index.add(block_BD.numpy())
    else:
        built = build(kind, vectors, config.tracks)
        tried = search_settings(kind, built, config.k)
    seconds = time.perf_counter() - began
    searches = [(one, IndexSearch(built.index, vectors, one)) for one in tried]
    found = [(choose.measure(kind, one, search, truth), search) for one, search in searches]
    enough = [pair for pair in found if pair[0].recall_at_10 >= RECALL]
    if enough:
        measured, search = max(enough, key=lambda pair: pair[0].queries_per_s)
    else:
        measured, search = max(found, key=lambda pair: pair[0].recall_at_10)
    return _Case(search, measured, built.parameters, seconds, len(faiss.serialize_index(built.index)))


def _report(config: IndexBenchmarkConfig, cases: dict[str, _Case], times: dict[str, Times]) -> Report:
    figures: dict[str, Any] = {"exact": {"queries_per_s": config.queries / times["exact"].p50}}
    rows = [["exact", "", "1.0000", "1.0000", f"{figures['exact']['queries_per_s']:,.0f}", "1.00", "", ""]]
    for kind, case in cases.items():
        of = figures[kind] = {
            "queries_per_s": config.queries / times[kind].p50,
            "exact_queries_per_s": figures["exact"]["queries_per_s"],
            "ratio": times["exact"].p50 / times[kind].p50,
            "recall_at_10": case.measured.recall_at_10,
            "recall_at_k": case.measured.recall_at_k,
            "search": case.measured.search,
            "built": case.built,
            "built_in_s": case.built_in_s,
            "index_bytes": case.bytes,
        }
        rows.append(
            [kind, " ".join(f"{name} {value}" for name, value in case.measured.search.items())]
            + [f"{of[name]:.4f}" for name in ("recall_at_10", "recall_at_k")]
            + [f"{of['queries_per_s']:,.0f}", f"{of['ratio']:.2f}"]
            + [f"{case.built_in_s:,.0f}", f"{case.bytes / 2**20:,.0f}"]
        )
    return Report(
        name="index",
        title=f"Searching {config.tracks:,} tracks x {config.dim} by inner product, best {config.k}",
        figures=figures | {"seconds": {name: of.seconds for name, of in times.items()}},
        samples={f"{kind}_ratio": list(ratios(times[kind], times["exact"])) for kind in cases},
        header=[
            "kind",
            "setting",
            "recall@10",
            f"recall@{config.k}",
            "queries/s",
            "x exact",
            "built in s",
            "index MiB",
        ],
        rows=rows,
        notes=[
            f"{config.queries} queries a round, {QUERIES_A_CALL} a call: exact search gains from many at once, an "
            "index does not. The table is synthetic, clustered with norms that rise with popularity: recall on a "
            "trained table is what `index` prints for it.",
        ],
    )
