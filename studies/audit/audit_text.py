"""The audit in words: three sentences, and a document of tables."""

from typing import Any

from skipwise.studies.audit.power import CLUSTERING, DISAGREEMENT, LIKENESS, OVER_SEEDS
from skipwise.studies.audit.predictors import COMBINED
from skipwise.studies.markdown_table import markdown_table

_SOURCES = {
    "session": "what the session has skipped so far",
    "track": "which track comes next",
    "pair": "which track follows which",
}


def sentences(figures: dict[str, Any]) -> list[str]:
    """What a listener skips, what predicts it, and what the data could show; one sentence each."""
    rate, best = figures["rates"]["all"]["share"], figures["predictors"]["by"][COMBINED]["auc"]
    gain = figures["power"]["hr@10"]["smallest_gain"]
    return [
        f"Listeners skip {100 * rate:.1f} % of the training plays.",
        _predicted(best, figures["predictors"]["explained"]),
        f"With {figures['power']['hr@10']['sessions']:,} test sessions, the smallest gain in HR@10 that these data "
        f"could show is {100 * gain['1']:.1f} points with one run a model, and {100 * gain['3']:.1f} with three.",
    ]


def _predicted(best: dict[str, float], explained: dict[str, float]) -> str:
    area = f"AUC {_area(best['value'])} (.5 is a guess, 1 is certainty)"
    shares = sources(explained)
    if best["low"] <= 0.5 or not shares:
        return f"Whether the next track will be skipped is not predicted: {area}."
    names = sorted(shares, key=lambda name: -shares[name])
    parts = [f"{100 * shares[name]:.0f} % comes from {_SOURCES[name]}" for name in names]
    return (
        f"Whether the next track will be skipped is predicted with {area}; of what the predictors explain, "
        f"{', '.join(parts)}, and what the session has skipped is the same for all candidates, so "
        f"{100 * (1 - shares['session']):.0f} % could change their order."
    )


def sources(explained: dict[str, float]) -> dict[str, float]:
    """Each source's part of what all explain; a source that explains less than nothing has none. Empty if all have."""
    total = sum(max(share, 0) for share in explained.values())
    return {name: max(share, 0) / total for name, share in explained.items()} if total > 0 else {}


def audit_markdown(figures: dict[str, Any]) -> str:
    """A whole document."""
    data, counts = figures["data"], figures["data"]["counts"]
    lines = [
        f"# Do the skips of `{data['name']}` say something?",
        "",
        *[f"- {line}" for line in sentences(figures)],
        "",
    ]
    lines += [
        f"{counts['sessions']:,} sessions, {counts['plays']:,} plays, {counts['tracks']:,} tracks, split by "
        f"{data['split']}. In brackets: 95 % intervals over sessions. docs/audit.md says how each figure is computed.",
        "",
        "![The audit in pictures](audit.png)",
        "",
    ]
    lines += _rates(figures["rates"]) + _predictors(figures["predictors"]) + _power(figures["power"])
    return "\n".join([*lines, *_repetition(figures["repetition"]), ""])


def _rates(rates: dict[str, Any]) -> list[str]:
    lines = ["## Skip rates", ""]
    tables = {"strength": rates["strength"], "position": rates["position"]}
    tables |= {f"`{name}`": values for name, values in rates["context"].items()}
    for name, groups in tables.items():
        head = "share of plays" if name == "strength" else "skipped"
        # Of a strength, `plays` are those that its share is a share of: all.
        sizes = {label: row["plays"] * (row["share"] if name == "strength" else 1) for label, row in groups.items()}
        rows = [[_cell(label), f"{sizes[label]:,.0f}", _percent(row, "share")] for label, row in groups.items()]
        lines += markdown_table([name, "plays", head], rows)
    return lines


def _predictors(figures: dict[str, Any]) -> list[str]:
    lines = ["## What predicts the next skip", ""]
    lines += [f"{figures['plays']:,} held-out plays of {figures['sessions']:,} sessions.", ""]
    rows = [
        [name, _interval(row["auc"]), _percent(row["accuracy"]), _interval(row["maa"])]
        for name, row in figures["by"].items()
    ]
    lines += markdown_table(["predictor", "AUC", "accuracy", "MAA"], rows)
    explained, shares = figures["explained"], sources(figures["explained"])
    rows = [
        [_SOURCES[name], f"{100 * share:.2f} %", f"{100 * shares[name]:.0f} %" if shares else "-"]
        for name, share in explained.items()
    ]
    rows.append(["all", f"{100 * sum(explained.values()):.2f} %", ""])
    lines += markdown_table(["source", "explained deviance", "of what is explained"], rows)
    if pairs := figures["pairs"]:
        lines += [
            f"Of {pairs['pairs']:,} pairs of the next kept track and a track skipped before it, {_percent(pairs)} are "
            "ordered right by the tracks' keep rates.",
            "",
        ]
    return lines


def _power(power: dict[str, Any]) -> list[str]:
    names = {"hr@10": "HR@10", "auc": "next-skip AUC"}
    rows = []
    for measure, row in power.items():
        gains = [f"{100 * gain:.2f} points" for gain in row["smallest_gain"].values()]
        rows.append([names[measure], *gains, *(f"{count:,}" for count in row["sessions_needed"].values())])
    first = next(iter(power.values()))
    return [
        "## Power",
        "",
        f"The smallest gain that {first['sessions']:,} test sessions show in 80 % of the cases at p < .05, and the "
        "sessions that smaller ones would take.",
        "",
        *markdown_table(
            ["measure", "one run a model", "three runs", "sessions for 1 point", "sessions for 0.3 points"], rows
        ),
        f"Taken: two models disagree on {100 * DISAGREEMENT:.0f} % of the targets, with a correlation of {CLUSTERING} "
        f"between targets of a session; their AUCs over sessions correlate by {LIKENESS}; a run's figure scatters over "
        f"seeds by {100 * OVER_SEEDS['hr@10']:.1f} points (HR@10) and {100 * OVER_SEEDS['auc']:.1f} (AUC). "
        "Sessions needed: with many runs.",
        "",
    ]


def _repetition(figures: dict[str, Any]) -> list[str]:
    names = {
        "duplicate_sessions": "sessions with the tracks of another one, but for the first of each kind",
        "test_sessions_in_training": "test sessions with the tracks of a training session",
        "sessions_with_a_repeated_track": "sessions that play a track again",
        "repeated_plays": "plays of a track that the session has played before",
    }
    rows = [[names[name], f"{100 * share:.1f} %"] for name, share in figures.items() if share is not None]
    return ["## Duplicates", "", *markdown_table(["", "share"], rows)]


def _percent(row: dict[str, float], key: str = "value") -> str:
    return f"{100 * row[key]:.1f} % [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def _interval(row: dict[str, float]) -> str:
    return f"{_area(row['value'])} [{_area(row['low'])}, {_area(row['high'])}]"


def _area(value: float) -> str:
    return f"{value:.3f}".removeprefix("0") if value < 1 else f"{value:.3f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
