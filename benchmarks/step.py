"""`step`: one training step, its parts, the plain baseline in turn with it, and the machine's floor."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from skipwise.benchmarks.baselines.plain_process import plain_process, take_step
from skipwise.benchmarks.harness.batches import TrainingSteps, global_work, made_store, plain_batches, run_config
from skipwise.benchmarks.harness.benchmark_report import Report, table
from skipwise.benchmarks.harness.config import LANES, StepConfig
from skipwise.benchmarks.harness.floor import Rates, Work, floor_seconds, measure_rates
from skipwise.benchmarks.harness.step_parts import measure_parts
from skipwise.benchmarks.harness.timing import Times, alternate, peak_bytes, peaks_of_ranks, ratios, whole_machine
from skipwise.common.distributed import barrier, broadcast_object, device, rank, world_size
from skipwise.common.errors import UserError

_BATCHES = 16
_CALLS = 5  # in a turn: the first finds the caches full of the other side's data


def measure(config: StepConfig) -> Report:
    """Times the step."""
    run = run_config(config)
    if LANES % world_size():
        raise UserError(f"{world_size()} ranks cannot share {LANES} lanes: start 1, 2, 4, 8 or {LANES}")
    store = made_store(_BATCHES * config.batch, config.tracks, config.length)
    ours = TrainingSteps(run, store)
    for _ in range(3):
        ours.step()
    peaks = peaks_of_ranks()
    cases: dict[str, Callable[[], object]] = {"ours": ours.step}
    wanted = config.baseline == "plain"
    # Rank 0 starts the baseline, with the threads of all ranks; the other ranks' turn is empty.
    threads = torch.get_num_threads() * world_size()
    with plain_process(run, store, threads) if wanted and rank() == 0 else nullcontext() as plain:
        if wanted:
            cases["plain"] = (lambda: plain(take_step)) if plain else lambda: None
        times = alternate(cases, config.rounds, config.warmup, _CALLS)
        plain_peak = plain(peak_bytes) if plain else 0
    parts = measure_parts(ours.step, ours.model, ours.optimizer, config.rounds)
    barrier()
    floor = None
    if rank() == 0:
        work = global_work(run, plain_batches(run, store))
        with whole_machine():
            floor = work, measure_rates(work, config.precision, device())
    return _report(config, times, broadcast_object(floor), parts, peaks, plain_peak)


def _report(
    config: StepConfig,
    times: dict[str, Times],
    floor: tuple[Work, Rates],
    parts: dict[str, dict[str, float]],
    peaks: list[int],
    plain_peak: int,
) -> Report:
    work, rates = floor
    floor_s = floor_seconds(work, rates)
    figures: dict[str, Any] = {
        side: {
            "sessions_per_s": config.batch / of.p50,
            "tokens_per_s": work.positions / of.p50,
            "p50_ms": 1000 * of.p50,
            "p90_ms": 1000 * of.p90,
        }
        for side, of in times.items()
    }
    figures["ours"]["peak_bytes"] = peaks
    figures["floor_sessions_per_s"] = config.batch / floor_s
    figures["of_floor"] = floor_s / times["ours"].p50
    figures["parts"] = parts
    header = ["", "sessions/s", "tokens/s", "P50 ms", "P90 ms"]
    rows = [
        [side, *(f"{figures[side][name]:,.0f}" for name in ("sessions_per_s", "tokens_per_s"))]
        + [f"{1000 * value:.1f}" for value in (of.p50, of.p90)]
        for side, of in times.items()
    ]
    rows.append(["floor", f"{figures['floor_sessions_per_s']:,.0f}", "", f"{1000 * floor_s:.1f}", ""])
    samples = {"sessions_per_s": [config.batch / seconds for seconds in times["ours"].seconds]}
    notes = []
    if "plain" in times:
        figures["plain"]["peak_bytes"] = plain_peak
        figures["ratio"] = times["plain"].p50 / times["ours"].p50
        samples = {"ratio": list(ratios(times["ours"], times["plain"]))}
        notes.append(f"Ours takes {figures['ratio']:.2f} times plain's sessions per second.")
    notes += [
        f"It reaches {figures['of_floor']:.2f} of the floor. Rates measured: products {rates.product / 1e9:,.0f} "
        f"GFLOP/s, copy {rates.copy / 1e9:,.1f} GB/s, in the cache {rates.cache / 1e9:,.1f}.",
        f"Peak memory: ours {', '.join(f'{peak / 2**20:,.0f}' for peak in peaks)} MiB"
        + (f", plain {plain_peak / 2**20:,.0f} MiB." if plain_peak else "."),
        "",
        *table(
            ["part", "P50 ms", "P90 ms"],
            [[name, f"{of['p50_ms']:.1f}", f"{of['p90_ms']:.1f}"] for name, of in parts.items()],
        ),
    ]
    changed = [config.optimizer] * (config.optimizer != "recipe") + ["compiled"] * config.compile
    changed += [f"length {config.length}"] * (config.length != StepConfig.length)
    return Report(
        name="step",
        variant="-".join([config.recipe, *changed, config.precision, config.negatives]).replace(" ", "-"),
        title=", ".join(
            [f"Training step: {config.recipe}", *changed, config.precision, f"negatives {config.negatives}"]
        ),
        figures=figures,
        samples=samples,
        header=header,
        rows=rows,
        notes=notes,
    )
