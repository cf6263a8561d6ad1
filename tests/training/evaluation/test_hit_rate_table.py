"""The HR table as text: kinds of targets beside HR@K, and no figure of another version."""

from dataclasses import replace
from typing import Any

import torch

from skipwise.training.config import RunConfig, TrainConfig
from skipwise.training.evaluation.hit_rate_table import hit_rate_table
from skipwise.training.evaluation.rank_metrics import RankMetrics


def measured(skips: list[int]) -> dict[str, Any]:
    """Ranks 1, 2, 3 ... of sessions 0, 1, 2 ..., the first one repeated."""
    metrics, number = RankMetrics(), torch.arange(len(skips))
    repeated = number == 0
    nothing = torch.zeros_like(number)
    metrics.update(number, number + 1, nothing, nothing + 9, torch.tensor(skips), repeated)
    return metrics.compute()


def lines_of(**protocols: dict) -> list[str]:
    return hit_rate_table({name: {"test": values} for name, values in protocols.items()}, RunConfig()).splitlines()


def test_a_row_a_protocol_and_split():
    above, head, served, full, *notes = lines_of(full=measured([0, 1, 2, 0]), served=measured([0, 1, 2, 0]))
    assert above.rstrip() == above and above.split() == "HR@10 of targets that are".split()
    assert len(above) == head.index("repeated") + len("repeated") and above.index("HR@10") >= head.index("MRR") + 3
    assert head.split() == "protocol split HR@1 HR@5 HR@10 HR@20 NDCG@10 MRR kept skipped new repeated targets".split()
    assert served.split()[:5] == ["served", "test", "0.2500", "1.0000", "1.0000"] and served.split()[-1] == "4"
    assert full.startswith("full     test ") and max(map(len, (head, served, full))) <= 115
    said = "test: of 4 targets 2 kept, 2 skipped, 3 new, 1 repeated (played before in their session)"
    assert notes[-1] == f"{said}, so that no HR by served is above 0.7500."
    assert lines_of(full=measured([0, 1, 2, 0]))[-1] == f"{said}.", "full ranks repeated targets too"
    assert any("a repeated target is a miss" in note for note in notes)
    assert not any("paper" in note for note in notes), "it was not measured"


def test_skips_foreseen_and_in_order_are_a_sentence():
    foreseen = {"next_skip_auc": 0.81, "next_skip_accuracy": 0.75, "next_skip_ece": 0.0149}
    pairs = {"pairs": 12, "pairs_in_order": 0.25, "keep_pairs_in_order": None}
    nothing = dict.fromkeys(foreseen)
    both = lines_of(full=measured([0]) | foreseen | pairs | {"keep_pairs_in_order": 0.625})[-1]
    assert both == (
        "full test: next skip foreseen with AUC 0.8100, accuracy 0.7500, calibration error 0.0149; of 12 pairs of a "
        "kept track and a skipped one before it, 0.2500 are in order by the ranking, 0.6250 by P(kept)."
    )
    assert lines_of(full=measured([0]) | nothing | pairs)[-1].endswith("it, 0.2500 are in order by the ranking.")
    alone = lines_of(full=measured([0]) | foreseen | {"next_skip_maa": 0.625, "pairs": 0})[-1]
    assert alone.endswith("accuracy 0.7500, MAA 0.6250, calibration error 0.0149.")
    assert "in order" not in "".join(lines_of(full=measured([0]) | nothing | {"pairs": 0}))


def test_a_kind_without_a_target_has_a_dash():
    _, _, row, *_, sentence = lines_of(paper=measured([1, 2]))
    assert row.split()[8:10] == ["-", "1.0000"]
    assert "of 2 targets 0 kept, 2 skipped, 1 new, 1 repeated" in sentence


def test_targets_without_candidates_are_counted():
    without = "paper test: without 1 targets of sessions that hold the whole catalogue."
    assert without in lines_of(served=measured([0, 1, 2]), paper=measured([0, 1]))
    assert without not in lines_of(served=measured([0, 1]), paper=measured([0, 1]))


def test_metrics_of_an_older_version_are_not_shown():
    old = {"hr@1": 0.1, "hr@5": 0.2, "hr@10": 0.3, "hr@20": 0.4, "ndcg@10": 0.25, "mrr": 0.15, "sessions": 7}
    for protocol in ("uniform", "full"):
        (line,) = lines_of(**{protocol: old})
        assert line.startswith("The metrics are those of an older version: measure the run again with evaluate --run")


def test_the_best_epoch_names_what_chose_it():
    train = {"epochs": 3, "seconds": 2.0, "sessions_per_s": 10.0, "best_epoch": 2, "selected_by": "full NDCG@10"}
    assert hit_rate_table({"train": train}, RunConfig()).endswith("best after epoch 2 by validation full NDCG@10.")


def test_which_model_a_refit_runs_rows_are_of():
    metrics = {"served": {"validation": measured([0, 1]), "test": measured([0, 1])}}
    said = "validation: the model that chose the number of epochs. test: the refit, which"
    plain, refit = (replace(RunConfig(), train=TrainConfig(refit=refit)) for refit in (False, True))
    assert said in hit_rate_table(metrics, refit) and said not in hit_rate_table(metrics, plain)


def test_splits_stand_below_as_in_the_rows():
    metrics = {name: {"validation": measured([0, 1]), "test": measured([0])} for name in ("served", "full")}
    lines = hit_rate_table(metrics, RunConfig()).splitlines()
    assert [line.split()[1] for line in lines[2:6]] == ["validation", "test"] * 2
    assert [line.split()[2] for line in lines if line.startswith(("validation: of", "test: of"))] == ["2", "1"]
