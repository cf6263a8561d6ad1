"""The report of a benchmark: a dated Markdown page, the raw JSON beside it, and a plot.

The JSON is what `compare` reads: `samples` holds, for each figure that is judged, one value a round; higher is better.
`counts` holds figures without noise; lower is better.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from skipwise.benchmarks.harness.timing import peaks_of_ranks
from skipwise.common.distributed import device, logger, process_group, rank, world_size
from skipwise.common.files import write_json, write_text
from skipwise.common.versions import commit, machine, versions

SCHEMA_VERSION = 1


@dataclass
class Report:
    """A benchmark's result."""

    name: str
    """The benchmark's."""
    title: str
    figures: dict[str, Any]
    """What was measured, for the top level of the JSON."""
    samples: dict[str, list[float]]
    """For each figure that `compare` judges, one value a round, higher is better: ratios to a baseline as a rule."""
    header: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    """Figures without noise, lower is better."""
    draw: Callable[[Figure], None] | None = None
    """Draws the plot, in place of each round's samples."""
    variant: str = ""
    """Part of the files' names that distinguishes reports of one benchmark and day."""


def measure_and_write(measure: Callable[[Any], Report], config: Any) -> None:
    """Measures on the ranks that torchrun started, or in this process alone, and writes the report."""
    with process_group():
        if threads := getattr(config, "threads", 0):
            torch.set_num_threads(threads)
        write(measure(config), config)


def write(report: Report, config: Any) -> None:
    """Writes the files on rank 0 and logs the table; all ranks call it together.

    `config`: the benchmark's options; its `report` says where to.
    """
    made = _environment()  # gathers every rank's peak memory
    if rank() != 0:
        return
    variant = [report.variant] if report.variant else []
    ranked = [f"{world_size()}-ranks"] if world_size() > 1 else []
    name = "-".join([date.today().isoformat(), report.name, *variant, *ranked])
    folder = Path(config.report.output)
    folder.mkdir(parents=True, exist_ok=True)
    content = {"schema_version": SCHEMA_VERSION, "benchmark": report.name, "date": date.today().isoformat()}
    options = asdict(config)
    del options["report"]  # where it is written says nothing of what was measured
    content |= {"made": made, "config": options} | report.figures | {"samples": report.samples, "counts": report.counts}
    text = _markdown(report, options, made, name)
    figure = Figure(figsize=(9, 4.5), dpi=100, layout="constrained")
    (report.draw or rounds_of(report.samples))(figure)
    figure.savefig(folder / f"{name}.png")
    write_json(folder / f"{name}.json", content)
    write_text(folder / f"{name}.md", text)
    if config.report.json:
        write_json(Path(config.report.json), content)
    logger.info("\n".join([report.title, "", *table(report.header, report.rows), "", *report.notes]))
    logger.info(f"wrote {folder / name}.md and .json")


def rounds_of(samples: dict[str, list[float]]) -> Callable[[Figure], None]:
    """Draws every round of each figure as a point, and their quartiles as a box."""

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        axis.boxplot(list(samples.values()), orientation="horizontal", tick_labels=list(samples), showfliers=False)
        for place, values in enumerate(samples.values(), start=1):
            axis.plot(values, [place] * len(values), ".", color="#33658a", alpha=0.6)
        axis.set_xlabel("each round's figure; more is better")
        axis.set_xlim(left=0)
        axis.invert_yaxis()
        axis.grid(axis="x", color="0.9")
        axis.spines[["top", "right"]].set_visible(False)

    return draw


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """The lines of a Markdown table with aligned columns."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return [line(header), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)]


def _environment() -> dict[str, Any]:
    return {
        "machine": machine() | ({"device": torch.cuda.get_device_name()} if device().type == "cuda" else {}),
        "versions": versions(),
        "commit": commit(),
        "ranks": world_size(),
        "threads": torch.get_num_threads(),
        "peak_bytes": peaks_of_ranks(),
    }


def _markdown(report: Report, options: dict[str, Any], made: dict[str, Any], name: str) -> str:
    peak = ", ".join(f"{value / 2**20:,.0f}" for value in made["peak_bytes"])
    lines = [
        f"# {report.title}",
        "",
        f"{date.today().isoformat()}, commit {made['commit']}; {made['machine']['processor']}, "
        f"{made['machine']['cores']} cores, {made['ranks']} rank{'s' * (made['ranks'] > 1)} of {made['threads']} "
        f"threads; {', '.join(f'{name} {value}' for name, value in made['versions'].items())}; "
        f"peak memory of the process {peak} MiB.",
        "",
        "Options: " + ", ".join(f"{name} {value}" for name, value in options.items()) + ".",
        "",
        *table(report.header, report.rows),
        "",
        *report.notes,
    ]
    return "\n".join([*lines, "", f"![{report.name}]({name}.png)"]) + "\n"
