"""The comparison as Markdown: the paper's table 1 layout, skip down-ranking and breakdowns, for each protocol."""

from typing import Any

from skipwise.studies.comparison import METRICS, SIGNIFICANT, TESTED, significant

_NAMES = {metric: metric.upper() for metric in METRICS}
_PAPERS = ("hr@1", "hr@5", "hr@10", "hr@20")


def table_markdown(comparisons: list[dict[str, Any]], title: str, notes: list[str]) -> str:
    """A whole document; `notes` are lines on data, commit, machine and time."""
    parts = [f"# {title}", "", *[f"- {note}" for note in notes], ""]
    for comparison in comparisons:
        parts += _protocol(comparison)
    parts += _reading()
    return "\n".join(parts) + "\n"


def _protocol(comparison: dict[str, Any]) -> list[str]:
    among = f"among {comparison['candidates']:,} unseen tracks"
    if comparison["protocol"] == "full":
        among = f"exact, among about {comparison['candidates']:,} tracks"
    lines = [f"## `{comparison['protocol']}` ({among}, {comparison['sessions']:,} sessions, test split)", ""]
    lines += _hit_rates(comparison)
    lines += _verdicts(comparison)
    lines += _tests(comparison)
    lines += _skips(comparison)
    for name in next(iter(comparison["rows"].values()))["by"]:
        lines += _breakdown(comparison, name)
    return lines


def _hit_rates(comparison: dict[str, Any]) -> list[str]:
    rows = comparison["rows"]
    lines = ["| model | seeds | " + " | ".join(_NAMES.values()) + " |", "|---|---|" + "---|" * len(METRICS)]
    best = {
        (row["group"], metric): max(other[metric]["mean"] for other in rows.values() if other["group"] == row["group"])
        for row in rows.values()
        for metric in METRICS
    }
    for name, row in rows.items():
        cells = []
        for metric in METRICS:
            text = _share(row[metric]["mean"])
            if row[metric]["mean"] == best[row["group"], metric] and not row["reference"]:
                text = f"**{text}**"
            gain = row[metric].get("gain")
            cells.append(text + (f" ({gain:+.1f} %)" if gain is not None else ""))
        lines.append(f"| {row['label']} (`{name}`) | {row['seeds']} | " + " | ".join(cells) + " |")
        if row["paper"] and comparison["protocol"] == "uniform":  # the paper's own protocol
            paper = dict(zip(_PAPERS, row["paper"], strict=True))
            base = rows.get(row["baseline"], {}).get("paper")
            cells = []
            for metric in METRICS:
                text = _share(paper[metric]) if metric in paper else ""
                if text and base:
                    text += f" ({100 * (paper[metric] / base[_PAPERS.index(metric)] - 1):+.1f} %)"
                cells.append(f"*{text}*" if text else "")
            lines.append("| *the paper's, on other data* | *1* | " + " | ".join(cells) + " |")
    return lines + [""]


def _verdicts(comparison: dict[str, Any]) -> list[str]:
    rows = comparison["rows"]
    if not comparison["reference"]:
        return []
    reference = rows[comparison["reference"]]["label"]
    if not comparison["broken"]:
        return [f"Every model beats {reference} in HR@10.", ""]
    names = ", ".join(f"`{name}`" for name in comparison["broken"])
    return [f"**Broken, for it does not beat {reference} in HR@10: {names}.**", ""]


def _verdict(figures: dict[str, Any]) -> str:
    """Sessions and seeds must both speak for a difference before it is called one."""
    if not significant(figures):
        return "no significant difference"
    way = "better" if figures["difference"][0] > 0 else "worse"
    if figures["p_seeds"] is None:
        return f"{way} with this seed"
    return way if figures["p_seeds"] < SIGNIFICANT else f"{way} with these seeds"


