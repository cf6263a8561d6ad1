"""One picture of a comparison: HR@1 and HR@10 of every row with intervals, the paper's figures, the references."""

from pathlib import Path
from typing import Any

_METRICS = ("hr@1", "hr@10")
_PAPER_PLACE = {"hr@1": 0, "hr@10": 2}
_COLOURS = ("#33658a", "#b5541c", "#5b7b3a", "#7a4b8a")


def draw(comparison: dict[str, Any], file: Path) -> None:
    """Writes a PNG about 1200 pixels wide."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = {name: row for name, row in comparison["rows"].items() if not row["reference"]}
    references = {name: row for name, row in comparison["rows"].items() if row["reference"]}
    groups = list(dict.fromkeys(row["group"] for row in rows.values()))
    figure = Figure(figsize=(12, 1.6 + 0.42 * len(rows)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for place, (metric, axis) in enumerate(zip(_METRICS, figure.subplots(1, 2, sharey=True), strict=True)):
        for height, row in enumerate(rows.values()):
            mean, low, high = (row[metric][key] for key in ("mean", "low", "high"))
            colour = _COLOURS[groups.index(row["group"]) % len(_COLOURS)]
            # Where all sessions are alike, rounding may put the mean a hair outside.
            sides = [[max(mean - low, 0)], [max(high - mean, 0)]]
            axis.errorbar(mean, height, xerr=sides, fmt="o", color=colour, capsize=4)
            if row["paper"]:
                paper = row["paper"][_PAPER_PLACE[metric]]
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
