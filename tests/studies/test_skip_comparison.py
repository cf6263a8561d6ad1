"""A comparison's figures of skips: only columns that some row has, differences to the baseline, and the best marked."""

from pathlib import Path

import pytest
import torch

from skipwise.studies.comparison import Row
from skipwise.studies.skip_comparison import compare_skips, share, skips_markdown
from skipwise.training.evaluation.records import TargetRankWriter

SESSIONS = 60


def write(folder: Path, won: int, told: float | None) -> tuple[Path, ...]:
    """A run: each session a skipped and a kept target, `won` of 2 pairs by ranking; P(kept) of the kept one `told`, of
    the skipped one a half less."""
    number = torch.arange(2 * SESSIONS)
    skipped = number % 2 == 0
    columns = dict.fromkeys(("rank", "ties", "candidates", "target"), number * 0 + 1)
    columns |= {"session": number // 2, "position": number % 2 + 1, "skips": skipped * 2, "repeated": number < 0}
    columns |= {"pairs": skipped * 2, "pairs_won": skipped * float(won)}
    if told is not None:
        columns |= {"kept_probability": told - skipped * 0.5, "keep_pairs_won": skipped * 2.0}
    with TargetRankWriter(folder, "served", "test") as record:
        record.write(**columns)
    return (folder,)


def test_figures_and_differences_by_hand(tmp_path: Path):
    rows = [
        Row("plain", "S-", "g", write(tmp_path / "a", 1, None)),
        Row("keep", "S+", "g", write(tmp_path / "b", 2, 0.9), "plain"),
        Row("refit", "S*", "g", write(tmp_path / "c", 2, 0.6), "keep", refit=True),
    ]
    found = compare_skips(rows, "served")
    assert (found["targets"], found["pairs"]) == (2 * SESSIONS, 2 * SESSIONS)
    assert "next_skip_auc" not in found["rows"]["plain"] and found["rows"]["keep"]["next_skip_auc"]["mean"] == 1
    assert found["rows"]["plain"]["pairs_in_order"]["mean"] == 0.5
    assert found["rows"]["keep"]["pairs_in_order"]["difference"] == [0.5, 0.5, 0.5]
    # Kept ones are told .9, skipped ones .4.
    assert found["rows"]["keep"]["next_skip_ece"]["mean"] == pytest.approx((0.1 + 0.4) / 2)
    assert "difference" not in found["rows"]["refit"]["pairs_in_order"], "its baseline holds out more"
    text = "\n".join(skips_markdown(found))
    assert "| model | next-skip AUC | accuracy | ECE | pairs by ranking | pairs by P(kept) |" in text
    assert "| S- |  |  |  | .5000 [.5000, .5000] |  |" in text
    assert "| *less S-* |  |  |  | *+.5000 [+.5000, +.5000]* |  |" in text
    assert "**.2500** [" in text and "**.3500**" not in text, "the smallest calibration error is the best"


def test_a_comparison_without_figures_says_nothing(tmp_path: Path):
    rows = [Row("plain", "S-", "g", write(tmp_path / "a", 1, None))]
    assert list(compare_skips(rows, "served")["rows"]) == ["plain"]
    number = torch.arange(3)
    columns = dict.fromkeys(("session", "rank", "ties", "candidates", "skips", "position", "target"), number)
    with TargetRankWriter(tmp_path / "a", "served", "test") as record:
        record.write(**columns, repeated=number < 0)
    assert compare_skips(rows, "served") == {} and skips_markdown({}) == []


def test_shares_have_no_zero_before_the_point():
    assert [share(0.25), share(-0.05, "+"), share(0.05, "+"), share(1.0), share(10.5)] == [
        *(".2500", "-.0500", "+.0500", "1.0000", "10.5000")
    ]