def _tests(comparison: dict[str, Any]) -> list[str]:
    lines = [
        "| model | against | metric | value, 95 % interval | over seeds ± | difference, 95 % interval | p | Holm p | "
        "p over seeds | |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in comparison["rows"].values():
        for metric in TESTED:
            figures = row[metric]
            cells = [
                row["label"],
                "",
                _NAMES[metric],
                f"{_share(figures['mean'])} [{_share(figures['low'])}, {_share(figures['high'])}]",
                "" if figures["over_seeds"] is None else f"{figures['over_seeds']:.4f}",
            ]
            if "difference" in figures:
                mean, low, high = figures["difference"]
                cells[1] = comparison["rows"][row["baseline"]]["label"]
                cells += [f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]", _p(figures["p"]), _p(figures["p_holm"])]
                cells += [_p(figures["p_seeds"]), _verdict(figures)]
            else:
                cells += [""] * 5
            lines.append("| " + " | ".join(cells) + " |")
    return lines + [""]


def _skips(comparison: dict[str, Any]) -> list[str]:
    rows = [row for row in comparison["rows"].values() if {"skipped", "kept"} <= row["skips"].keys()]
    if not rows:
        return []
    lines = [
        "| skip down-ranking | skipped targets' percentile rank, 95 % interval | "
        "kept targets' percentile rank, 95 % interval | "
        "gap, 95 % interval | gap less the baseline's, 95 % interval | skipped targets' HR@10 | kept targets' HR@10 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        sides = row["skips"]["skipped"], row["skips"]["kept"]
        cells = [f"{side['percentile_rank']:.2f} [{side['low']:.2f}, {side['high']:.2f}]" for side in sides]
        for name in ("gap", "gap_change"):
            cells.append("{:+.2f} [{:+.2f}, {:+.2f}]".format(*row["skips"][name]) if name in row["skips"] else "")
        cells += [_share(side["hr@10"]) for side in sides]
        lines.append(f"| {row['label']} | " + " | ".join(cells) + " |")
    return lines + [""]


def _breakdown(comparison: dict[str, Any], name: str) -> list[str]:
    rows = comparison["rows"]
    labels = list(next(iter(rows.values()))["by"][name])
    sizes = next(iter(rows.values()))["by"][name]
    heads = [f"{label} ({sizes[label]['sessions']:,})" for label in labels]
    skips = any(size["kept_sessions"] < size["sessions"] for size in sizes.values())
    what = f"HR@10 by {name} (sessions){': all / kept targets' if skips else ''}"
    lines = [f"| {what} | " + " | ".join(heads) + " |", "|---|" + "---|" * len(labels)]
    for row in rows.values():
        cells = []
        for figures in (row["by"][name][one] for one in labels):
            kept = "none" if figures["kept_hr@10"] is None else _share(figures["kept_hr@10"])
            cells.append(_share(figures["hr@10"]) + (f" / {kept}" if skips else ""))
        lines.append(f"| {row['label']} | " + " | ".join(cells) + " |")
    return lines + [""]


def _reading() -> list[str]:
    return [
        "How to read this: in brackets the gain over the row's baseline, in bold the best of each group. With several "
        "seeds a session's value is its mean over seeds. Intervals: percentile bootstrap over sessions, 10,000 "
        "resamples; they leave the luck of training out, which `over seeds ±` shows (standard deviation of the seeds' "
        "means). p: paired bootstrap on the same sessions and candidates, two-sided; Holm p: corrected over all tests "
        "of the protocol, and what `better` and `worse` go by; p over seeds: paired t-test of the seeds' means. "
        "Percentile rank: the share of the candidates that come after the target, 100 is first, 0 last; the gap is "
        "skipped less kept. For skipped targets lower is better, in percentile rank, gap and HR@10. A "
        "session's length is also its test target's position.",
    ]


def _share(value: float) -> str:
    return f"{value:.4f}".removeprefix("0") if value < 1 else f"{value:.4f}"


def _p(value: float | None) -> str:
    return "" if value is None else "< .001" if value < 0.001 else f"{value:.3f}".removeprefix("0")
