"""What the report shows of the run itself: facts, config, curves, the map of its table, throughput."""

from typing import NamedTuple

from skipwise.studies.run_report import charts
from skipwise.studies.run_report.reported_run import ReportedRun
from skipwise.training.config_fields import flatten

Rows = list[list[str]]
_PARTS = {"nll": "the next track's", "nce": "the skip InfoNCE", "keep": "the keep head's"}


class Picture(NamedTuple):
    """An `<img>` of the report."""

    source: str
    caption: str
    alt: str


class Setting(NamedTuple):
    """One field of the config, as a row of a table."""

    cells: list[str]
    """Path, each run's value, and the recipe's."""
    told: bool
    """A run's value is not that of its recipe, or the runs have different values."""


def facts(runs: list[ReportedRun]) -> Rows:
    """What was trained on what: a row a fact, a column a run."""
    columns = []
    for run in runs:
        config, record = run.directory.config, run.directory.record
        skipped = f", {100 * run.store.manifest.skip_share:.1f} % of the plays skipped" if run.store else ""
        sizes = "{sessions:,} sessions, {plays:,} plays, {tracks:,} tracks".format(**record.counts)
        versions = ", ".join(f"{name} {number}" for name, number in record.versions.items())
        data, table = (
            f"{config.data.path}: {sizes}{skipped}",
            f"{record.num_rows:,} rows of {config.table.dim}",
        )
        columns.append((str(run.directory.path), record.recipe, data, table, versions))
    names = "directory", "recipe", "data", "table", "versions"
    return [list(row) for row in zip(names, *columns, strict=True)]


def settings(runs: list[ReportedRun]) -> list[Setting]:
    """Every field but the run's directory. A run without a known recipe counts as unchanged."""
    values = [flatten(run.directory.config) for run in runs]
    recipes = [flatten(run.recipe_config) if run.recipe_config else own for run, own in zip(runs, values, strict=True)]
    found = []
    for path in (path for path in values[0] if path != "run_dir"):
        own, defaults = [one[path] for one in values], [one[path] for one in recipes]
        recipe = " / ".join(_shown(value) for value in dict.fromkeys(defaults))
        told = own != defaults or any(value != own[0] for value in own)
        found.append(Setting([path, *map(_shown, own), recipe], told))
    return found


def _shown(value: object) -> str:
    return "(empty)" if value == "" else str(value)


def curves(runs: list[ReportedRun]) -> list[Picture]:
    """Loss by step and validation hit rates by epoch."""
    images = []
    if stepped := [run for run in runs if len(run.curves["train"]["step"])]:
        ends = "; ".join(f"run {run.label} ends at {run.curves['train']['loss'][-1]:.4f}" for run in stepped)
        learned = {name for run in stepped for name in run.directory.config.loss.parts}
        parts = [f"{words} ({name})" for name, words in _PARTS.items() if name in learned]
        caption = f"Training loss: the total; before they are weighted, {', '.join(parts)}."
        images.append(Picture(charts.losses(runs), caption, f"Loss by step; {ends}"))
    if validated := [run for run in runs if len(run.curves["validation"]["epoch"])]:
        ends = "; ".join(
            f"run {run.label}, by epoch: " + ", ".join(f"{value:.4f}" for value in run.curves["validation"]["hr@10"])
            for run in validated
        )
        chosen = [(run, run.directory.config.selection) for run in validated]
        best = "; ".join(
            f"run {run.label}: epoch {run.train['best_epoch']:.0f} by {selection.name}"
            for run, selection in chosen
            if run.train
        )
        protocols = ", ".join(f"run {run.label}: {selection.protocol}" for run, selection in chosen)
        caption = f"Validation hit rates ({protocols})" + (f"; the best, {best}." if best else ".")
        images.append(Picture(charts.hit_rates(runs), caption, f"Validation HR@10; {ends}"))
    return images


def table_maps(runs: list[ReportedRun]) -> list[Picture]:
    """A map for each run that has a sample of its table."""
    images = []
    for run in runs:
        if run.sample is None:
            continue
        source, share = charts.table_map(run.sample, run.plays_N)
        size = len(run.sample.row_M)
        caption = f"Run {run.label}: {size:,} tracks; the two directions hold {100 * share:.1f} % of the variance."
        if run.directory.config.data.features:
            caption += " The tracks' own rows, without what their features add."
        if run.plays_N is None:
            caption += " Without its data there is no popularity to colour by."
        images.append(Picture(source, caption, f"Map of the track table. {caption}"))
    return images


def throughput(runs: list[ReportedRun]) -> tuple[Rows, list[Picture]]:
    """Time and rate of the training steps, a row a run that has ended; and sessions/s by step."""
    rows = [
        [f"run {run.label}", f"{run.train['epochs']:.0f}", f"{run.train['best_epoch']:.0f}"]
        + [f"{run.train['seconds']:,.1f}", f"{run.train['sessions_per_s']:,.0f}", str(run.directory.record.world_size)]
        for run in runs
        if run.train
    ]
    if not any(len(run.curves["train"]["step"]) for run in runs):
        return rows, []
    alt = "; ".join(f"{row[0]}: {row[4]} sessions/s" for row in rows)
    return rows, [Picture(charts.rates(runs), "Sessions/s by step.", f"Sessions per second by step. {alt}")]
