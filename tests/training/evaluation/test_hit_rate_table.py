"""The HR table as text: skips beside HR@K, and no figure of another convention."""

from skipwise.training.config import RunConfig
from skipwise.training.evaluation.hit_rate_table import hit_rate_table

MEANS = {"hr@1": 0.1, "hr@5": 0.2, "hr@10": 0.3, "hr@20": 0.4, "ndcg@10": 0.25, "mrr": 0.15, "sessions": 7}
KEPT = {"kept_percentile_rank": 60.0, "kept_hr@10": 0.4, "kept_sessions": 4}
SKIPS = {"skipped_percentile_rank": 12.5, "skipped_hr@10": 0.2, "skipped_sessions": 3} | KEPT
OLD = {"skipped_percentile": 87.5, "skipped_hr@10": 0.2, "skipped_sessions": 3}


def lines_of(**splits: dict) -> list[str]:
    return hit_rate_table({"uniform": splits}, RunConfig()).splitlines()


def test_skipped_figures_stand_in_the_row_of_hr():
    head, row, *rest = lines_of(test=MEANS | SKIPS)
    assert head.split("  ")[-1].strip() == "sessions" and "skip HR@10  skip pct" in head
    assert row.split() == ["uniform", "test", *"0.1000 0.2000 0.3000 0.4000 0.2500 0.1500 0.2000 12.50 7".split()]
    assert max(len(head), len(row)) <= 110
    assert rest[0].startswith("uniform test: 3 targets were skipped; of the 4 kept ones HR@10 is 0.4000")
    assert any("100 is first, 0 last); lower is better" in line for line in rest)


def test_data_without_skips_has_no_such_columns():
    text = "\n".join(lines_of(test=MEANS | SKIPS | {"skipped_sessions": 0}))
    assert "skip" not in text


def test_an_older_convention_is_left_out_with_a_sentence():
    head, validation, test, *rest = lines_of(validation=MEANS | SKIPS, test=MEANS | OLD)
    assert test.split()[-3:] == ["-", "-", "7"] and validation.split()[-3:] == ["0.2000", "12.50", "7"]
    assert not any("87.5" in line for line in (head, test, *rest))
    assert any("from the other end: evaluate again" in line for line in rest)
