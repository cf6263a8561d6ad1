"""The audit of runs in words: three sentences for whoever decides, and a document of tables."""

from typing import Any

from skipwise.studies.markdown_table import markdown_table
from skipwise.studies.skip_comparison import share
from skipwise.studies.skip_figures import HITS
from skipwise.studies.skip_figures import LABELS as SKIP_LABELS
from skipwise.training.evaluation.skip_measures import FORESEEN, ORDERED

LABELS = HITS | ORDERED | FORESEEN | SKIP_LABELS
_NO_SKIPS = "no skips"


def sentences(figures: dict[str, Any]) -> list[str]:
    """What skips gain, what the same model gains from flags that say nothing, and whether they pay."""
    name, row = asked(figures)
    gain, measured = row["gain"], row["figures"]
    runs = f"{len(figures['seeds'])} run{'s' if len(figures['seeds']) > 1 else ''} each"
    parts = []
    if "pairs_in_order" in gain:
        parts.append(
            f"put the kept track of a kept and a skipped one first in {_percent(measured['pairs_in_order'])} of the "
            f"cases, {_points(gain['pairs_in_order'])}"
        )
    found = f"{_percent(measured['hr@10'])} of all, {_points(gain['hr@10'])}"
    if "kept_hr@10" in gain:
        kept = f"{_percent(measured['kept_hr@10'])} of the cases where it is kept, {_points(gain['kept_hr@10'])}"
        found = f"{kept}, and in {found}"
    parts.append(f"have the next track among the first 10 in {found}")
    what = f"{name}; {runs}, {figures['sessions']:,} test sessions"
    said = f"Against a model without skips, the recommendations with skips ({what}) {'; they '.join(parts)}."
    verdict = _verdict(figures)
    if figures["best_is_last"]:
        verdict = (
            f"{verdict[:-1]}; but some of these runs ended at their best epoch, and more epochs may change all of it."
        )
    return [said, _of_controls(row), verdict]


