"""The files of a comparison: `table.md`, `table.json`, `table.png`.

The Markdown has, for each protocol, the layout of the paper's table 1, tests, skip down-ranking and breakdowns.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from skipwise.common.files import replacing, write_json, write_text
from skipwise.common.versions import commit, machine
from skipwise.datapipes.counts import train_counts
from skipwise.datapipes.sessions import SessionStore
from skipwise.studies.comparison import TESTED, Row, compare
from skipwise.studies.groupings import groupings
from skipwise.studies.markdown_table import markdown_table
from skipwise.studies.selection_order import selection_markdown, selection_order
from skipwise.studies.skip_comparison import compare_skips, skips_markdown
from skipwise.studies.statistics import INTERVAL, SIGNIFICANT
from skipwise.training.build import training_data
from skipwise.training.config import PROTOCOLS
from skipwise.training.evaluation.metrics import METRICS
from skipwise.training.run.directory import RunDirectory

Rows = dict[str, dict[str, Any]]
"""A comparison's rows, by name."""
_PAPER_METRICS = ("hr@1", "hr@5", "hr@10", "hr@20")
_COLOURS = ("#33658a", "#b5541c", "#5b7b3a", "#7a4b8a")


def write_comparison(output: Path, rows: list[Row], store: SessionStore, title: str) -> None:
    """Compares the rows by every protocol and writes the three files, each atomically."""
    config = RunDirectory.open(str(rows[0].runs[0])).config
    sessions, held_out = training_data(store, hold_out_tracks=config.data.hold_out_tracks)
    by = groupings(store, train_counts(sessions, held_out=held_out))
    comparisons = [compare(rows, protocol, by) for protocol in PROTOCOLS]
    made = _made_of(rows, store)
    with replacing(output / "table.png") as picture:
        draw(comparisons[0], picture)
    order, skips = selection_order(rows), compare_skips(rows, PROTOCOLS[0])
    found = {"made": made, "comparisons": comparisons, "skips": skips, "selection_order": order}
    write_json(output / "table.json", found)
    more = [*skips_markdown(skips), *selection_markdown(order)]
    write_text(output / "table.md", table_markdown(comparisons, title, _notes(made), more))


def _made_of(rows: list[Row], store: SessionStore) -> dict[str, Any]:
    """Data, machine, commit, and each run's recipe, versions, epochs and time."""
    runs = {}
    for run in [RunDirectory.open(str(path)) for row in rows if not row.reference for path in row.runs]:
        figures = run.metrics()["train"]
        runs[run.path.name] = (
            {"ranks": run.record.world_size, "versions": run.record.versions}
            | figures
            | {"best_is_last": figures["best_epoch"] == figures["epochs"]}
        )
    manifest = store.manifest
    return {
        "data": {"name": store.path.name, "counts": manifest.counts, "skip_share": manifest.skip_share}
        | {"options": manifest.options, "vocabulary_hash": manifest.vocabulary_hash},
        "commit": commit(),
        "machine": machine(),
        "runs": runs,
    }


def _notes(made: dict[str, Any]) -> list[str]:
    data, runs = made["data"], made["runs"].values()
    seconds = sum(run["seconds"] for run in runs)
    ranks = sorted({run["ranks"] for run in runs})
    return [
        f"data: `{data['name']}`, {data['counts']['sessions']:,} sessions, {data['counts']['plays']:,} plays, "
        f"{data['counts']['tracks']:,} tracks, {100 * data['skip_share']:.1f} % of the plays skipped",
        f"machine: {made['machine']['processor']}, {made['machine']['cores']} cores",
        f"commit: {made['commit']}",
        f"{len(runs)} runs on {', '.join(map(str, ranks))} rank{'s' if ranks != [1] else ''}, "
        f"{seconds / 60:.0f} minutes of training steps in all, {seconds / max(len(runs), 1):.0f} s a run",
        f"best epoch by validation {', '.join(sorted({run.get('selected_by', 'uniform HR@10') for run in runs}))}",
        f"minutes and epochs of training, means over seeds: {_compute(made['runs'])}",
        *_unfinished(made["runs"]),
    ]


def _compute(runs: dict[str, Any]) -> str:
    """What each model's training took, until its validation no longer improved."""
    models: dict[str, list[dict[str, Any]]] = {}
    for name, run in runs.items():
        models.setdefault(name.rpartition("-seed")[0], []).append(run)
    return ", ".join(
        f"`{name}` {mean([run['seconds'] for run in found]) / 60:.1f} and {mean([run['epochs'] for run in found]):.0f}"
        for name, found in models.items()
    )


def _unfinished(runs: dict[str, Any]) -> list[str]:
    """A note where runs might have gone on to improve."""
    names = [f"`{name}`" for name, run in runs.items() if run["best_is_last"]]
    if not names:
        return ["no run's best epoch is its last one"]
    more = f"**the best epoch is the last one, so that more may be better: {', '.join(names)}**"
    return [f"{more}; raise train.epochs by --config"]


