"""`lookup`: one-hot rows by EmbeddingBagCollection, EmbeddingCollection and nn.Embedding, updated in each step.

Asked in torchrec's issue 1388: with one id a bag, both collections give the same rows; which is faster?
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, get_args

import torch.distributed as dist
import tyro

from skipwise.benchmarks.harness.benchmark_report import Report, ReportConfig, write
from skipwise.benchmarks.harness.timing import Times, alternate, ratios
from skipwise.benchmarks.lookup_modules import Ids, Kind, Lookup, draw_ids, plain_lookup, sharded_lookup
from skipwise.common.distributed import process_group, world_size

SHARDINGS = ("row_wise", "column_wise", "table_wise")
MODULES = ("EmbeddingBagCollection", "EmbeddingCollection")
PLAIN = "nn.Embedding"
KINDS = get_args(Kind)

Case = tuple[str, str, Kind]
"""Module, sharding (empty for nn.Embedding) and ids."""


@dataclass(frozen=True)
class LookupConfig:
    """Time forward, backward and table update of a one-hot lookup, per module, sharding and kind of ids."""

    tracks: int = 1_000_000
    """Rows of the table."""
    dim: int = 128
    """Width of a row; a multiple of 4."""
    lookups: int = 8700
    """Ids of each rank's step, Zipf 1.0: about what a batch of 256 sessions with 1000 shared negatives asks for."""
    rounds: int = 20
    """Steps that are timed, of each case, in turn."""
    warmup: int = 3
    """Steps of each case before them."""
    seed: int = 0
    """Seed of the ids."""
    report: Annotated[ReportConfig, tyro.conf.arg(name="")] = field(default_factory=ReportConfig)

    def __post_init__(self) -> None:
        if self.dim < 4 or self.dim % 4:
            raise ValueError(f"--dim {self.dim} must be a positive multiple of 4")
        for name in ("tracks", "lookups", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1")
        if self.warmup < 0 or self.seed < 0:
            raise ValueError("--warmup and --seed must not be negative")


CONFIG = LookupConfig


def measure(config: LookupConfig) -> None:
    """Times every case that this backend can do, and names the others."""
    with process_group():
        ids = draw_ids(config.tracks, config.lookups, config.seed)
        steps: dict[Case, Callable[[], object]] = {}
        refused: dict[Case, str] = {}
        plain = plain_lookup(config.tracks, config.dim)
        for kind in KINDS:
            steps[PLAIN, "", kind] = _turns(plain, ids, kind)
        for module in MODULES:
            for sharding in SHARDINGS:
                lookup, reason = _made(config, module, sharding)
                for kind in KINDS:
                    case = module, sharding, kind
                    step = lookup and _turns(lookup, ids, kind)
                    if why_not := reason or _tried(step):
                        refused[case] = why_not
                    else:
                        steps[case] = step
        times = alternate(steps, config.rounds, config.warmup)
        write(_report(config, times, refused), config.report)


def _made(config: LookupConfig, module: str, sharding: str) -> tuple[Lookup | None, str]:
    """A sharded module, or why there is none."""
    made: list[Lookup] = []
    reason = _tried(lambda: made.append(sharded_lookup(config.tracks, config.dim, config.lookups, module, sharding)))
    return (None, reason) if reason else (made[0], "")


def _turns(lookup: Lookup, ids: list[Ids], kind: Kind) -> Callable[[], None]:
    number = 0

    def turn() -> None:
        nonlocal number
        lookup(ids[number % len(ids)], kind)
        number += 1

    return turn


def _tried(step: Callable[[], object]) -> str:
    """Why a step fails on some rank, in one sentence; empty where it works on all."""
    reason = ""
    try:
        step()
    except Exception as error:  # whatever TorchRec refuses becomes a row
        reason = _sentence(error)
    if world_size() == 1:
        return reason
    reasons = [""] * world_size()
    dist.all_gather_object(reasons, reason)
    return next(filter(None, reasons), "")


def _sentence(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:160] if lines else 'no reason given'}"


def _report(config: LookupConfig, times: dict[Case, Times], refused: dict[Case, str]) -> Report:
    rows = [[*case, "-", "-", "-", reason] for case, reason in refused.items()]
    samples = {}
    for case, of in times.items():
        baseline = times[PLAIN, "", case[2]]
        if case[0] != PLAIN:
            samples[" ".join(case)] = list(ratios(of, baseline))
        rows.append([*case, f"{1000 * of.p50:.2f}", f"{1000 * of.p90:.2f}", f"{baseline.p50 / of.p50:.2f}", ""])
    figures = {
        "seconds": {" ".join(filter(None, case)): of.seconds for case, of in times.items()},
        "refused": {" ".join(case): reason for case, reason in refused.items()},
    }
    notes = [
        f"{config.lookups:,} ids a rank and step out of {config.tracks:,} rows of {config.dim}. 'distinct': the module "
        "is given each id once, and the rows are then spread over the positions.",
        "x nn.Embedding: times faster than nn.Embedding(sparse) under SparseAdam given the same ids.",
    ]
    if world_size() > 1:
        notes.append(
            "nn.Embedding holds the whole table on every rank and exchanges nothing: it does not train one model, and "
            "its time is what each rank would need without the others."
        )
    title = f"One-hot lookup, backward and update on {world_size()} rank{'s' * (world_size() > 1)}"
    header = ["module", "sharding", "ids", "ms P50", "P90", "x nn.Embedding", "why not"]
    return Report("lookup", title, config, figures, samples, header, rows, notes)
