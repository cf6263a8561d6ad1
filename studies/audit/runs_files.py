"""The files of an audit of runs: `runs.md`, `runs.json`, `runs.png`."""

from pathlib import Path
from textwrap import wrap
from typing import Any

from skipwise.studies.audit.audit_files import write_figures
from skipwise.studies.audit.runs_text import LABELS, runs_markdown, sentences
from skipwise.studies.statistics import INTERVAL

_COLOUR, _OTHER, _LINE = "#33658a", "#b5541c", 34
_SHOWN = ("pairs_in_order", "kept_hr@10", "hr@10")
"""Figures whose gains are shown; beside them the next-skip AUC itself, which a model without skips does not have."""


def write_runs(output: Path, figures: dict[str, Any]) -> None:
    """Writes the three files; see `write_figures`."""
    write_figures(output, "runs", figures, sentences(figures), runs_markdown(figures), draw)


def draw(figures: dict[str, Any], file: Path) -> None:
    """Writes a PNG, 1200 pixels wide: each model's gains over the one without skips, and how it foresees skips.

    Filled: recorded flags; hollow: controls.
    """
    from matplotlib.figure import Figure

    rows: dict[str, dict[str, Any]] = {}
    for name, row in figures["rows"].items():
        rows |= {name: row} | row["controls"]
    panels = [(name, "gain") for name in _SHOWN if any(name in row["gain"] for row in rows.values())]
    panels += [("next_skip_auc", "figures")] * any("next_skip_auc" in row["figures"] for row in rows.values())
    figure = Figure(figsize=(12, 1.9 + 0.4 * len(rows)), dpi=100, layout="constrained")
    figure.suptitle("Gained over the model without skips, and how well the next skip is foreseen", fontsize=12)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (name, kind) in zip(axes, panels, strict=True):
        for height, row in enumerate(rows.values()):
            if name not in row[kind]:
                continue
            found = row[kind][name]
            mean, low, high = found if kind == "gain" else (found[key] for key in ("mean", "low", "high"))
            scale = 100 if kind == "gain" else 1
            colour, control = (_COLOUR, False) if row["flags"] == "recorded" else (_OTHER, True)
            # Where all sessions are alike, rounding may put the mean outside of its interval.
            sides = [[scale * max(mean - low, 0)], [scale * max(high - mean, 0)]]
            dots: dict[str, Any] = {"markerfacecolor": "white"} if control else {}
            axis.errorbar(scale * mean, height, xerr=sides, fmt="o", color=colour, capsize=4, **dots)
        axis.axvline(0 if kind == "gain" else 0.5, linestyle="--", color="0.5")
        axis.set_title(LABELS[name])
        axis.set_xlabel("points gained" if kind == "gain" else "AUC; .5 is a guess")
        axis.grid(axis="x", color="0.9")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(rows)), ["\n".join(wrap(name, _LINE)) for name in rows])
    axes[0].set_ylim(len(rows) - 0.4, -0.6)
    axes[0].plot([], [], "o", color=_COLOUR, label=f"recorded flags, {INTERVAL}")
    axes[0].plot([], [], "o", color=_OTHER, markerfacecolor="white", label="shuffled flags")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(file, format="png")
