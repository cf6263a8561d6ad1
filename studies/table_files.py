"""The files of a table: `table.md`, `table.json`, `table.png`, and what they were made of."""

import os
from pathlib import Path

from skipwise.common.files import read_json, write_json, write_text
from skipwise.common.provenance import commit, machine
from skipwise.datapipes.counts import train_counts
from skipwise.datapipes.sessions import SessionStore
from skipwise.studies.comparison import Row, compare
from skipwise.studies.comparison_markdown import table_markdown
from skipwise.studies.comparison_plot import draw
from skipwise.studies.groupings import groupings
from skipwise.training.config import PROTOCOLS
from skipwise.training.run.directory import RunDirectory


def write_report(output: Path, rows: list[Row], store: SessionStore, title: str) -> None:
    """Compares the rows under both protocols and writes the three files, each at one blow."""
    by = groupings(store, train_counts(store))
    comparisons = [compare(rows, protocol, by) for protocol in PROTOCOLS]
    made = _made_of(rows, store)
    aside = output / ".table.png.partial"
    draw(comparisons[0], aside)
    os.replace(aside, output / "table.png")
    write_json(output / "table.json", {"made": made, "comparisons": comparisons})
    write_text(output / "table.md", table_markdown(comparisons, title, _notes(made)))


def _made_of(rows: list[Row], store: SessionStore) -> dict:
    """Data, machine, commit, and each run's recipe, versions, epochs and time."""
    runs = {}
    for row in rows:
        for path in row.runs if not row.reference else ():
            run, metrics = RunDirectory.open(str(path)), read_json(path / "metrics.json", "metrics of a run")
            runs[path.name] = {"ranks": run.record["ranks"], "versions": run.record["versions"]} | metrics["train"]
    return {
        "data": {"name": store.path.name, "counts": store.manifest.counts, "skip_share": store.manifest.skip_share}
        | {"options": store.manifest.options, "vocabulary_hash": store.manifest.vocabulary_hash},
        "commit": commit(),
        "machine": machine(),
        "runs": runs,
    }


def _notes(made: dict) -> list[str]:
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
