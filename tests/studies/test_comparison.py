"""A comparison of hand-made ranks, and what its Markdown says of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from skipwise.common.errors import UserError
from skipwise.studies.comparison import Row, compare
from skipwise.studies.comparison_files import _verdict, draw, table_markdown
from skipwise.training.evaluation.records import TargetRankWriter

N = 400


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """`write(name, ranks, sessions)` keeps ranks as a run does; every second target was skipped."""

    def run(name: str, ranks: list[int], first: int = 0, candidates: int = 1000) -> Path:
        number = torch.arange(len(ranks))
        with TargetRankWriter(tmp_path / name, "uniform", "test") as record:
            record.write(
                session=number + first,
                rank=torch.tensor(ranks),
                candidates=torch.full_like(number, candidates),
                skips=number % 2 * 2,
                position=number % 3 + 4,
                target=number % 7,
            )
        return tmp_path / name

    return run


def rows_of(write: Callable[..., Path]) -> list[Row]:
    """`good` is first in the sessions where `plain` is second; at its other seed it is as plain as that."""
    plain = [1, 2, 30, 15] * (N // 4)
    good = [1, 1, 30, 15] * (N // 4)
    return [
        Row("plain", "S-", "g", (write("p0", plain), write("p1", plain)), paper=(0.2, 0.3, 0.4, 0.5)),
        Row("good", "S+", "g", (write("g0", good), write("g1", plain)), "plain", paper=(0.3, 0.3, 0.5, 0.5)),
        Row("popularity", "popularity", "references", (write("pop", [50] * N),), reference=True),
        Row("markov", "Markov", "references", (write("mk", [11] * (N // 2) + [1] * (N // 2)),), reference=True),
    ]


def test_figures_by_hand(write):
    found = compare(rows_of(write), "uniform", {"length": lambda ranks: (ranks.position + 1).astype(str)})
    plain, good = found["rows"]["plain"], found["rows"]["good"]
    assert (plain["hr@1"]["mean"], plain["hr@5"]["mean"], plain["hr@20"]["mean"]) == (0.25, 0.5, 0.75)
    assert good["hr@1"]["mean"] == pytest.approx((0.5 + 0.25) / 2)
    assert good["hr@1"]["gain"] == pytest.approx(50)
    assert good["hr@1"]["over_seeds"] == pytest.approx(0.25 / 2**0.5)
    assert plain["hr@1"]["over_seeds"] == 0
    assert plain["ndcg@10"]["mean"] == pytest.approx((1 + 1 / np.log2(3)) / 4)
    assert plain["mrr"]["mean"] == pytest.approx((1 + 1 / 2 + 1 / 30 + 1 / 15) / 4)
    # Every second target was skipped: ranks 2 and 15 of 1000 others, kept ones 1 and 30.
    assert plain["skips"]["skipped"]["percentile_rank"] == pytest.approx((99.9 + 98.6) / 2)
    assert plain["skips"]["kept"]["percentile_rank"] == pytest.approx((100 + 97.1) / 2)
    assert plain["skips"]["skipped"]["hr@10"] == 0.5
    assert plain["skips"]["gap"][0] == pytest.approx(99.25 - 98.55)
    # A quarter of the targets, all of them skipped, come one place higher, at one seed of two.
    assert good["skips"]["gap_change"][0] == pytest.approx(0.1 / 2 / 2)
    assert good["skips"]["gap_change"][1] > 0 and "gap_change" not in plain["skips"]
    difference = good["hr@1"]["difference"]
    assert difference[0] == pytest.approx(0.125) and difference[1] < 0.125 < difference[2]
    assert good["hr@1"]["p_holm"] < 0.01 and good["hr@10"]["p"] == good["hr@10"]["p_holm"] == 1
    assert good["hr@1"]["p_seeds"] == pytest.approx(0.5), "one seed gains, one does not: t = 1, one degree of freedom"
    assert good["hr@10"]["p_seeds"] is None
    assert {name: group["sessions"] for name, group in plain["by"]["length"].items()} == {"5": 134, "6": 133, "7": 133}
    ranks, number = np.array([1, 2, 30, 15] * (N // 4)), np.arange(N)
    assert plain["by"]["length"]["5"]["hr@10"] == pytest.approx((ranks[number % 3 == 0] <= 10).mean())
    kept = ranks[(number % 3 == 0) & (number % 2 == 0)]
    assert plain["by"]["length"]["5"]["kept_sessions"] == len(kept)
    assert plain["by"]["length"]["5"]["kept_hr@10"] == pytest.approx((kept <= 10).mean())


def test_a_model_that_does_not_beat_the_best_reference_is_broken(write):
    found = compare(rows_of(write), "uniform")
    assert found["reference"] == "markov" and found["broken"] == ["plain", "good"]
    text = table_markdown([found], "T", [])
    assert "Broken, for it does not beat Markov in HR@10: `plain`, `good`." in text
    better = compare(rows_of(write)[:3], "uniform")
    assert better["reference"] == "popularity" and better["broken"] == []
    assert "Every model beats popularity" in table_markdown([better], "T", [])


def test_other_sessions_are_refused(write):
    rows = [Row("a", "A", "g", (write("a", [1, 2, 3]),)), Row("b", "B", "g", (write("b", [1, 2, 3], first=5),))]
    with pytest.raises(UserError, match="b was measured on other sessions than .*a: compare runs of one data set"):
        compare(rows, "uniform")


def test_other_candidates_are_refused(write):
    rows = [Row("a", "A", "g", (write("a", [1, 2]), write("b", [1, 2], candidates=100)))]
    with pytest.raises(UserError, match="b was ranked among other candidates than .*a: .*--evaluate.candidates"):
        compare(rows, "uniform")


def test_percentiles_of_a_vast_catalogue(write):
    """100 * 30,000,000 is more than an int32 holds."""
    found = compare([Row("a", "A", "g", (write("a", [30_000_001] * 2, candidates=60_000_000),))], "uniform")
    assert found["rows"]["a"]["skips"]["kept"]["percentile_rank"] == 50


def test_the_table_says_gain_best_and_the_papers_own(write):
    text = table_markdown([compare(rows_of(write), "uniform", {"length": lambda ranks: ranks.position})], "T", ["n"])
    lines = text.splitlines()
    assert lines[:3] == ["# T", "", "- n"]
    assert "| S- (`plain`) | 2 | .2500 | **.5000** | **.5000** | **.7500** | .4077 | .4000 |" in lines
    good = next(line for line in lines if line.startswith("| S+ (`good`)"))
    assert good.startswith("| S+ (`good`) | 2 | **.3750** (+50.0 %) | **.5000** (+0.0 %) | **.5000** (+0.0 %)")
    assert any("*.3000 (+50.0 %)* | *.3000 (+0.0 %)* | *.5000 (+25.0 %)*" in line for line in lines)
    assert any(
        line.startswith("| S+ | S- | HR@1 |") and line.endswith("| .500 | better with these seeds |") for line in lines
    )
    assert any(line.startswith("| S+ | S- | HR@10 |") and "no significant difference" in line for line in lines)
    assert "| HR@10 by length (sessions): all / kept targets | 4 (134) | 5 (133) | 6 (133) |" in lines
    assert not any("**" in line for line in lines if "`markov`" in line and "Broken" not in line)


def test_the_picture_is_a_png_of_a_readable_size(write, tmp_path: Path):
    from matplotlib.image import imread

    draw(compare(rows_of(write), "uniform"), tmp_path / "aside")
    height, width, _ = imread(tmp_path / "aside", format="png").shape
    assert width == 1200 and height > 200


def test_the_picture_takes_sessions_that_are_all_alike(write, tmp_path: Path):
    """Two seeds of three find every target: 2/3, but a mean of two thirds may be rounded past its interval."""
    runs = tuple(write(f"alike{seed}", [rank] * 100) for seed, rank in enumerate((1, 1, 50)))
    found = compare([Row("a", "A", "g", runs)], "uniform")
    hits = found["rows"]["a"]["hr@1"]
    assert hits["mean"] > hits["high"] == pytest.approx(2 / 3)
    draw(found, tmp_path / "aside")


@pytest.mark.parametrize(
    ("p_holm", "p_seeds", "difference", "said"),
    [
        (0.04, 0.04, 0.1, "better"),
        (0.04, 0.04, -0.1, "worse"),
        (0.04, 0.06, 0.1, "better with these seeds"),
        (0.04, None, -0.1, "worse with this seed"),
        (0.06, 0.01, 0.1, "no significant difference"),
    ],
)
def test_sessions_and_seeds_must_both_speak(p_holm: float, p_seeds: float | None, difference: float, said: str):
    assert _verdict({"p_holm": p_holm, "p_seeds": p_seeds, "difference": [difference, 0, 0]}) == said
