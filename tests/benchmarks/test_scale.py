"""The fitted lines and ratios worked by hand, a small run from command line to plot, and what is refused."""

import json
from pathlib import Path

import pytest

from skipwise.benchmarks.__main__ import run
from skipwise.benchmarks.harness.config import ScaleConfig
from skipwise.benchmarks.harness.timing import Times
from skipwise.benchmarks.scale import Line, check_memory, make_report
from skipwise.common.errors import UserError


def test_line_of_least_squares():
    exact = Line.through([1.0, 2.0, 4.0], [5.0, 7.0, 11.0])
    assert (exact.intercept, exact.slope) == (pytest.approx(3), pytest.approx(2))
    # Means 1 and 4/3; slope = sum of (x - 1)(y - 4/3) over sum of (x - 1)^2 = 2 / 2.
    noisy = Line.through([0.0, 1.0, 2.0], [1.0, 0.0, 3.0])
    assert (noisy.intercept, noisy.slope) == (pytest.approx(1 / 3), pytest.approx(1))
    assert Line.through([3.0], [8.0]) == Line(8.0, 0.0)


def test_costs_as_worked_by_hand():
    """2 ms and 10 µs a session on 1M tracks; a quarter more on 10M."""
    config = ScaleConfig(tracks=(10_000_000, 1_000_000), batches=(800, 1600))
    ms = {(1_000_000, 800): 10, (1_000_000, 1600): 18, (10_000_000, 800): 12.5, (10_000_000, 1600): 22.5}
    report = make_report(config, {case: Times((value / 1000,) * 3) for case, value in ms.items()})
    assert report.samples == {
        f"rate on 10,000,000 : 1,000,000 tracks, batch {batch}": pytest.approx([0.8] * 3) for batch in (800, 1600)
    }
    assert "1,000,000 tracks: 2.0 ms + 10.0 µs a session." in report.notes
    assert "Batch 800: +2.5 ms for ten times the tracks." in report.notes
    assert "Batch 800: 10M tracks run at 0.80 x the rate of 1M (target: 0.9 at 256)." in report.notes
    assert [row[-1] for row in report.rows] == ["1.00", "1.00", "0.80", "0.80"]
    assert report.rows[0][:5] == ["1,000,000", "800", "10.0", "10.0", "80,000"]


def test_small_run(tmp_path: Path):
    file = tmp_path / "scale.json"
    words = ["--tracks", "2000", "4000", "--batches", "32", "16", "--dim", "16", "--rounds", "2", "--warmup", "1"]
    run(["scale", *words, "--output", str(tmp_path), "--json", str(file)])
    content = json.loads(file.read_text())
    cases = {(case["tracks"], case["batch"]): case["seconds"] for case in content["cases"]}
    assert set(cases) == {(2000, 16), (2000, 32), (4000, 16), (4000, 32)}
    assert all(len(seconds) == 2 for seconds in cases.values())
    ratio = content["samples"]["rate on 4,000 : 2,000 tracks, batch 16"]
    assert ratio == pytest.approx(
        [small / large for small, large in zip(cases[2000, 16], cases[4000, 16], strict=True)]
    )
    assert next(tmp_path.glob("*-scale.png")).read_bytes().startswith(b"\x89PNG")


def test_refusals():
    with pytest.raises(UserError, match="--tracks are tables of 4768.4 GiB together .* fewer or smaller"):
        check_memory(ScaleConfig(tracks=(10**10,)))
    with pytest.raises(ValueError, match="--batch 20 must be a multiple"):
        ScaleConfig(batches=(16, 20))
    with pytest.raises(ValueError, match="--tracks must be distinct"):
        ScaleConfig(tracks=(5, 5))
    with pytest.raises(UserError, match="--tracks 900 are too few"):
        run(["scale", "--tracks", "5000", "900"])
