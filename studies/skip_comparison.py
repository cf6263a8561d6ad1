"""How the models of a comparison foresee skips and order pairs: figures, intervals and differences, and a table."""

from typing import Any

from skipwise.studies.comparison import Row
from skipwise.studies.markdown_table import markdown_table
from skipwise.studies.skip_figures import LABELS, difference, figure, over_seeds
from skipwise.training.evaluation.records import read_target_ranks


def compare_skips(rows: list[Row], protocol: str) -> dict[str, Any]:
    """`rows`, by name: the figures that a row's runs have on the test, and `difference`s to those of its baseline.

    Empty where no row has any: the runs have no keep head, and there are no pairs. The rows were measured on the same
    targets (`compare`). What records say of skips is the same by every protocol.
    """
    measured = {row.name: [read_target_ranks(run, protocol, "test") for run in row.runs] for row in rows}
    values = {name: over_seeds(ranks_S) for name, ranks_S in measured.items()}
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if not values[row.name]:
            continue
        found[row.name] = {"label": row.label, "group": row.group, "baseline": row.baseline}
        for name, values_SM in values[row.name].items():
            found[row.name][name] = figure(values_SM)
            alike = any(other.name == row.baseline and other.refit == row.refit for other in rows)
            if alike and name in values[row.baseline or ""]:
                found[row.name][name]["difference"] = difference(values_SM, values[row.baseline or ""][name])
    if not found:
        return {}
    first = measured[next(iter(found))][0]
    return {
        "targets": len(first.session),
        "pairs": max(int(ranks_S[0].pairs.sum()) for ranks_S in measured.values()),
    } | {"rows": found}


def skips_markdown(compared: dict[str, Any]) -> list[str]:
    """A table with the columns that some row has, and under each row its difference to its baseline."""
    if not compared:
        return []
    rows = compared["rows"]
    names = [name for name in LABELS if any(name in row for row in rows.values())]
    lines = []
    for row in rows.values():
        lines.append([row["label"], *(_value(row.get(name), _is_best(row, name, rows)) for name in names)])
        if any("difference" in row.get(name, {}) for name in names):
            label = rows[row["baseline"]]["label"]
            lines.append([f"*less {label}*", *(_difference(row.get(name)) for name in names)])
    return [
        "## How skips are foreseen and ordered",
        "",
        f"At the same {compared['targets']:,} test targets, and {compared['pairs']:,} pairs of a kept track and one "
        "skipped before it; the same by every protocol. Values with 95 % intervals over sessions, with several seeds ± "
        "the standard deviation over them; in italics the difference to the row's baseline, its interval paired. AUC, "
        "accuracy, MAA (the second half of each session, none of its flags known) and calibration error (ECE) are of "
        "P(kept), where there is a keep head. Of ECE, less is better; of the others, more.",
        "",
        *markdown_table(["model", *(LABELS[name] for name in names)], lines),
    ]


def _is_best(row: dict[str, Any], name: str, rows: dict[str, dict[str, Any]]) -> bool:
    """Whether no row of its group has a better figure, and another one has such a figure."""
    means = [other[name]["mean"] for other in rows.values() if other["group"] == row["group"] and name in other]
    best = min if name == "next_skip_ece" else max
    return name in row and len(means) > 1 and row[name]["mean"] == best(means)


def _value(found: dict[str, Any] | None, best: bool) -> str:
    if found is None:
        return ""
    mean, low, high = (share(found[key]) for key in ("mean", "low", "high"))
    spread = "" if found["over_seeds"] is None else f" ± {share(found['over_seeds'])}"
    return (f"**{mean}**" if best else mean) + f"{spread} [{low}, {high}]"


def _difference(found: dict[str, Any] | None) -> str:
    if found is None or "difference" not in found:
        return ""
    mean, low, high = (share(value, "+") for value in found["difference"])
    return f"*{mean} [{low}, {high}]*"


def share(value: float, sign: str = "") -> str:
    """Four digits, without a zero before the point."""
    return f"{value:{sign}.4f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:{sign}.4f}"
