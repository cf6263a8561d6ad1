"""The files of an audit: `audit.md`, `audit.json`, `audit.png`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipwise.common.errors import UserError, reason
from skipwise.common.files import replacing, write_json, write_text
from skipwise.common.versions import commit, machine
from skipwise.studies.audit.audit_text import audit_markdown, sentences, sources
from skipwise.studies.audit.power import smallest_gain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOUR, _OTHER = "#33658a", "#b5541c"


def write_audit(output: Path, figures: dict[str, Any]) -> None:
    """Writes the three files; see `write_figures`."""
    write_figures(output, "audit", figures, sentences(figures), audit_markdown(figures), draw)


def write_figures(
    output: Path,
    name: str,
    figures: dict[str, Any],
    said: list[str],
    markdown: str,
    drawn: Callable[[dict[str, Any], Path], None],
) -> None:
    """Writes `name` .png, .json and .md into a directory, each whole or not at all.

    Raises `UserError` where it cannot.
    """
    made = {"commit": commit(), "machine": machine(), "sentences": said}
    try:
        output.mkdir(parents=True, exist_ok=True)
        with replacing(output / f"{name}.png") as picture:
            drawn(figures, picture)
        write_json(output / f"{name}.json", made | figures)
        write_text(output / f"{name}.md", markdown)
    except OSError as error:
        raise UserError(f"{output} cannot be written ({reason(error)}): choose another --output") from error


def draw(figures: dict[str, Any], file: Path) -> None:
    """Writes a PNG, 1200 pixels wide: skip rate by position, AUC by predictor, sources, and gains by sessions."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), dpi=100, layout="constrained")
    (positions, areas), (parts, gains) = figure.subplots(2, 2)
    _positions(positions, figures["rates"])
    _areas(areas, figures["predictors"]["by"])
    _sources(parts, figures["predictors"]["explained"])
    _gains(gains, figures["power"])
    for axis in (positions, areas, parts, gains):
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_axisbelow(True)
    figure.savefig(file, format="png")


def _positions(axis: "Axes", rates: dict[str, Any]) -> None:
    rows = list(rates["position"].values())
    axis.bar(
        range(len(rows)), [100 * row["share"] for row in rows], yerr=_sides(rows, "share"), color=_COLOUR, capsize=2
    )
    axis.axhline(100 * rates["all"]["share"], linestyle="--", color=_OTHER, label="all plays")
    axis.set_xticks(range(len(rows)), [name.replace(" on", "+") for name in rates["position"]])
    axis.set(title="Plays skipped, by position", xlabel="position in the session", ylabel="%", ylim=(0, 100))
    axis.legend(frameon=False)


def _areas(axis: "Axes", predictors: dict[str, Any]) -> None:
    rows = [row["auc"] for row in predictors.values()]
    places, values = range(len(rows)), [row["value"] for row in rows]
    axis.errorbar(values, places, xerr=_sides(rows, "value", 1), fmt="o", color=_COLOUR, capsize=4)
    axis.axvline(0.5, linestyle="--", color=_OTHER, label="a guess")
    axis.set_yticks(places, list(predictors))
    axis.invert_yaxis()
    axis.set(title="What predicts the next skip", xlabel="AUC, 95 % interval over sessions")
    axis.grid(axis="x", color="0.9")
    axis.legend(frameon=False)


def _sources(axis: "Axes", explained: dict[str, float]) -> None:
    bars = axis.barh(list(explained), [100 * share for share in explained.values()], color=_COLOUR)
    shares = sources(explained)
    axis.bar_label(bars, [f"{100 * shares[name]:.0f} %" if shares else "" for name in explained], padding=4)
    axis.axvline(0, color="0.3", linewidth=0.8)
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set(
        title="Where that information comes from",
        xlabel="explained deviance, %; beside the bar: share of all that is explained",
    )


def _gains(axis: "Axes", power: dict[str, Any]) -> None:
    row = power["hr@10"]
    sessions = [int(10 ** (exponent / 10)) for exponent in range(20, 61)]
    for runs, style in (("1", "-"), ("3", "--")):
        smallest = [100 * smallest_gain(row["variance"], row["over_seeds"], count, int(runs)) for count in sessions]
        axis.plot(sessions, smallest, style, color=_COLOUR, label=f"{runs} run{'s' if runs != '1' else ''} a model")
        axis.plot(row["sessions"], 100 * row["smallest_gain"][runs], "o", color=_OTHER)
    axis.plot([], [], "o", color=_OTHER, label="these data")
    axis.set(
        xscale="log",
        title="Smallest gain that can be shown",
        xlabel="test sessions",
        ylabel="points of HR@10",
    )
    axis.set_ylim(bottom=0)
    axis.grid(color="0.9")
    axis.legend(frameon=False)


def _sides(rows: list[dict[str, float]], key: str, scale: float = 100) -> list[list[float]]:
    """Lengths of error bars. Where all sessions are alike, rounding may put the value outside of its interval."""
    lower = [max(scale * (row[key] - row["low"]), 0) for row in rows]
    return [lower, [max(scale * (row["high"] - row[key]), 0) for row in rows]]