def draw(comparison: dict[str, Any], file: Path) -> None:
    """Writes a PNG, 1200 pixels wide: HR@1 and HR@10 of every model, with intervals, beside the paper's figures.

    A line marks the baseline that a model must beat: the best one of those that hold out as much.
    """
    from matplotlib.figure import Figure

    rows = {name: row for name, row in comparison["rows"].items() if not row["reference"]}
    references = [comparison["rows"][name] for name in comparison["references"]]
    groups = list(dict.fromkeys(row["group"] for row in rows.values()))
    figure = Figure(figsize=(12, 1.6 + 0.42 * len(rows)), dpi=100, layout="constrained")
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
        for style, row in zip((":", "--"), references, strict=False):
            axis.axvline(row[metric]["mean"], linestyle=style, color="0.45", label=row["label"])
        axis.set_title(f"{metric.upper()} ({comparison['protocol']})")
        axis.grid(axis="x", color="0.9")
        axis.spines[["top", "right"]].set_visible(False)
        if place == 0:
            axis.set_yticks(range(len(rows)), [row["label"] for row in rows.values()])
            axis.invert_yaxis()
    if any(row["paper"] for row in rows.values()):
        axis.plot([], [], "D", markerfacecolor="white", markeredgecolor="0.3", label="the paper's, other data")
    axis.plot([], [], "o", color="0.3", label="mean and 95 % interval over sessions")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(file, format="png")


def table_markdown(comparisons: list[dict[str, Any]], title: str, notes: list[str], more: Sequence[str] = ()) -> str:
    """A whole document; `notes` are lines on data, commit, machine and time, and `more` are lines at the end."""
    lines = [f"# {title}", "", *[f"- {note}" for note in notes], ""]
    for comparison in comparisons:
        rows = comparison["rows"]
        lines += [f"## `{comparison['protocol']}`", "", _measured(comparison), ""]
        lines += _hit_rates(rows, comparison["protocol"]) + _verdicts(comparison) + _tests(rows) + _skips(rows)
        for name in next(iter(rows.values()))["by"]:
            lines += _breakdown(rows, name)
    return "\n".join([*lines, *more, _READING, ""])


def _measured(comparison: dict[str, Any]) -> str:
    """A sentence on what was measured, and among what."""
    among = {
        "served": "what is recommended: the whole catalogue without the tracks of the session so far",
        "full": "the whole catalogue",
        "paper": "uniform tracks that the session does not contain",
    }[comparison["protocol"]]
    ceiling = ""
    if comparison["protocol"] == "served":
        share = 1 - comparison["repeated"] / comparison["targets"]
        ceiling = f" No hit rate can be above {_share(share)}, the share of those that were not."
    return (
        f"{comparison['targets']:,} test targets of {comparison['sessions']:,} sessions, {comparison['skipped']:,} of "
        f"them skipped and {comparison['repeated']:,} played before in their session, each among {among} "
        f"(median {comparison['candidates']:,} others).{ceiling}"
    )


def _hit_rates(rows: Rows, protocol: str) -> list[str]:
    lines = []
    for name, row in rows.items():
        cells = [f"{row['label']} (`{name}`)", str(row["seeds"])]
        for metric in METRICS:
            text, gain = _share(row[metric]["mean"]), row[metric].get("gain")
            best = max(other[metric]["mean"] for other in rows.values() if other["group"] == row["group"])
            if row[metric]["mean"] == best and not row["reference"]:
                text = f"**{text}**"
            cells.append(text + (f" ({gain:+.1f} %)" if gain is not None else ""))
        lines.append(cells)
        if row["paper"] and protocol == "paper":  # the paper's own protocol
            base = rows.get(row["baseline"], {}).get("paper")
            cells = ["*the paper's, on other data*", "*1*", *[""] * len(METRICS)]
            for place, metric in enumerate(_PAPER_METRICS):
                text = _share(row["paper"][place])
                if base:
                    text += f" ({100 * (row['paper'][place] / base[place] - 1):+.1f} %)"
                cells[2 + list(METRICS).index(metric)] = f"*{text}*"
            lines.append(cells)
    return markdown_table(["model", "seeds", *map(str.upper, METRICS)], lines)


def _verdicts(comparison: dict[str, Any]) -> list[str]:
    if not comparison["references"]:
        return []
    reference = " or ".join(comparison["rows"][name]["label"] for name in comparison["references"])
    if not comparison["broken"]:
        return [f"HR@10 of every model is significantly above {reference}'s.", ""]
    names = ", ".join(f"`{name}`" for name in comparison["broken"])
    return [f"**Broken (HR@10 not significantly above {reference}'s): {names}.**", ""]


