"""The report's pictures, each an SVG data address that is the same for the same figures."""

import base64
import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from skipwise.studies.curves import Curve
from skipwise.studies.run_report.breakdowns import OTHERS, Series
from skipwise.studies.run_report.reported_run import ReportedRun
from skipwise.studies.run_report.table_sample import Sample, main_directions
from skipwise.studies.skip_figures import Reliability
from skipwise.training.evaluation.records import TargetRanks

_COLOURS = ("#1b4f8a", "#e08e2b")
"""Of run A and run B. In grey, one is dark and one is light."""
_MARKERS = ("o", "D", "s", "^")
_LINES: tuple[Any, ...] = ("-", "--", ":", (0, (6, 2, 1, 2, 1, 2)))
_PLAYS = ListedColormap(colormaps["viridis_r"](np.linspace(0.15, 1, 256)))  # its yellow is too pale on white
_MAX_NAME = 22
_STYLE = {
    "svg.hashsalt": "skipwise",  # ids in the file follow from its content
    "svg.fonttype": "path",
    "text.parse_math": False,  # a label is data: a dollar sign is not mathematics
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.88",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def picture(draw: Callable[[Axes], None], width: float = 5.2, height: float = 3.4) -> str:
    """A chart as the address of an `<img>`; sizes in inches of 96 pixels."""
    with style.context(["default", _STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.subplots())
        content = io.BytesIO()
        figure.savefig(content, format="svg", dpi=150, metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(content.getvalue()).decode()


def thinned(curve: Curve, points: int = 300) -> Curve:
    """The curve in at most `points` means, each over a section of about the same length."""
    length = len(next(iter(curve.values())))
    if length <= points:
        return curve
    first = np.linspace(0, length, points, endpoint=False).astype(int)
    sizes = np.diff(np.append(first, length))
    return {name: np.add.reduceat(values, first) / sizes for name, values in curve.items()}


def losses(runs: list[ReportedRun]) -> str:
    """Total loss and its parts by step."""
    words = {"loss": "total", "nll": "nll", "nce": "nce", "keep": "keep"}
    return picture(lambda axis: _by_step(axis, runs, words, "refit, total", "loss"))


def rates(runs: list[ReportedRun]) -> str:
    """Sessions/s by step."""

    def draw(axis: Axes) -> None:
        _by_step(axis, runs, {"sessions_per_s": "training"}, "refit", "sessions/s, since the epoch began")
        axis.set_ylim(bottom=0)

    return picture(draw)


def _by_step(axis: Axes, runs: list[ReportedRun], words: dict[str, str], refit: str, unit: str) -> None:
    """Columns of the training's curve as `words` names them, and the first of them in the refit."""
    first = next(iter(words))
    for place, run in enumerate(runs):
        curve, again = thinned(run.curves["train"]), thinned(run.curves["refit"])
        for number, (name, word) in enumerate(words.items()):
            if name == first or curve[name].any():  # a part that is not learned is zero
                line = _LINES[number if len(words) > 1 else place]
                label = f"{_prefix(runs, run)}{word}"
                axis.plot(curve["step"], curve[name], linestyle=line, color=_COLOURS[place], label=label)
        if len(again["step"]):
            label = f"{_prefix(runs, run)}{refit}"
            axis.plot(again["step"], again[first], "-.", color=_COLOURS[place], linewidth=1, label=label)
    axis.set_xlabel("step")
    axis.set_ylabel(unit)
    _legend(axis)


def hit_rates(runs: list[ReportedRun]) -> str:
    """Validation HR@10 and HR@1 by epoch."""

    def draw(axis: Axes) -> None:
        for place, run in enumerate(runs):
            curve = run.curves["validation"]
            for name, line, fill in (("hr@10", "-", _COLOURS[place]), ("hr@1", "--", "white")):
                marks: dict[str, Any] = {"marker": _MARKERS[place], "markersize": 5, "markerfacecolor": fill}
                label = f"{_prefix(runs, run)}{name.upper()}"
                axis.plot(curve["epoch"], curve[name], line, color=_COLOURS[place], label=label, **marks)
        axis.set_xlabel("epoch")
        axis.set_ylabel("validation")
        axis.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
        _legend(axis)

    return picture(draw)


def groups(series: list[Series]) -> str:
    """HR@10 of each group with its interval, the groups from top to bottom."""
    names = sorted({name for one in series for name in one.points}, key=lambda name: (name == OTHERS, name))

    def draw(axis: Axes) -> None:
        for number, one in enumerate(series):
            shift = (number - (len(series) - 1) / 2) * min(0.22, 0.7 / len(series))
            heights = [names.index(name) + shift for name in one.points]
            means, lows, highs, _ = np.array(list(one.points.values())).T
            sides = np.maximum([means - lows, highs - means], 0)  # by rounding, the mean may lie outside
            bars: dict[str, Any] = {"fmt": _MARKERS[one.run + 2 * one.split], "capsize": 3, "markersize": 5}
            bars |= {"markerfacecolor": _COLOURS[one.run] if one.split == 0 else "white"}
            axis.errorbar(means, heights, xerr=sides, color=_COLOURS[one.run], label=one.label, **bars)
        axis.set_yticks(range(len(names)), [group_label(name, series) for name in names])
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.set_xlabel("HR@10")
        if len(series) > 1:
            _legend(axis, columns=len(series) if len(series) < 3 else 2)

    return picture(draw, height=1.3 + 0.3 * len(names) + 0.08 * len(names) * len(series))


def group_label(name: str, series: list[Series]) -> str:
    """A group's name, without leading zeros, and its sessions where all series are of the same ones."""
    words = "-".join(part.lstrip("0") or "0" if part.isdecimal() else part for part in name.split("-"))
    words = words if len(words) <= _MAX_NAME else words[: _MAX_NAME - 1] + "…"
    sizes = {one.points[name][3] for one in series if name in one.points}
    return f"{words}  ({sizes.pop():,})" if len(sizes) == 1 and not any(one.split for one in series) else words


def skips(measured: list[tuple[str, int, TargetRanks]]) -> str:
    """The share of skipped and of kept targets ranked within the first x % of their candidates."""
    floor = 50 / max(1.0, *(float(np.median(ranks.candidates)) for *_, ranks in measured))
    shares = np.geomspace(min(floor, 10), 100, 200)

    def draw(axis: Axes) -> None:
        for prefix, run, ranks in measured:
            ahead_N = 100 - ranks.values("percentile_rank")
            for line, name, chosen_N in (("-", "kept", ranks.kept), ("--", "skipped", ranks.skipped)):
                values = np.sort(ahead_N[chosen_N])
                if len(values):
                    reached = np.searchsorted(values, shares + 1e-9, side="right") / len(values)
                    axis.plot(shares, reached, line, color=_COLOURS[run], label=f"{prefix}{name} ({len(values):,})")
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_ylim(top=1.01)
        axis.set_xlabel("among the first x % of the candidates")
        axis.set_ylabel("share of the targets")
        _legend(axis)

    return picture(draw)


def reliability(curves: list[tuple[str, int, list[Reliability]]]) -> str:
    """The share kept by P(kept), with intervals; a dot's area is its share of the plays."""

    def draw(axis: Axes) -> None:
        axis.plot([0, 1], [0, 1], "--", color="0.5", linewidth=1, label="calibrated")
        for label, run, points in curves:
            told, kept, low, high, plays = np.array(points).T
            sides = np.maximum([kept - low, high - kept], 0)  # by rounding, the share may lie outside
            colour = _COLOURS[run]
            axis.errorbar(told, kept, yerr=sides, fmt="-", color=colour, capsize=3, linewidth=1)
            dots: dict[str, Any] = {"marker": _MARKERS[run], "color": colour, "zorder": 3}
            axis.scatter(told, kept, s=10 + 250 * plays / plays.sum(), label=label or "kept", **dots)
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1)
        axis.set_xlabel("P(kept)")
        axis.set_ylabel("share kept")
        _legend(axis, columns=3)

    return picture(draw)


def table_map(sample: Sample, plays_N: np.ndarray | None) -> tuple[str, float]:
    """The sampled rows along their two main directions, and the share of the variance that these hold."""
    places_M2, share = main_directions(sample.rows_MD)

    def draw(axis: Axes) -> None:
        dots: dict[str, Any] = {"s": 7, "linewidths": 0, "rasterized": True}
        if plays_N is None:
            axis.scatter(places_M2[:, 0], places_M2[:, 1], color=_COLOURS[0], **dots)
        else:
            plays_M = plays_N[sample.row_M]
            order = np.argsort(plays_M, kind="stable")  # the most played on top
            scale = LogNorm(1, max(int(plays_M.max()), 2))
            shown = np.maximum(plays_M[order], 1)
            x_M, y_M = places_M2[order].T
            points = axis.scatter(x_M, y_M, c=shown, cmap=_PLAYS, norm=scale, **dots)
            bar = axis.figure.colorbar(points, ax=axis, label="training plays (0 counts as 1)", pad=0.02)
            bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            bar.ax.yaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel("first direction")
        axis.set_ylabel("second direction")

    return picture(draw, height=4.2), share


def _prefix(runs: list[ReportedRun], run: ReportedRun) -> str:
    return f"{run.label} " if len(runs) > 1 else ""


def _legend(axis: Axes, columns: int = 2) -> None:
    """Above the chart, where it hides nothing."""
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, fontsize=9)
