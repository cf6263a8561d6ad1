"""The files of a comparison: `table.md`, `table.json`, `table.png`.

The Markdown has, for each protocol, the layout of the paper's table 1, tests, skip down-ranking and breakdowns.
"""

import os
from pathlib import Path
from typing import Any

from skipwise.common.files import read_json, write_json, write_text
from skipwise.common.versions import commit, machine
from skipwise.datapipes.counts import train_counts
from skipwise.datapipes.sessions import SessionStore
from skipwise.studies.comparison import SIGNIFICANT, TESTED, Row, compare, significant
from skipwise.studies.groupings import groupings
from skipwise.training.config import PROTOCOLS
from skipwise.training.evaluation.metrics import METRICS
from skipwise.training.run.directory import RunDirectory

_NAMES = {metric: metric.upper() for metric in METRICS}
_PAPER_METRICS = ("hr@1", "hr@5", "hr@10", "hr@20")
_COLOURS = ("#33658a", "#b5541c", "#5b7b3a", "#7a4b8a")


def write_comparison(output: Path, rows: list[Row], store: SessionStore, title: str) -> None:
    """Compares the rows under both protocols and writes the three files, each atomically."""
    by = groupings(store, train_counts(store))
    comparisons = [compare(rows, protocol, by) for protocol in PROTOCOLS]
    made = _made_of(rows, store)
    picture = output / ".table.png.partial"
    draw(comparisons[0], picture)
    os.replace(picture, output / "table.png")
    write_json(output / "table.json", {"made": made, "comparisons": comparisons})
    write_text(output / "table.md", table_markdown(comparisons, title, _notes(made)))


def _made_of(rows: list[Row], store: SessionStore) -> dict[str, Any]:
    """Data, machine, commit, and each run's recipe, versions, epochs and time."""
    runs = {}
    for row in rows:
        for path in row.runs if not row.reference else ():
            run, metrics = RunDirectory.open(str(path)), read_json(path / "metrics.json", "metrics of a run")
            runs[path.name] = {"ranks": run.record.world_size, "versions": run.record.versions} | metrics["train"]
    return {
        "data": {"name": store.path.name, "counts": store.manifest.counts, "skip_share": store.manifest.skip_share}
        | {"options": store.manifest.options, "vocabulary_hash": store.manifest.vocabulary_hash},
        "commit": commit(),
        "machine": machine(),
        "runs": runs,
    }


def _notes(made: dict[str, Any]) -> list[str]:
    counts, runs = made["data"]["counts"], made["runs"].values()
    seconds = sum(run["seconds"] for run in runs)
    ranks = sorted({run["ranks"] for run in runs})
    return [
        f"data: `{made['data']['name']}`, {counts['sessions']:,} sessions, {counts['plays']:,} plays, "
        f"{counts['tracks']:,} tracks, {100 * made['data']['skip_share']:.1f} % of the plays skipped",
        f"machine: {made['machine']['processor']}, {made['machine']['cores']} cores",
        f"commit: {made['commit']}",
        f"{len(made['runs'])} runs on {', '.join(map(str, ranks))} rank{'s' if ranks != [1] else ''}, "
        f"{seconds / 60:.0f} minutes of training steps in all, {seconds / max(len(runs), 1):.0f} s a run",
    ]


