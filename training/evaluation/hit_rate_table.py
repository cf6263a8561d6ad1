"""The HR table, as text, with skip down-ranking beside HR@K."""

from typing import Any

from skipwise.training.config import PROTOCOLS, RunConfig
from skipwise.training.evaluation.metrics import METRICS


def hit_rate_table(metrics: dict[str, Any], config: RunConfig) -> str:
    """`metrics.json` as an aligned table; each row names its protocol, split and number of sessions."""
    rows = [(protocol, split, values) for protocol in PROTOCOLS for split, values in metrics.get(protocol, {}).items()]
    skips = any(values.get("skipped_sessions") for *_, values in rows)
    heads = "".join(f"{column.upper():>8}" for column in METRICS)
    lines = [f"{'protocol':9}{'split':11}{heads}" + (f"{'skip HR@10':>12}{'skip pct':>10}" if skips else "")]
    lines[0] += f"{'sessions':>10}"
    for protocol, split, values in rows:
        cells = "".join(f"{values[column]:8.4f}" for column in METRICS) + (_skip_cells(values) if skips else "")
        lines.append(f"{protocol:9}{split:11}{cells}{values['sessions']:10d}")
    for protocol, split, values in rows:
        if _measured(values):
            lines.append(
                f"{protocol} {split}: {values['skipped_sessions']:d} targets were skipped; of the "
                f"{values['kept_sessions']:d} kept ones HR@10 is {values['kept_hr@10']:.4f} and the percentile rank "
                f"{values['kept_percentile_rank']:.2f}."
            )
    if any(map(_measured, (values for *_, values in rows))):
        lines.append(
            "skip HR@10, skip pct: of skipped targets alone, hit rate and mean percentile rank, the share of the "
            "candidates that come after the target (100 is first, 0 last); lower is better."
        )
    if any(values.get("skipped_sessions") and not _measured(values) for *_, values in rows):
        lines.append("-: an older version ranked skipped targets from the other end: evaluate again.")
    history = "own history filtered" if config.evaluate.filter_history else "own history not filtered"
    lines.append(f"uniform: among {config.evaluate.candidates} unseen tracks; full: exact, whole catalogue, {history}.")
    if "train" in metrics:
        train = metrics["train"]
        lines.append(
            f"trained {train['epochs']:d} epochs in {train['seconds']:.0f} s "
            f"({train['sessions_per_s']:.0f} sessions/s), "
            f"best after epoch {train['best_epoch']:d} by validation HR@10."
        )
    return "\n".join(lines)


def _measured(values: dict[str, Any]) -> bool:
    """Whether there were skipped targets, with their percentile rank."""
    return bool(values.get("skipped_sessions")) and "skipped_percentile_rank" in values


def _skip_cells(values: dict[str, Any]) -> str:
    if not _measured(values):
        return f"{'-':>12}{'-':>10}"
    return f"{values['skipped_hr@10']:12.4f}{values['skipped_percentile_rank']:10.2f}"
