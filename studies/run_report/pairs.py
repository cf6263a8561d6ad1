"""Two runs measured on the same sessions: what the second gains over the first, session by session."""

import numpy as np

from skipwise.studies.comparison import METRICS, is_skipped, percentile_rank
from skipwise.studies.run_report.runs import ReportedRun
from skipwise.studies.statistics import Difference, paired
from skipwise.training.evaluation.evaluator import Protocol
from skipwise.training.evaluation.records import Ranks


def unlike(first: ReportedRun, second: ReportedRun, protocol: Protocol) -> str:
    """Why two tests of a protocol cannot be compared session by session; empty where they can."""
    key = protocol, "test"
    for run in (first, second):
        if key not in run.ranks:
            return f"run {run.label} has not been measured"
    if first.directory.record["vocabulary_hash"] != second.directory.record["vocabulary_hash"]:
        return "the runs' data have other tracks"
    one, other = first.ranks[key], second.ranks[key]
    if not (np.array_equal(one.session, other.session) and np.array_equal(one.target, other.target)):
        return "the runs were measured on other sessions"
    drawn = "candidates", "seed"
    asked = [
        tuple(getattr(run.directory.config.evaluate, name) for name in drawn if protocol == "uniform")
        for run in (first, second)
    ]
    if asked[0] != asked[1] or not np.array_equal(one.candidates, other.candidates):
        return "the runs' targets were ranked among other candidates"
    return ""


def differences(first: Ranks, second: Ranks) -> dict[str, Difference]:
    """By metric, `second` less `first`; those of skipped targets alone where there are any."""
    found = {name: paired(value(second), value(first)) for name, value in METRICS.items()}
    skipped_N = is_skipped(first)
    if skipped_N.any():
        for name, value in (("skip hr@10", METRICS["hr@10"]), ("skip pct", percentile_rank)):
            found[name] = paired(value(second)[skipped_N], value(first)[skipped_N])
    return found