def asked(figures: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The model that the sentences are about (`Family.real`)."""
    found: tuple[str, dict[str, Any]] = next(iter(figures["rows"].items()))
    return found


def _of_controls(row: dict[str, Any]) -> str:
    if not row["controls"]:
        return (
            "No control was named: the same model trained with --data.skip-flags shuffled would say how much of this "
            "the skips themselves bring."
        )
    parts = []
    for control in row["controls"].values():
        gains = [
            f"{_points(control['gain'][name])} {words}"
            for name, words in (("pairs_in_order", "of the pairs"), ("kept_hr@10", "of the kept tracks"))
            if name in control["gain"]
        ]
        told = ""
        if "next_skip_auc" in row["figures"] and "next_skip_auc" in control["figures"]:
            areas = (_area(one["figures"]["next_skip_auc"]["mean"]) for one in (control, row))
            told = ", and foresees the next skip with AUC {} where true flags reach {} (.5 is a guess)".format(*areas)
        parts.append(
            f"with flags {control['flags'].replace('-', ' as ')} it has {' and '.join(gains)} than without{told}"
        )
    return f"The control is the same model trained on flags that say nothing: {'; '.join(parts)}."


_GAINED = {
    "pairs_in_order": "kept tracks come before skipped ones",
    "kept_hr@10": "more of the tracks that are kept are found",
}


def _verdict(figures: dict[str, Any]) -> str:
    found, (_, row) = figures["verdict"], asked(figures)
    fell = f"HR@10 falls by {100 * found['cost']:.1f} points" if found["cost"] else ""
    if not found["gained"]:
        return f"So these runs do not show that the skips pay: no gain is surely above zero{fell and f', and {fell}'}."
    gained = " and ".join(_GAINED[name] for name in found["gained"])
    if not found["controls"]:
        return (
            f"So something is gained ({gained}{fell and f', but {fell}'}); without a control it may not be the skips'."
        )
    if not found["by_flags"]:
        return f"So the gain ({gained}{fell and f', but {fell}'}) is not the skips': a control may have as much of it."
    kept = max(
        max(control["gain"][name][0], 0) / row["gain"][name][0]
        for name in found["by_flags"]
        for control in row["controls"].values()
    )
    loses = "all of that" if kept < 0.005 else f"{100 * (1 - kept):.0f} % of that"
    gained = " and ".join(_GAINED[name] for name in found["by_flags"])
    if fell:
        return f"So the skips bring something ({gained}; the control loses {loses}), but {fell}: weigh the two."
    return f"So the skips pay: {gained}, and the control loses {loses}."


def not_done(figures: dict[str, Any]) -> list[str]:
    """A sentence where runs might have gone on to improve; else none."""
    if not figures["best_is_last"]:
        return []
    return [
        f"The best epoch is the last one, so that more may be better, of {', '.join(figures['best_is_last'])}: raise "
        "--train.epochs before you compare."
    ]


def runs_markdown(figures: dict[str, Any]) -> str:
    """A whole document."""
    rows = {_NO_SKIPS: figures["blind"]}
    for name, row in figures["rows"].items():
        rows |= {name: row} | row["controls"]
    names = [name for name in LABELS if any(name in row["figures"] for row in rows.values())]
    lines = []
    for name, row in rows.items():
        lines.append([_cell(name), *(_value(row["figures"].get(figure)) for figure in names)])
        words_of = {"gain": f"less {_NO_SKIPS}", "turned": "less their own dial", "lost": "true flags less these"}
        for key, words in words_of.items():
            if key in row:
                lines.append([f"*{words}*", *(_difference(row[key].get(figure)) for figure in names)])
    seeds = ", ".join(map(str, figures["seeds"]))
    return "\n".join(
        [
            "# Do the skips pay?",
            "",
            *[f"- {line}" for line in sentences(figures)],
            "",
            f"{figures['targets']:,} test targets of {figures['sessions']:,} sessions, {figures['pairs']:,} pairs of a "
            f"kept track and one skipped before it; ranked among what is recommended (`{figures['protocol']}`). Seeds: "
            f"{seeds}. In brackets: 95 % intervals over sessions, of differences paired (docs/audit.md).",
            "",
            *[f"**{line}**\n" for line in not_done(figures)],
            "![The audit in pictures](runs.png)",
            "",
            *markdown_table(["model", *(LABELS[name] for name in names)], lines),
            *_settings(rows),
        ]
    )


def _settings(rows: dict[str, dict[str, Any]]) -> list[str]:
    """The fields in which the rows differ."""
    paths = [
        path
        for path in next(iter(rows.values()))["settings"]
        if len({str(row["settings"][path]) for row in rows.values()}) > 1
    ]
    lines = [
        [_cell(name), *(_shown(row["settings"][path]) for path in paths), _cell(", ".join(row["runs"]))]
        for name, row in rows.items()
    ]
    return ["## Settings that differ", "", *markdown_table(["model", *(f"`{path}`" for path in paths), "runs"], lines)]


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) or "(none)" if isinstance(value, tuple) else str(value)


def _percent(found: dict[str, float]) -> str:
    return f"{100 * found['mean']:.1f} %"


def _points(found: list[float]) -> str:
    """A difference as so many points more or less, with its interval."""
    mean, low, high = (100 * value for value in found)
    words = "more" if mean >= 0 else "less"
    if mean < 0:
        mean, low, high = -mean, -high, -low
    return "{:.1f} points {} [{:.1f}, {:.1f}]".format(mean, words, *(round(value, 1) + 0.0 for value in (low, high)))


def _value(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    mean, low, high = (share(found[key]) for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _difference(found: list[float] | None) -> str:
    if found is None:
        return ""
    return "*{} [{}, {}]*".format(*(share(value, "+") for value in found))


def _area(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
