"""The page's sections on the run itself: what it is, curves, its table's map, throughput, the whole config."""

from skipwise.studies.run_report import charts, page
from skipwise.studies.run_report.runs import ReportedRun
from skipwise.studies.run_report.settings import Setting, settings_of


def facts(runs: list[ReportedRun]) -> str:
    """What was trained on what, and what of its config is not the recipe's."""
    rows = [[name, *(_facts(run)[name] for run in runs)] for name in _facts(runs[0])]
    parts = [page.table(["", *(f"run {run.label}" for run in runs)], rows, words=True)]
    parts += [
        page.missing(f"Run {run.label} has not finished training: what stands here is what there is so far.")
        for run in runs
        if run.train is None
    ]
    settings = settings_of(runs)
    for run in runs:
        if run.default is None:
            parts.append(
                page.missing(f"Run {run.label}: there is no recipe '{_recipe(run)}' to compare its config with.")
            )
    changed = [one for one in settings if one.changed]
    parts.append(page.heading("Config that differs from the recipe's"))
    parts.append(_settings(runs, changed) if changed else page.missing("None: the config is the recipe's own."))
    if len(runs) == 2:
        differs = [one for one in settings if one.differs]
        parts.append(page.heading("Config that differs between the runs"))
        parts.append(_settings(runs, differs) if differs else page.missing("None: both have the same config."))
    return "\n".join(parts)


def config(runs: list[ReportedRun]) -> str:
    """Every field; those that differ from the recipe or between the runs are marked."""
    settings = settings_of(runs)
    caption = "≠ recipe: not as the recipe has it; A ≠ B: the runs differ."
    return _settings(runs, settings, caption, mark=True)


def curves(runs: list[ReportedRun]) -> str:
    """Loss by step and validation hit rates by epoch."""
    lines, images = [], []
    stepped = [run for run in runs if len(run.curves.train["step"])]
    validated = [run for run in runs if len(run.curves.validation["epoch"])]
    for run in runs:
        if run not in stepped:
            lines.append(page.missing(f"Run {run.label}: metrics.jsonl has no line of training steps."))
        if run not in validated:
            lines.append(page.missing(f"Run {run.label}: no epoch has been validated."))
    if stepped:
        ends = "; ".join(f"run {run.label} ends at {run.curves.train['loss'][-1]:.4f}" for run in stepped)
        caption = "Training loss: the total, softmax (nll) and skip InfoNCE (nce) before they are weighed."
        images.append(page.image(charts.losses(runs), caption, f"Loss by step; {ends}"))
    if validated:
        ends = "; ".join(
            f"run {run.label}, by epoch: " + ", ".join(f"{value:.4f}" for value in run.curves.validation["hr@10"])
            for run in validated
        )
        best = "; ".join(f"run {run.label}: epoch {run.train['best_epoch']:.0f}" for run in validated if run.train)
        caption = "Validation hit rates, uniform" + (f"; the best by HR@10, {best}." if best else ".")
        images.append(page.image(charts.hit_rates(runs), caption, f"Validation HR@10; {ends}"))
    return "\n".join([*lines, page.pictures(images) if images else ""])


def table_map(runs: list[ReportedRun]) -> str:
    """A picture a run, side by side."""
    lines, images = [], []
    for run in runs:
        if run.sample is None:
            lines.append(page.missing(f"Run {run.label}: no weights are the best yet."))
            continue
        source, share = charts.table_map(run.sample, run.plays_N)
        rows = len(run.sample.row_M)
        caption = f"Run {run.label}: {rows:,} tracks; the two directions hold {100 * share:.1f} % of the variance."
        if run.plays_N is None:
            caption += " Without its data there is no popularity to colour by."
        images.append(page.image(source, caption, f"Map of the track table. {caption}"))
    explained = (
        "Principal components of a seeded sample of the best weights' rows, each run's own; dark is often played. "
        "Near means alike in these two directions alone."
    )
    return "\n".join([page.text(explained), *lines, page.pictures(images)])


def throughput(runs: list[ReportedRun]) -> str:
    """Sessions/s over the steps, and the whole time of the steps."""
    rows = [
        [f"run {run.label}", f"{run.train['epochs']:.0f}", f"{run.train['best_epoch']:.0f}"]
        + [f"{run.train['seconds']:,.1f}", f"{run.train['sessions_per_s']:,.0f}", str(run.directory.record["ranks"])]
        for run in runs
        if run.train
    ]
    heads = ["", "epochs trained", "best epoch", "seconds of steps", "sessions/s", "ranks"]
    parts = (
        [page.table(heads, rows, "Training steps alone, over all ranks; validation is not counted.")] if rows else []
    )
    parts += [page.missing(f"Run {run.label} has not finished training.") for run in runs if not run.train]
    if any(len(run.curves.train["step"]) for run in runs):
        spoken = "; ".join(f"run {row[0]}: {row[4]} sessions/s" for row in rows)
        parts.append(page.image(charts.rates(runs), "Sessions/s by step.", f"Sessions per second by step. {spoken}"))
    return "\n".join(parts)


def _facts(run: ReportedRun) -> dict[str, str]:
    record, counts = run.directory.record, run.directory.record["counts"]
    skipped = f", {100 * run.store.manifest.skip_share:.1f} % of the plays skipped" if run.store else ""
    return {
        "directory": str(run.directory.path),
        "recipe": _recipe(run),
        "data": f"{run.directory.config.data.path}: "
        + ", ".join(f"{counts[name]:,} {name}" for name in ("sessions", "plays", "tracks") if name in counts)
        + skipped,
        "table": f"{record['rows']:,} rows of {run.directory.config.table.dim}",
        "versions": ", ".join(f"{name} {number}" for name, number in record["versions"].items()),
    }


def _recipe(run: ReportedRun) -> str:
    return run.directory.record["recipe"]


def _settings(runs: list[ReportedRun], settings: list[Setting], caption: str = "", mark: bool = False) -> str:
    heads = ["field", *(f"run {run.label}" for run in runs), "recipe", ""]
    rows, marked = [], []
    for one in settings:
        defaults = [_shown(value) for value in dict.fromkeys(one.defaults)]
        notes = ["≠ recipe"] * one.changed + ["A ≠ B"] * one.differs
        rows.append([one.path, *map(_shown, one.values), " / ".join(defaults), ", ".join(notes)])
        marked.append(mark and bool(notes))
    return page.table(heads, rows, caption, words=True, marked=marked)


def _shown(value: object) -> str:
    return "(empty)" if value == "" else str(value)
