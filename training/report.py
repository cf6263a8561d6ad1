"""The HR table, as text."""

from training.config import RunConfig

_COLUMNS = ("hr@1", "hr@5", "hr@10", "hr@20", "ndcg@10", "mrr")


def hit_rate_table(metrics: dict, config: RunConfig) -> str:
    """`metrics.json` as an aligned table; each row names its protocol, split and number of sessions."""
    heads = "".join(f"{column.upper():>9}" for column in _COLUMNS)
    lines = [f"{'protocol':10}{'split':12}{heads}{'sessions':>10}"]
    for protocol in ("uniform", "full"):
        for split, values in metrics.get(protocol, {}).items():
            cells = "".join(f"{values[column]:9.4f}" for column in _COLUMNS)
            lines.append(f"{protocol:10}{split:12}{cells}{values['sessions']:10d}")
    for protocol in ("uniform", "full"):
        for split, values in metrics.get(protocol, {}).items():
            if values.get("skipped_sessions"):
                lines.append(
                    f"{protocol} {split}: skipped targets come at percentile {values['skipped_percentile']:.2f} "
                    f"(HR@10 {values['skipped_hr@10']:.4f}, {values['skipped_sessions']} sessions), kept ones at "
                    f"{values['kept_percentile']:.2f} (HR@10 {values['kept_hr@10']:.4f}); 0 is first, 100 last."
                )
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