def _verdict(figures: dict[str, Any]) -> str:
    """A difference is called one only where it is significant both over sessions and over seeds."""
    if figures["p_holm"] >= SIGNIFICANT:
        return "no significant difference"
    verdict = "better" if figures["difference"][0] > 0 else "worse"
    if figures["p_seeds"] is None:
        return f"{verdict} with this seed"
    return verdict if figures["p_seeds"] < SIGNIFICANT else f"{verdict} with these seeds"


def _tests(rows: Rows) -> list[str]:
    lines = []
    for row in rows.values():
        for metric in TESTED:
            figures = row[metric]
            against, compared = "", [""] * 5
            if "difference" in figures:
                against = rows[row["baseline"]]["label"]
                p_values = [_p(figures[name]) for name in ("p", "p_holm", "p_seeds")]
                compared = [_interval("+.4f", *figures["difference"]), *p_values, _verdict(figures)]
            value = f"{_share(figures['mean'])} [{_share(figures['low'])}, {_share(figures['high'])}]"
            spread = "" if figures["over_seeds"] is None else f"{figures['over_seeds']:.4f}"
            lines.append([row["label"], against, metric.upper(), value, spread, *compared])
    heads = ["model", "against", "metric", f"value, {INTERVAL}", "over seeds ±", f"difference, {INTERVAL}, paired"]
    return markdown_table([*heads, "p", "Holm p", "p over seeds", ""], lines)


def _skips(rows: Rows) -> list[str]:
    lines = []
    for row in rows.values():
        skips = row["skips"]
        if not {"skipped", "kept"} <= skips.keys():
            continue
        sides = skips["skipped"], skips["kept"]
        cells = [_interval(".2f", side["percentile_rank"], side["low"], side["high"]) for side in sides]
        cells += [_interval("+.2f", *skips[name]) if name in skips else "" for name in ("gap", "gap_change")]
        lines.append([row["label"], *cells, *(_share(side["hr@10"]) for side in sides)])
    heads = [f"{side} targets' percentile rank, {INTERVAL}" for side in ("skipped", "kept")]
    heads += [f"gap, {INTERVAL}", f"gap less the reference model's, {INTERVAL}, paired"]
    heads += [f"{side} targets' HR@10" for side in ("skipped", "kept")]
    return markdown_table(["skip down-ranking", *heads], lines) if lines else []


def _breakdown(rows: Rows, name: str) -> list[str]:
    sizes = next(iter(rows.values()))["by"][name]
    heads = [f"{label} ({size['targets']:,})" for label, size in sizes.items()]
    skips = any(size["kept_targets"] < size["targets"] for size in sizes.values())
    lines = []
    for row in rows.values():
        cells = []
        for figures in (row["by"][name][label] for label in sizes):
            kept = "none" if figures["kept_hr@10"] is None else _share(figures["kept_hr@10"])
            cells.append(_share(figures["hr@10"]) + (f" / {kept}" if skips else ""))
        lines.append([row["label"], *cells])
    return markdown_table([f"HR@10 by {name} (targets){': all / kept targets' if skips else ''}", *heads], lines)


_READING = (
    "How to read this: S- is without the skip loss, S+ with it, and its context c is the track's own embedding (e) or "
    "the encoder's output (ŷ). In brackets the gain over the row's reference model (the S- of the same direction, or "
    "what an ablation starts from), in bold the best of each group. With several "
    "seeds a target's value is its mean over seeds. A metric is its expected value over the order of tied tracks. "
    "95 % intervals over sessions, of differences paired: percentile bootstrap, 10,000 "
    "resamples; they leave the variance over seeds out, which `over seeds ±` shows (standard deviation of the seeds' "
    "means). p: paired bootstrap on the same sessions and candidates, two-sided; Holm p: corrected over all tests "
    "of the protocol, and what `better` and `worse` go by; p over seeds: paired t-test of the seeds' means. "
    "Percentile rank: the share of the candidates that come after the target, 100 is first, 0 last; the gap is "
    "skipped less kept. A gap below zero does not show that a model has learned from skips: one that is blind to them "
    "has a gap as well, and only the difference between the two can show it. By `served` a repeated target, which is "
    "not recommended, has percentile rank 0 whether it was kept or skipped: `full` has the gap of the whole ranking. "
    "Rows that were refit on the validation targets are compared with such rows alone."
)


def _interval(digits: str, mean: float, low: float, high: float) -> str:
    return f"{mean:{digits}} [{low:{digits}}, {high:{digits}}]"


def _share(value: float) -> str:
    return f"{value:.4f}".removeprefix("0") if value < 1 else f"{value:.4f}"


def _p(value: float | None) -> str:
    return "" if value is None else "< .001" if value < 0.001 else f"{value:.3f}".removeprefix("0")
