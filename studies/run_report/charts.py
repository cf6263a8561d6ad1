"""The page's pictures: curves, groups with intervals, where skipped tracks rank, a map of the table."""

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.ticker import NullFormatter

from skipwise.studies.comparison import is_skipped, percentile_rank
from skipwise.studies.run_report.breakdowns import OTHERS, Series
from skipwise.studies.run_report.curves import Curve, thinned
from skipwise.studies.run_report.drawing import COLOURS, LINES, MARKERS, picture
from skipwise.studies.run_report.runs import ReportedRun
from skipwise.studies.run_report.table_sample import Sample, main_directions
from skipwise.training.evaluation.records import Ranks

_LONGEST_NAME = 22
_PLAYS = ListedColormap(colormaps["viridis_r"](np.linspace(0.15, 1, 256)))  # its yellow is too pale on white


def losses(runs: list[ReportedRun]) -> str:
    """Total loss and its two parts by step."""

    def draw(axis: Axes) -> None:
        for place, run in enumerate(runs):
            for line, name in zip(LINES, ("loss", "nll", "nce"), strict=True):
                curve = thinned(run.curves.train)
                if name == "loss" or curve[name].any():  # a skip-blind run has no skip loss
                    label = f"{_prefix(runs, run)}{'total' if name == 'loss' else name}"
                    axis.plot(curve["step"], curve[name], line, color=COLOURS[place], label=label)
            _refit(axis, run.curves.refit, "loss", place, f"{_prefix(runs, run)}refit, total")
        axis.set_xlabel("step")
        axis.set_ylabel("loss")
        _legend(axis)

    return picture(draw)


def hit_rates(runs: list[ReportedRun]) -> str:
    """Validation HR@10 and HR@1 by epoch."""

    def draw(axis: Axes) -> None:
        for place, run in enumerate(runs):
            curve = run.curves.validation
            for kind, name in enumerate(("hr@10", "hr@1")):
                style = {"linestyle": LINES[kind], "marker": MARKERS[place], "markersize": 5}
                style |= {"markerfacecolor": COLOURS[place] if kind == 0 else "white"}
                label = f"{_prefix(runs, run)}{name.upper()}"
                axis.plot(curve["epoch"], curve[name], color=COLOURS[place], label=label, **style)
        axis.set_xlabel("epoch")
        axis.set_ylabel("validation, uniform")
        axis.xaxis.get_major_locator().set_params(integer=True)
        _legend(axis)

    return picture(draw)


def rates(runs: list[ReportedRun]) -> str:
    """Sessions/s by step."""

    def draw(axis: Axes) -> None:
        for place, run in enumerate(runs):
            curve = thinned(run.curves.train)
            label = f"{_prefix(runs, run)}training"
            axis.plot(curve["step"], curve["sessions_per_s"], LINES[place], color=COLOURS[place], label=label)
            _refit(axis, run.curves.refit, "sessions_per_s", place, f"{_prefix(runs, run)}refit")
        axis.set_ylim(bottom=0)
        axis.set_xlabel("step")
        axis.set_ylabel("sessions/s, since the epoch began")
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
            sides = np.maximum([means - lows, highs - means], 0)  # rounding may put the mean a hair outside
            style = {"fmt": MARKERS[one.run + 2 * one.place], "capsize": 3, "markersize": 5}
            style |= {"markerfacecolor": COLOURS[one.run] if one.place == 0 else "white"}
            axis.errorbar(means, heights, xerr=sides, color=COLOURS[one.run], label=one.label, **style)
        axis.set_yticks(range(len(names)), [tick(name, series) for name in names])
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.set_xlabel("HR@10")
        if len(series) > 1:
            _legend(axis, columns=len(series) if len(series) < 3 else 2)

    return picture(draw, height=1.3 + 0.3 * len(names) + 0.08 * len(names) * len(series))


def tick(name: str, series: list[Series]) -> str:
    """A group's name, without leading zeros, and its sessions where all series are of the same ones."""
    words = "-".join(part.lstrip("0") or "0" if part.isdecimal() else part for part in name.split("-"))
    words = words if len(words) <= _LONGEST_NAME else words[: _LONGEST_NAME - 1] + "…"
    sizes = {one.points[name][3] for one in series if name in one.points}
    return f"{words}  ({sizes.pop():,})" if len(sizes) == 1 and not any(one.place for one in series) else words


def skips(measured: list[tuple[str, int, Ranks]]) -> str:
    """How many of the skipped and of the kept targets come within the first x % of their candidates."""
    floor = 50 / max(1.0, *(float(np.median(ranks.candidates)) for *_, ranks in measured))
    shares = np.geomspace(min(floor, 10), 100, 200)

    def draw(axis: Axes) -> None:
        for prefix, run, ranks in measured:
            ahead_N, skipped_N = 100 - percentile_rank(ranks), is_skipped(ranks)
            for line, name, chosen_N in (("-", "kept", ~skipped_N), ("--", "skipped", skipped_N)):
                values = np.sort(ahead_N[chosen_N])
                if len(values):
                    reached = np.searchsorted(values, shares + 1e-9, side="right") / len(values)
                    axis.plot(shares, reached, line, color=COLOURS[run], label=f"{prefix}{name} ({len(values):,})")
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_ylim(top=1.01)
        axis.set_xlabel("among the first x % of the candidates")
        axis.set_ylabel("share of the targets")
        _legend(axis)

    return picture(draw)


def table_map(sample: Sample, plays_N: np.ndarray | None) -> tuple[str, float]:
    """The sampled rows along their two main directions, and the share of the variance that these hold."""
    places_M2, share = main_directions(sample.rows_MD)

    def draw(axis: Axes) -> None:
        style = {"s": 7, "linewidths": 0, "rasterized": True}
        if plays_N is None:
            axis.scatter(*places_M2.T, color=COLOURS[0], **style)
        else:
            plays_M = plays_N[sample.row_M]
            order = np.argsort(plays_M, kind="stable")  # the most played on top
            scale = LogNorm(1, max(int(plays_M.max()), 2))
            shown = np.maximum(plays_M[order], 1)
            points = axis.scatter(*places_M2[order].T, c=shown, cmap=_PLAYS, norm=scale, **style)
            bar = axis.figure.colorbar(points, ax=axis, label="training plays (0 counts as 1)", pad=0.02)
            bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            bar.ax.yaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel("first direction")
        axis.set_ylabel("second direction")

    return picture(draw, height=4.2), share


def _refit(axis: Axes, curve: Curve, name: str, place: int, label: str) -> None:
    if len(curve["step"]):
        short = thinned(curve)
        axis.plot(short["step"], short[name], "-.", color=COLOURS[place], linewidth=1, label=label)


def _prefix(runs: list[ReportedRun], run: ReportedRun) -> str:
    return f"{run.label} " if len(runs) > 1 else ""


def _legend(axis: Axes, columns: int = 2) -> None:
    """Above the chart, where it hides nothing."""
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, fontsize=9)
