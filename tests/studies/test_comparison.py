"""A comparison of hand-made ranks, and what its Markdown says of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from skipwise.common.errors import UserError
from skipwise.studies.comparison import Row, compare
from skipwise.studies.comparison_files import _unfinished, _verdict, draw, table_markdown
from skipwise.training.evaluation.records import TargetRankWriter

N = 400


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """`write(name, ranks)` keeps ranks as a run does, of `each` targets a session; every second target was skipped."""

    def run(
        name: str, ranks: list[int], first: int = 0, candidates: int = 1000, each: int = 1, **changes: torch.Tensor
    ) -> Path:
        number = torch.arange(len(ranks))
        columns = {
            "session": number // each + first,
            "rank": torch.tensor(ranks),
            "ties": torch.zeros_like(number),
            "candidates": torch.full_like(number, candidates),
            "skips": number % 2 * 2,
            "repeated": number % 5 == 0,
            "position": number % 3 + 4,
            "target": number % 7,
        }
        with TargetRankWriter(tmp_path / name, "paper", "test") as record:
            record.write(**columns | changes)
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
    found = compare(rows_of(write), "paper", {"length": lambda ranks: (ranks.position + 1).astype(str)})
    sizes = {name: found[name] for name in ("sessions", "targets", "repeated", "skipped", "candidates")}
    assert sizes == {"sessions": N, "targets": N, "repeated": N // 5, "skipped": N // 2, "candidates": 1000}
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
    assert {name: group["targets"] for name, group in plain["by"]["length"].items()} == {"5": 134, "6": 133, "7": 133}
    ranks, number = np.array([1, 2, 30, 15] * (N // 4)), np.arange(N)
    assert plain["by"]["length"]["5"]["hr@10"] == pytest.approx((ranks[number % 3 == 0] <= 10).mean())
    kept = ranks[(number % 3 == 0) & (number % 2 == 0)]
    assert plain["by"]["length"]["5"]["kept_targets"] == len(kept)
    assert plain["by"]["length"]["5"]["kept_hr@10"] == pytest.approx((kept <= 10).mean())


def test_a_model_that_does_not_beat_the_best_reference_is_broken(write):
    found = compare(rows_of(write), "paper")
    assert found["references"] == ["markov"] and found["broken"] == ["plain", "good"]
    text = table_markdown([found], "T", [])
    assert "Broken (HR@10 not significantly above Markov's): `plain`, `good`." in text
    better = compare(rows_of(write)[:3], "paper")
    assert better["references"] == ["popularity"] and better["broken"] == []
    assert "HR@10 of every model is significantly above popularity's." in table_markdown([better], "T", [])
    alone = compare(rows_of(write)[:2], "paper")
    assert alone["references"] == alone["broken"] == []
    assert "beat" not in table_markdown([alone], "T", []).partition("How to read")[0]


def test_a_model_that_finds_as_many_as_the_reference_does_not_beat_it(write):
    """Three sessions of 400 more are a gain that one resample in 20 does not show: the interval begins at zero."""
    reference, more = [1] * 30 + [50] * (N - 30), [1] * 33 + [50] * (N - 33)
    rows = [
        Row("same", "S", "g", (write("s", reference),)),
        Row("more", "M", "g", (write("m", more),)),
        Row("many", "L", "g", (write("l", [1] * 60 + [50] * (N - 60)),)),
        Row("ref", "R", "references", (write("r", reference),), reference=True),
    ]
    assert compare(rows, "paper")["broken"] == ["same", "more"]


def ranked_first(number: int) -> list[int]:
    return [1] * number + [50] * (N - number)


def test_rows_that_were_refit_are_compared_with_such_rows_alone(write):
    """HR@1 and HR@10 of each row are in its name, in percent."""
    refs = "references"
    rows = [
        Row("plain-20", "S", "g", (write("a", ranked_first(80)),)),
        Row("refit-60", "S+", "g", (write("b", ranked_first(240)),), "plain-20", refit=True),
        Row("refit-80", "S*", "g", (write("c", ranked_first(320)),), "refit-60", refit=True),
        Row("refit-30", "S-", "g", (write("d", ranked_first(120)),), "refit-60", refit=True),
        Row("weak-5", "W", "g", (write("w", ranked_first(20)),), "plain-20"),
        Row("low", "Markov", refs, (write("e", ranked_first(36)),), reference=True),
        Row("lower", "popularity", refs, (write("f", ranked_first(4)),), reference=True),
        Row("high", "Markov, refit", refs, (write("h", ranked_first(160)),), reference=True, refit=True),
        Row("higher", "kNN, refit", refs, (write("i", ranked_first(200)),), reference=True, refit=True),
    ]
    found = compare(rows, "paper")
    assert found["references"] == ["low", "higher"]
    # plain-20 beats the reference of its kind and not the other; refit-30 beats that of the other kind alone.
    assert found["broken"] == ["refit-30", "weak-5"]
    compared = {name for name, row in found["rows"].items() if "difference" in row["hr@1"] or "gain" in row["mrr"]}
    assert compared == {"refit-80", "refit-30", "weak-5"}
    assert found["rows"]["refit-80"]["hr@1"]["difference"][0] == pytest.approx(0.2)
    p_values = sorted(found["rows"][name][metric]["p"] for name in compared for metric in ("hr@1", "hr@10"))
    adjusted = [found["rows"][name][metric]["p_holm"] for name in compared for metric in ("hr@1", "hr@10")]
    assert adjusted == pytest.approx([6 * p_values[0]] * 6), "six tests were made"
    assert "gap_change" not in found["rows"]["refit-60"]["skips"] and "gap_change" in found["rows"]["weak-5"]["skips"]
    text = table_markdown([found], "T", [])
    assert "not significantly above Markov or kNN, refit's): `refit-30`, `weak-5`.**" in text
    assert "| S+ |  | HR@1 | .6000" in text and "| S* | S+ | HR@1 | .8000" in text
    # Without a reference of its kind a row is neither broken nor said to beat one.
    assert compare(rows[:7], "paper")["broken"] == ["weak-5"]


def flat(figures: dict | tuple, changes: dict | None = None) -> list[float]:
    """Figures one after another, without those that are missing."""
    values = (figures | (changes or {})).values() if isinstance(figures, dict) else figures
    pieces = [value if isinstance(value, list) else [value] for value in values if value is not None]
    return [float(value) for piece in pieces for value in piece]


def test_several_targets_a_session_are_one_draw(write):
    """Four identical targets a session: the figures and intervals of the session's one, not those of four sessions."""
    row, baseline = [1, 2, 30, 15] * (N // 4), [1, 30, 30, 15] * (N // 4)

    def rows(each: int) -> list[Row]:
        skips, position = torch.arange(N).repeat_interleave(each) % 2 * 2, torch.arange(N * each)
        runs = [
            write(f"{name}{each}", np.repeat(ranks, each).tolist(), each=each, skips=skips, position=position)
            for name, ranks in (("b", baseline), ("r", row))
        ]
        return [Row("b", "B", "g", (runs[0],)), Row("r", "R", "g", (runs[1],), "b")]

    one, four = (compare(rows(each), "paper") for each in (1, 4))
    assert (one["sessions"], one["targets"], four["sessions"], four["targets"]) == (N, N, N, 4 * N)
    mine, other = four["rows"]["r"], one["rows"]["r"]
    for metric in ("hr@1", "hr@10", "mrr"):
        assert flat(mine[metric]) == pytest.approx(flat(other[metric]))
    assert mine["hr@10"]["difference"][0] == pytest.approx(0.25) and mine["hr@1"]["p"] == 1
    for part in ("skipped", "kept", "gap", "gap_change"):
        kept = {"targets": 0}  # four times as many
        assert flat(mine["skips"][part], kept) == pytest.approx(flat(other["skips"][part], kept))


def test_figures_are_those_of_targets_not_of_sessions(write):
    """One session with nine hits and one with a miss: .9, though a session by itself would count a half."""
    session = torch.tensor([0] * 9 + [1])
    found = compare([Row("a", "A", "g", (write("a", [1] * 9 + [50], session=session),))], "paper")
    assert (found["sessions"], found["targets"]) == (2, 10)
    assert found["rows"]["a"]["hr@10"]["mean"] == pytest.approx(0.9)


def test_a_tie_is_an_expected_value(write):
    """First with three others: a quarter of the orders put it first; a target that cannot be recommended is a miss."""
    ties = torch.tensor([3, 0, 0, 0])
    found = compare([Row("a", "A", "g", (write("a", [1, 50, 0, 0], ties=ties),))], "paper")["rows"]["a"]
    assert found["hr@1"]["mean"] == pytest.approx(0.25 / 4) and found["hr@5"]["mean"] == pytest.approx(0.25)
    assert found["mrr"]["mean"] == pytest.approx(((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4 + 1 / 50) / 4)


def test_runs_whose_best_epoch_is_the_last_are_named():
    runs = {name: {"best_is_last": name != "patient"} for name in ("capped", "patient", "short")}
    (note,) = _unfinished(runs)
    assert "`capped`, `short`" in note and "patient" not in note and "raise train.epochs by --config" in note
    assert _unfinished({"patient": runs["patient"]}) == ["no run's best epoch is its last one"]


def test_other_sessions_are_refused(write):
    rows = [Row("a", "A", "g", (write("a", [1, 2, 3]),)), Row("b", "B", "g", (write("b", [1, 2, 3], first=5),))]
    with pytest.raises(UserError, match="b was measured on other targets than .*a: compare runs of one data set"):
        compare(rows, "paper")


@pytest.mark.parametrize("column", ["position", "target"])
def test_other_targets_of_the_same_sessions_are_refused(write, column: str):
    runs = [write("a", [1, 2, 3]), write("b", [1, 2, 3], **{column: torch.tensor([5, 6, 7])})]
    with pytest.raises(UserError, match="b was measured on other targets than .*a: .*--evaluate.positions"):
        compare([Row("a", "A", "g", tuple(runs))], "paper")


def test_other_candidates_are_refused(write):
    rows = [Row("a", "A", "g", (write("a", [1, 2]), write("b", [1, 2], candidates=100)))]
    with pytest.raises(UserError, match="b was ranked among other candidates than .*a: .*--evaluate.candidates"):
        compare(rows, "paper")


def test_percentiles_of_a_vast_catalogue(write):
    """100 * 30,000,000 is more than an int32 holds."""
    found = compare([Row("a", "A", "g", (write("a", [30_000_001] * 2, candidates=60_000_000),))], "paper")
    assert found["rows"]["a"]["skips"]["kept"]["percentile_rank"] == 50


def test_the_table_says_gain_best_and_the_papers_own(write):
    text = table_markdown([compare(rows_of(write), "paper", {"length": lambda ranks: ranks.position})], "T", ["n"])
    lines = text.splitlines()
    assert lines[:3] == ["# T", "", "- n"]
    assert (
        "400 test targets of 400 sessions, 200 of them skipped and 80 played before in their session, each among "
        "uniform tracks that the session does not contain (median 1,000 others)."
    ) in lines
    assert "| S- (`plain`) | 2 | .2500 | **.5000** | **.5000** | **.7500** | .4077 | .4000 |" in lines
    good = next(line for line in lines if line.startswith("| S+ (`good`)"))
    assert good.startswith("| S+ (`good`) | 2 | **.3750** (+50.0 %) | **.5000** (+0.0 %) | **.5000** (+0.0 %)")
    assert any("*.3000 (+50.0 %)* | *.3000 (+0.0 %)* | *.5000 (+25.0 %)*" in line for line in lines)
    assert any(
        line.startswith("| S+ | S- | HR@1 |") and line.endswith("| .500 | better with these seeds |") for line in lines
    )
    assert any(line.startswith("| S+ | S- | HR@10 |") and "no significant difference" in line for line in lines)
    assert "| HR@10 by length (targets): all / kept targets | 4 (134) | 5 (133) | 6 (133) |" in lines
    assert not any("**" in line for line in lines if "`markov`" in line and "Broken" not in line)


def test_the_table_says_what_served_allows(write):
    found = compare(rows_of(write), "paper")
    text = table_markdown([found | {"protocol": "served"}], "T", [])
    assert "(median 1,000 others). No hit rate can be above .8000, the share of those that were not." in text
    assert (
        "| value, 95 % interval over sessions | over seeds ± | difference, 95 % interval over sessions, paired |"
        in text
    )


def test_the_picture_is_a_png_of_a_readable_size(write, tmp_path: Path):
    from matplotlib.image import imread

    draw(compare(rows_of(write), "paper"), tmp_path / "aside")
    height, width, _ = imread(tmp_path / "aside", format="png").shape
    assert width == 1200 and height > 200


def test_the_picture_marks_the_baseline_to_beat(write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever its place: here it is the last of five."""
    from matplotlib.axes import Axes

    marked = []
    monkeypatch.setattr(Axes, "axvline", lambda axis, value, **style: marked.append((value, style["label"])))
    references = [
        Row(f"r{share}", f"R{share}", "references", (write(f"r{share}", ranked_first(4 * share)),), reference=True)
        for share in (1, 2, 3, 4, 20)
    ]
    rows = [Row("a", "A", "g", (write("a", ranked_first(200)),)), *references]
    draw(compare(rows, "paper"), tmp_path / "aside")
    assert marked == [(0.2, "R20"), (0.2, "R20")], "one line a metric"


def test_the_picture_takes_sessions_that_are_all_alike(write, tmp_path: Path):
    """Two seeds of three find every target: 2/3, but a mean of two thirds may be rounded past its interval."""
    runs = tuple(write(f"alike{seed}", [rank] * 100) for seed, rank in enumerate((1, 1, 50)))
    found = compare([Row("a", "A", "g", runs)], "paper")
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