def draw(comparison: dict[str, Any], file: Path) -> None:
    """Writes a PNG, 1200 pixels wide: HR@1 and HR@10 of every row, with intervals, beside the paper's figures."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = {name: row for name, row in comparison["rows"].items() if not row["reference"]}
    references = {name: row for name, row in comparison["rows"].items() if row["reference"]}
    groups = list(dict.fromkeys(row["group"] for row in rows.values()))
    figure = Figure(figsize=(12, 1.6 + 0.42 * len(rows)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for place, (metric, axis) in enumerate(zip(TESTED, figure.subplots(1, 2, sharey=True), strict=True)):
        for height, row in enumerate(rows.values()):
            mean, low, high = (row[metric][key] for key in ("mean", "low", "high"))
            colour = _COLOURS[groups.index(row["group"]) % len(_COLOURS)]
            # Where all sessions are alike, rounding may put the mean outside of its interval.
            sides = [[max(mean - low, 0)], [max(high - mean, 0)]]
            axis.errorbar(mean, height, xerr=sides, fmt="o", color=colour, capsize=4)
            if row["paper"]:
                paper = row["paper"][_PAPER_METRICS.index(metric)]
                axis.plot(paper, height, "D", markerfacecolor="white", markeredgecolor=colour)
        for style, row in zip((":", "--", "-."), references.values(), strict=False):
            axis.axvline(row[metric]["mean"], linestyle=style, color="0.45", label=row["label"])
        axis.set_title(f"{metric.upper()} ({comparison['protocol']})")
        axis.grid(axis="x", color="0.9")
        axis.spines[["top", "right"]].set_visible(False)
        if place == 0:
            axis.set_yticks(range(len(rows)), [row["label"] for row in rows.values()])
            axis.invert_yaxis()
    if any(row["paper"] for row in rows.values()):
        axis.plot([], [], "D", markerfacecolor="white", markeredgecolor="0.3", label="the paper's, other data")
    axis.plot([], [], "o", color="0.3", label="mean and 95 % interval")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(file, format="png")


def table_markdown(comparisons: list[dict[str, Any]], title: str, notes: list[str]) -> str:
    """A whole document; `notes` are lines on data, commit, machine and time."""
    parts = [f"# {title}", "", *[f"- {note}" for note in notes], ""]
    for comparison in comparisons:
        parts += _protocol(comparison)
    parts += _reading()
    return "\n".join(parts) + "\n"


def _protocol(comparison: dict[str, Any]) -> list[str]:
    among = f"among {comparison['candidates']:,} unseen tracks"
    if comparison["protocol"] == "full":
        among = f"exact, among about {comparison['candidates']:,} tracks"
    lines = [f"## `{comparison['protocol']}` ({among}, {comparison['sessions']:,} sessions, test split)", ""]
    lines += _hit_rates(comparison)
    lines += _verdicts(comparison)
    lines += _tests(comparison)
    lines += _skips(comparison)
    for name in next(iter(comparison["rows"].values()))["by"]:
        lines += _breakdown(comparison, name)
    return lines


def _hit_rates(comparison: dict[str, Any]) -> list[str]:
    rows = comparison["rows"]
    lines = ["| model | seeds | " + " | ".join(_NAMES.values()) + " |", "|---|---|" + "---|" * len(METRICS)]
    best = {
        (row["group"], metric): max(other[metric]["mean"] for other in rows.values() if other["group"] == row["group"])
        for row in rows.values()
        for metric in METRICS
    }
    for name, row in rows.items():
        cells = []
        for metric in METRICS:
            text = _share(row[metric]["mean"])
            if row[metric]["mean"] == best[row["group"], metric] and not row["reference"]:
                text = f"**{text}**"
            gain = row[metric].get("gain")
            cells.append(text + (f" ({gain:+.1f} %)" if gain is not None else ""))
        lines.append(f"| {row['label']} (`{name}`) | {row['seeds']} | " + " | ".join(cells) + " |")
        if row["paper"] and comparison["protocol"] == "uniform":  # the paper's own protocol
            paper = dict(zip(_PAPER_METRICS, row["paper"], strict=True))
            base = rows.get(row["baseline"], {}).get("paper")
            cells = []
            for metric in METRICS:
                text = _share(paper[metric]) if metric in paper else ""
                if text and base:
                    text += f" ({100 * (paper[metric] / base[_PAPER_METRICS.index(metric)] - 1):+.1f} %)"
                cells.append(f"*{text}*" if text else "")
            lines.append("| *the paper's, on other data* | *1* | " + " | ".join(cells) + " |")
    return lines + [""]


def _verdicts(comparison: dict[str, Any]) -> list[str]:
    rows = comparison["rows"]
    if not comparison["reference"]:
        return []
    reference = rows[comparison["reference"]]["label"]
    if not comparison["broken"]:
        return [f"Every model beats {reference} in HR@10.", ""]
    names = ", ".join(f"`{name}`" for name in comparison["broken"])
    return [f"**Broken, for it does not beat {reference} in HR@10: {names}.**", ""]


def _verdict(figures: dict[str, Any]) -> str:
    """A difference is called one only where it is significant both over sessions and over seeds."""
    if not significant(figures):
        return "no significant difference"
    verdict = "better" if figures["difference"][0] > 0 else "worse"
    if figures["p_seeds"] is None:
        return f"{verdict} with this seed"
    return verdict if figures["p_seeds"] < SIGNIFICANT else f"{verdict} with these seeds"


def _tests(comparison: dict[str, Any]) -> list[str]:
    lines = [
        "| model | against | metric | value, 95 % interval | over seeds ± | difference, 95 % interval | p | Holm p | "
        "p over seeds | |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in comparison["rows"].values():
        for metric in TESTED:
            figures = row[metric]
            cells = [
                row["label"],
                "",
                _NAMES[metric],
                f"{_share(figures['mean'])} [{_share(figures['low'])}, {_share(figures['high'])}]",
                "" if figures["over_seeds"] is None else f"{figures['over_seeds']:.4f}",
            ]
            if "difference" in figures:
                mean, low, high = figures["difference"]
                cells[1] = comparison["rows"][row["baseline"]]["label"]
                cells += [f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]", _p(figures["p"]), _p(figures["p_holm"])]
                cells += [_p(figures["p_seeds"]), _verdict(figures)]
            else:
                cells += [""] * 5
            lines.append("| " + " | ".join(cells) + " |")
    return lines + [""]


def _skips(comparison: dict[str, Any]) -> list[str]:
    rows = [row for row in comparison["rows"].values() if {"skipped", "kept"} <= row["skips"].keys()]
    if not rows:
        return []
    lines = [
        "| skip down-ranking | skipped targets' percentile rank, 95 % interval | "
        "kept targets' percentile rank, 95 % interval | "
        "gap, 95 % interval | gap less the baseline's, 95 % interval | skipped targets' HR@10 | kept targets' HR@10 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        sides = row["skips"]["skipped"], row["skips"]["kept"]
        cells = [f"{side['percentile_rank']:.2f} [{side['low']:.2f}, {side['high']:.2f}]" for side in sides]
        for name in ("gap", "gap_change"):
            cells.append("{:+.2f} [{:+.2f}, {:+.2f}]".format(*row["skips"][name]) if name in row["skips"] else "")
        cells += [_share(side["hr@10"]) for side in sides]
        lines.append(f"| {row['label']} | " + " | ".join(cells) + " |")
    return lines + [""]


def _breakdown(comparison: dict[str, Any], name: str) -> list[str]:
    rows = comparison["rows"]
    labels = list(next(iter(rows.values()))["by"][name])
    sizes = next(iter(rows.values()))["by"][name]
    heads = [f"{label} ({sizes[label]['sessions']:,})" for label in labels]
    skips = any(size["kept_sessions"] < size["sessions"] for size in sizes.values())
    what = f"HR@10 by {name} (sessions){': all / kept targets' if skips else ''}"
    lines = [f"| {what} | " + " | ".join(heads) + " |", "|---|" + "---|" * len(labels)]
    for row in rows.values():
        cells = []
        for figures in (row["by"][name][one] for one in labels):
            kept = "none" if figures["kept_hr@10"] is None else _share(figures["kept_hr@10"])
            cells.append(_share(figures["hr@10"]) + (f" / {kept}" if skips else ""))
        lines.append(f"| {row['label']} | " + " | ".join(cells) + " |")
    return lines + [""]


def _reading() -> list[str]:
    return [
        "How to read this: in brackets the gain over the row's baseline, in bold the best of each group. With several "
        "seeds a session's value is its mean over seeds. Intervals: percentile bootstrap over sessions, 10,000 "
        "resamples; they leave the luck of training out, which `over seeds ±` shows (standard deviation of the seeds' "
        "means). p: paired bootstrap on the same sessions and candidates, two-sided; Holm p: corrected over all tests "
        "of the protocol, and what `better` and `worse` go by; p over seeds: paired t-test of the seeds' means. "
        "Percentile rank: the share of the candidates that come after the target, 100 is first, 0 last; the gap is "
        "skipped less kept. For skipped targets lower is better, in percentile rank, gap and HR@10. A "
        "session's length is also its test target's position.",
    ]


def _share(value: float) -> str:
    return f"{value:.4f}".removeprefix("0") if value < 1 else f"{value:.4f}"


def _p(value: float | None) -> str:
    return "" if value is None else "< .001" if value < 0.001 else f"{value:.3f}".removeprefix("0")
