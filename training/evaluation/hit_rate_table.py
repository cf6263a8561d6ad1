"""A run's metrics as text: HR@K, NDCG and MRR of each protocol and split, and HR@10 by kind of target."""

from collections.abc import Mapping
from typing import Any

from skipwise.training.config import PROTOCOLS, RunConfig
from skipwise.training.evaluation.metrics import GROUPS, METRICS

_PROTOCOLS = {
    "served": "what is recommended, the whole catalogue without the session's own tracks: a repeated target is a miss",
    "full": "the whole catalogue",
    "paper": "at most {candidates:,} uniform tracks that the session does not contain",
}


def hit_rate_table(metrics: Mapping[Any, Any], config: RunConfig) -> str:
    """`metrics.json` as an aligned table; each row names its protocol, split and number of targets."""
    rows = [
        (protocol, split, values)
        for protocol in PROTOCOLS
        for split, values in metrics.get(protocol, {}).items()
        if "targets" in values
    ]
    lines = []
    if rows:
        columns = "".join(f"{column.upper():>8}" for column in METRICS)
        heads = "".join(f"{group:>9}" for group in GROUPS)
        lines.append(f"{'':{20 + len(columns)}}{'HR@10 of targets that are':>{len(heads)}}")
        lines.append(f"{'protocol':9}{'split':11}{columns}{heads}{'targets':>10}")
    for protocol, split, values in rows:
        cells = "".join(_cell(values[column], 8) for column in METRICS)
        cells += "".join(_cell(values[f"{group}_hr@10"], 9) for group in GROUPS)
        lines.append(f"{protocol:9}{split:11}{cells}{values['targets']:10d}")
    if rows:
        lines.append("Of skipped targets a lower HR@10 is better.")
        for protocol in dict.fromkeys(protocol for protocol, *_ in rows):
            lines.append(f"{protocol}: among {_PROTOCOLS[protocol].format(candidates=config.evaluate.candidates)}.")
    most = {split: max(of["targets"] for _, other, of in rows if other == split) for _, split, _ in rows}
    for protocol, split, values in rows:
        if left_out := most[split] - values["targets"]:
            lines.append(f"{protocol} {split}: without {left_out:d} targets of sessions that hold the whole catalogue.")
    first_of_split = {row[1]: row for row in reversed(rows)}
    for protocol, split, values in reversed(first_of_split.values()):
        counts = ", ".join(f"{values[f'{group}_targets']:d} {group}" for group in GROUPS)
        lines.append(f"{split}: of {values['targets']:d} targets {counts} (played before in their session).")
        if protocol == "served" and values["targets"]:
            lines[-1] = f"{lines[-1][:-1]}, so that no HR by served is above {ceiling(values):.4f}."
        if values.get("cold_targets"):
            cells = ", ".join(f"{column.upper()} {_cell(values[f'cold_{column}'])}" for column in METRICS)
            lines.append(
                f"{protocol} {split}: {values['cold_targets']:d} targets are cold, of tracks that training does not "
                f"play: {cells}."
            )
        if values.get("pairs") or values.get("next_skip_auc") is not None:
            lines.append(_order_of_skips(protocol, split, values))
    if any(metrics.get(protocol) for protocol in ("uniform", *PROTOCOLS)) and not rows:
        lines.append(
            f"The metrics are those of an older version: measure the run again with evaluate --run {config.run_dir}"
        )
    if rows and config.train.refit:
        lines.append(
            "validation: the model that chose the number of epochs. test: the refit, which was trained on the "
            "validation targets too."
        )
    if "train" in metrics:
        train = metrics["train"]
        lines.append(
            f"trained {train['epochs']:d} epochs{' and the refit' if config.train.refit else ''} in "
            f"{train['seconds']:.0f} s ({train['sessions_per_s']:.0f} sessions/s), best after epoch "
            f"{train['best_epoch']:d} by validation {train.get('selected_by', config.selection.name)}."
        )
        if train.get("starts_from_other_data"):
            lines.append(
                f"starts from {config.init_from}, trained on other data: where those hold the sessions measured here, "
                "it has seen their targets."
            )
    return "\n".join(lines)


def ceiling(values: Mapping[str, Any]) -> float:
    """The highest hit rate that `served` allows: the share of the targets that are new to their session."""
    return float(values["new_targets"] / values["targets"])


def _cell(value: float | None, width: int = 0) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.4f}"


def _order_of_skips(protocol: str, split: str, values: Mapping[str, Any]) -> str:
    said = []
    if values["next_skip_auc"] is not None:
        average = values.get("next_skip_maa")
        said.append(
            f"next skip foreseen with AUC {_cell(values['next_skip_auc'])}, accuracy "
            f"{_cell(values['next_skip_accuracy'])}{'' if average is None else f', MAA {_cell(average)}'}, calibration "
            f"error {_cell(values['next_skip_ece'])}"
        )
    if values["pairs"]:
        by_keep = values["keep_pairs_in_order"]
        also = "" if by_keep is None else f", {_cell(by_keep)} by P(kept)"
        said.append(
            f"of {values['pairs']:d} pairs of a kept track and a skipped one before it, "
            f"{_cell(values['pairs_in_order'])} are in order by the ranking{also}"
        )
    return f"{protocol} {split}: {'; '.join(said)}."
