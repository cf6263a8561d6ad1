"""From an export to its index: build each kind, measure it, keep the fastest that finds enough, and put it in place."""

from collections.abc import Iterator
from importlib.metadata import version

import torch

from skipwise.common.errors import UserError
from skipwise.common.versions import import_faiss
from skipwise.components.index import IndexConfig
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.search.exact import ExactSearch, Search
from skipwise.retrieval.search.faiss_build import Built, build, settings, smallest
from skipwise.retrieval.search.faiss_search import IndexSearch
from skipwise.retrieval.search.measured import AT_A_TIME, Measured, Truth, measure
from skipwise.retrieval.search.stored import place, scratch

_METRIC = "inner product"


def make_index(config: IndexConfig) -> None:
    """Adds the chosen index to the export, replacing what `config.overwrite` allows, and prints what was measured.

    Raises `UserError` where none of the kinds finds enough; the export is then as it was.
    """
    faiss = import_faiss()
    opened = OpenExport.open(config.export)
    if opened.manifest.index and not config.overwrite:
        raise UserError(
            f"{config.export} has an index ({opened.manifest.index.get('kind')}): replace it with --overwrite"
        )
    if config.threads:
        faiss.omp_set_num_threads(config.threads)
        torch.set_num_threads(config.threads)
    torch.set_float32_matmul_precision("highest")
    with scratch(config.export) as folder:
        truth = Truth.of(opened.vectors, opened.queries(), min(config.k, opened.manifest.rows))
        tried: list[Measured] = []
        chosen: tuple[Measured, Built | None] | None = None
        for kind in dict.fromkeys(config.kinds):
            fewest = smallest(kind)
            if opened.manifest.rows < fewest:
                print(
                    f"{kind} is left out: it needs {fewest} tracks to be trained on, there are {opened.manifest.rows}"
                )
                continue
            built = None if kind == "flat" else build(kind, opened.vectors, opened.manifest.rows, opened.manifest.dim)
            for setting, search in _searches(kind, built, opened, truth):
                measured = measure(kind, setting, search, truth)
                tried.append(measured)
                reaches = measured.recall_at_10 >= config.recall
                if reaches and (chosen is None or measured.queries_per_s > chosen[0].queries_per_s):
                    chosen = measured, built
        if chosen is None:
            raise UserError(_none_reaches(config, tried))
        record = {
            "kind": chosen[0].kind,
            "metric": _METRIC,
            "built": chosen[1].parameters if chosen[1] else {},
            "search": chosen[0].search,
            "wanted": {"recall_at_10": config.recall, "k": truth.rows_SK.shape[1]},
            "measured": [one.record() for one in tried],
            "queries": len(truth.queries_SD),
            "queries_a_call": AT_A_TIME,
            "threads": torch.get_num_threads(),
            "versions": {"faiss-cpu": version("faiss-cpu")},
        }
        place(folder, opened, chosen[1].index if chosen[1] else None, record)
    print("\n".join(_table(tried, chosen[0], truth)))


def _searches(
    kind: str, built: Built | None, opened: OpenExport, truth: Truth
) -> Iterator[tuple[dict[str, int], Search]]:
    for setting in settings(kind, built, truth.rows_SK.shape[1]):
        yield setting, IndexSearch(built.index, opened.vectors, setting) if built else ExactSearch(opened.vectors)


def _none_reaches(config: IndexConfig, tried: list[Measured]) -> str:
    if not tried:
        return f"{config.export} has too few tracks for --kinds {' '.join(config.kinds)}: add flat to --kinds"
    most = max(tried, key=lambda one: one.recall_at_10)
    return (
        f"none of --kinds {' '.join(config.kinds)} finds --recall {config.recall} of the ten best: {most.kind} finds "
        f"{most.recall_at_10:.4f}: add flat to --kinds, or ask for less"
    )


def _table(tried: list[Measured], chosen: Measured, truth: Truth) -> list[str]:
    k = truth.rows_SK.shape[1]
    lines = [f"{'kind':8}{'setting':32}{'recall@10':>10}{f'recall@{k}':>12}{'queries/s':>11}"]
    for one in tried:
        words = " ".join(f"{name} {value}" for name, value in one.search.items())
        lines.append(
            f"{one.kind:8}{words:32}{one.recall_at_10:10.4f}{one.recall_at_k:12.4f}{one.queries_per_s:11,.0f}"
            + ("  chosen" if one is chosen else "")
        )
    lines.append(
        f"against the exact inner product, on {len(truth.queries_SD):,} queries of the model's, {AT_A_TIME} a call, "
        f"{torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}."
    )
    return lines
