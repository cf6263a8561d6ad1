"""What a report is made of: curves from the file, groups, paired differences, main directions, bytes that stay."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipwise.common.errors import UserError
from skipwise.components.cli import parse, run_paths
from skipwise.components.report import ReportConfig
from skipwise.models.config import LossConfig
from skipwise.studies.curves import read_curves
from skipwise.studies.run_report import charts, run_sections
from skipwise.studies.run_report.breakdowns import OTHERS, Measured, joint_labels, series_by_group
from skipwise.studies.run_report.charts import picture, thinned
from skipwise.studies.run_report.report_page import TEMPLATES
from skipwise.studies.run_report.result_sections import differences, hit_rates, limits, not_comparable
from skipwise.studies.run_report.run_sections import Picture
from skipwise.studies.run_report.table_sample import main_directions
from skipwise.training.config import RunConfig, TrainConfig
from skipwise.training.evaluation.records import SKIP_COLUMNS, TargetRanks


def ranks_of(rank: list[int], **changes: list[int]) -> TargetRanks:
    number = np.arange(len(rank))
    columns = {"rank": rank, "ties": number * 0, "candidates": number * 0 + 100, "skips": number * 0}
    columns |= {"position": number * 0 + 4, "target": number, "session": number, "repeated": number < 0}
    columns |= dict.fromkeys(SKIP_COLUMNS, number * 0)
    return TargetRanks(**{name: np.array(values) for name, values in (columns | changes).items()})


STEP = {"kind": "train", "step": 2, "epoch": 1, "loss": 3.0, "nll": 2.0, "nce": 4.0, "sessions_per_s": 9.0}
EPOCH = {"kind": "validation", "step": 2, "epoch": 1, "hr@1": 0.1, "hr@10": 0.5}


def test_curves_as_they_were_written_but_for_a_line_cut_off(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    assert len(read_curves(file)["train"]["step"]) == 0
    lines = [STEP, EPOCH, STEP | {"step": 4, "loss": 1.0}, STEP | {"kind": "refit"}]
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"kind": "tra')
    curves = read_curves(file)
    assert curves["train"]["step"].tolist() == [2, 4] and curves["train"]["loss"].tolist() == [3, 1]
    assert curves["validation"]["hr@10"].tolist() == [0.5] and curves["refit"]["nce"].tolist() == [4]
    assert curves["train"]["keep"].tolist() == [0, 0], "a run without a keep head"
    file.write_text(json.dumps(STEP | {"keep": 0.75}))
    curves = read_curves(file)
    directory = SimpleNamespace(config=RunConfig(loss=LossConfig(keep=0.5, context="none")))
    (picture,) = run_sections.curves([SimpleNamespace(curves=curves, label="A", directory=directory)])
    assert picture.caption.endswith("before they are weighted, the next track's (nll), the keep head's (keep).")
    assert curves["train"]["keep"].tolist() == [0.75]


def test_the_size_of_a_test_and_what_served_allows():
    ranks = ranks_of([1, 2, 3, 4], session=[0, 0, 1, 2], repeated=[True, False, False, False])
    runs = [
        SimpleNamespace(
            label=label,
            ranks={("served", "test"): ranks},
            baselines={},
            directory=SimpleNamespace(config=RunConfig(train=TrainConfig(refit=refit))),
        )
        for label, refit in (("A", False), ("B", True))
    ]
    size, rows = hit_rates(runs)["served"]
    assert size == "4 targets of 3 sessions" and [row[0] for row in rows] == ["run A", "run B"]
    line = (
        "1 of the test's 4 targets were played before in their session, so that no hit rate by served is above 0.7500."
    )
    both, refit = limits(runs)
    assert both == f"Run A and run B: {line}"
    assert refit.startswith("Refit on the validation targets, before the test: run B")
    assert limits(runs[:1]) == [f"Run A: {line}"]


@pytest.mark.parametrize(
    "line", ["{", "[]", "5", '{"kind": "other"}', json.dumps(STEP | {"loss": "low"}), '{"kind": []}', "[" * 50_000]
)
def test_a_line_that_train_did_not_write_is_refused(line: str, tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    file.write_text(f"{line}\n{json.dumps(STEP)}\n")
    with pytest.raises(UserError, match=r"metrics.jsonl, line 1: .* is not a line that train wrote: remove it"):
        read_curves(file)


@pytest.mark.parametrize("values", [(float("nan"), float("inf")), (1e308, -1e308), (10**30, 5), (0, 0)])
def test_losses_that_ran_away_are_gaps(values: tuple[float, float], tmp_path: Path, recwarn):
    file = tmp_path / "metrics.jsonl"
    lines = [STEP | {"step": step, "loss": value, "sessions_per_s": value} for step, value in enumerate(values)]
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    run = SimpleNamespace(curves=read_curves(file), label="A")
    for chart in (charts.losses, charts.rates):
        assert chart([run]).startswith("data:image/svg")
    assert not recwarn.list


@given(st.integers(1, 2000))
def test_a_long_curve_is_thinned_to_means_of_its_stretches(length: int):
    curve = {"step": np.arange(length, dtype=float), "loss": np.full(length, 2.0)}
    short = thinned(curve, 50)
    assert len(short["step"]) == min(length, 50) and np.all(np.diff(short["step"]) > 0)
    assert np.allclose(short["loss"], 2)
    if length % 50 == 0:
        assert np.allclose(short["step"], curve["step"].reshape(50, -1).mean(axis=1))


def test_groups_by_hand():
    ranks = ranks_of([1, 50, 10, 11])
    (series,) = series_by_group([Measured("test", 0, 0, ranks)], [np.array(["a", "a", "b", "b"])])
    assert series.points["a"][0] == 0.5 and series.points["a"][3] == 2
    for mean, low, high, _ in series.points.values():
        assert low <= mean <= high
    assert series.points["a"][1:3] == (0, 1), "two sessions, one hit: a resample may hold either alone"


def test_points_of_several_targets_a_session():
    """Sessions 0 and 1 have three hits and one miss in group a: the mean of targets, the interval of two sessions."""
    ranks = ranks_of([1, 1, 1, 50, 50], session=[0, 0, 0, 1, 2])
    (series,) = series_by_group([Measured("test", 0, 0, ranks)], [np.array(["a", "a", "a", "a", "b"])])
    # The two sessions' shares of the ratio: 3/4 + (3 - 9/4) / 2 and 3/4 + (0 - 3/4) / 2.
    assert series.points["a"] == pytest.approx((0.75, 0.375, 1.125, 4))


def test_many_groups_are_thrown_together():
    labels = np.repeat([f"g{number:02}" for number in range(20)], np.arange(20) + 1)
    (series,) = series_by_group([Measured("test", 0, 0, ranks_of([1] * len(labels)))], [labels])
    assert len(series.points) == 11 and list(series.points)[-1] == OTHERS
    assert series.points[OTHERS][3] == sum(range(1, 11)) and "g19" in series.points


def test_runs_share_their_groups():
    """Alone, ten positions stand by themselves; twelve together are cut into fifths, the same for both."""
    first, second = ranks_of([1] * 10, position=list(range(10))), ranks_of([1] * 4, position=[3, 3, 10, 11])
    labels = joint_labels([first.position, second.position])
    # Fifths of the 14 positions 0 1 2 3 3 3 4 5 6 7 8 9 10 11.
    names = [["00-03"] * 4 + ["04-06"] * 3 + ["07-08"] * 2 + ["09-11"], ["00-03"] * 2 + ["09-11"] * 2]
    assert [one.tolist() for one in labels] == names


def test_differences_by_hand():
    first = ranks_of([1, 30, 5, 12], skips=[0, 1, 2, 3])
    second = ranks_of([1, 10, 25, 12], skips=[0, 1, 2, 3])
    found = differences(first, second)
    assert found["hr@10"].mean == 0 and found["hr@1"].mean == 0
    assert found["mrr"].mean == pytest.approx((1 / 10 - 1 / 30 + 1 / 25 - 1 / 5) / 4)
    # The two skipped targets: ranks 30 and 5 of 100 become 10 and 25, so 20 candidates more and 20 fewer come after.
    assert found["skip rank"].mean == pytest.approx(0, abs=1e-9)
    assert (found["skip rank"].low, found["skip rank"].high) == pytest.approx((-20, 20))
    assert "skip rank" not in differences(ranks_of([1]), ranks_of([2]))


def test_differences_of_several_targets_are_drawn_by_session():
    """Four identical targets a session are as good as one: an interval by targets would be half as wide."""

    def found(each: int):
        random, session = np.random.default_rng(0), np.repeat(np.arange(40), each)
        ranks = [np.repeat(random.integers(1, 30, 40), each) for _ in range(2)]
        skips, position = np.repeat(np.arange(40) % 4, each), np.arange(len(session))
        return differences(*(ranks_of(one, session=session, skips=skips, position=position) for one in ranks))

    one, four = found(1), found(4)
    assert four.keys() == one.keys() and "skip hr@10" in one
    for name, difference in one.items():
        assert vars(four[name]) == pytest.approx(vars(difference))


def test_what_was_measured_otherwise_is_not_compared():
    def run(label: str, ranks: TargetRanks | None, vocabulary: str = "v", **evaluate: int) -> SimpleNamespace:
        config = RunConfig(evaluate=type(RunConfig().evaluate)(**evaluate))
        directory = SimpleNamespace(config=config, record=SimpleNamespace(vocabulary_hash=vocabulary))
        return SimpleNamespace(
            label=label, directory=directory, ranks={} if ranks is None else {FULL: ranks, PAPER: ranks}
        )

    FULL, PAPER = ("full", "test"), ("paper", "test")
    plain = run("A", ranks_of([1, 2]))
    assert not_comparable(plain, run("B", ranks_of([2, 2])), "paper") == ""
    assert not_comparable(plain, run("B", None), "full") == "run B has not been measured"
    assert not_comparable(plain, run("B", ranks_of([1, 2]), "w"), "full") == "the runs' data have other tracks"
    assert not_comparable(plain, run("B", ranks_of([1])), "full") == "the runs were measured on other targets"
    for column in ("position", "target"):
        moved = run("B", ranks_of([1, 2], **{column: [7, 8]}))
        assert not_comparable(plain, moved, "full") == "the runs were measured on other targets"
    reseeded = run("B", ranks_of([1, 2]), seed=1)
    assert not_comparable(plain, reseeded, "paper") == "the runs' targets were ranked among other candidates"
    assert not_comparable(plain, reseeded, "full") == ""


def test_main_directions_of_a_known_plane():
    """Spread 3 along one axis and 1 along another, both of a space of five: found, in order, whatever the sign."""
    random = np.random.default_rng(0)
    plane = random.standard_normal((200, 2)) * [3, 1]
    plane -= plane.mean(axis=0)
    basis, _ = np.linalg.qr(random.standard_normal((5, 2)))
    places, share = main_directions(plane @ basis.T + 7)
    exact = plane @ np.linalg.svd(plane, full_matrices=False)[2].T
    assert share == pytest.approx(1)
    assert np.allclose(np.abs(places), np.abs(exact))
    again, _ = main_directions(-(plane @ basis.T))
    assert np.allclose(again, -places), "the signs follow from the directions, not from the rows"
    assert main_directions(np.ones((3, 4)))[1] == 0


def test_a_picture_is_the_same_whatever_the_user_has_set():
    def draw(axis) -> None:
        axis.plot([0, 1], [1, 2], label="$x$ \N{SNOWMAN}")
        axis.legend()

    plain = picture(draw)
    with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": None, "text.parse_math": True}):
        assert picture(draw) == plain
    assert plain.startswith("data:image/svg+xml;base64,")


def test_values_are_escaped():
    odd = "<script>\"&'"
    parts = TEMPLATES.get_template("parts.html").module
    pieces = [
        parts.table([odd], [], ""),
        parts.table([], [[odd]]),
        parts.table([], [[f"a\n{odd}"]]),
        parts.table([], [], odd),
        parts.pictures([Picture(odd, "", "")]),
        parts.pictures([Picture("data:,", odd, "")]),
        parts.pictures([Picture("data:,", "", odd)]),
    ]
    for piece in pieces:
        assert "<script>" not in piece and "&lt;script&gt;&#34;&amp;&#39;" in piece


def test_no_value_leaves_the_templates_unescaped():
    """`safe` stands behind literals of the template alone."""
    for name in TEMPLATES.list_templates():
        source = Path(TEMPLATES.get_template(name).filename).read_text()
        assert len(re.findall(r"\bsafe\b", source)) == len(re.findall(r"{{ '[^']*' \| safe if ", source))
        assert "autoescape" not in source


@pytest.mark.parametrize("words", [["--run", "a", "--run", "b"], ["--run", "a", "b"], ["--run=a", "--run=b"]])
def test_a_second_run_either_way(words: list[str]):
    assert run_paths(parse(ReportConfig, words, "skipwise report").run) == ("a", "b")


@pytest.mark.parametrize(("words", "number"), [([], 0), (["--run"], 0), (["--run", "a", "b", "--run", "c"], 3)])
def test_one_run_or_two(words: list[str], number: int, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        parse(ReportConfig, words, "skipwise report")
    assert f"--run must name one run or two, not {number}" in capsys.readouterr().err
