"""The fitted lines and ratios worked by hand, a small run from command line to plot, and what is refused."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from skipwise.benchmarks.__main__ import run
from skipwise.benchmarks.harness import written_dataset
from skipwise.benchmarks.harness.dataset_growth import Growth, Reading, read_datasets
from skipwise.benchmarks.harness.fitted_line import Line
from skipwise.benchmarks.harness.scale_cases import ScaleConfig
from skipwise.benchmarks.harness.synthetic import MemoryStore
from skipwise.benchmarks.harness.timing import Times
from skipwise.benchmarks.harness.written_dataset import write_dataset
from skipwise.benchmarks.scale import check_memory, make_report, reading_run
from skipwise.common.errors import UserError
from skipwise.datapipes.counts import train_counts
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.vocabulary import Vocabulary


def test_line_of_least_squares():
    exact = Line.through([1.0, 2.0, 4.0], [5.0, 7.0, 11.0])
    assert (exact.intercept, exact.slope) == (pytest.approx(3), pytest.approx(2))
    # Means 1 and 4/3; slope = sum of (x - 1)(y - 4/3) over sum of (x - 1)^2 = 2 / 2.
    noisy = Line.through([0.0, 1.0, 2.0], [1.0, 0.0, 3.0])
    assert (noisy.intercept, noisy.slope) == (pytest.approx(1 / 3), pytest.approx(1))
    assert Line.through([3.0], [8.0]) == Line(8.0, 0.0)


def test_line_of_least_squares_of_shares():
    """y = a + b x for (1, 1), (2, 4) with weights 1 and 1/4 passes through both; a third point pulls by its share."""
    assert Line.through([1.0, 2.0], [1.0, 4.0], relative=True) == Line(pytest.approx(-2), pytest.approx(3))
    # Multiples of (1, x) / y that sum to 0: at y = 1, 2, 2 and x = 0, 0, 1 the slope passes through the last point and
    # the intercept minimizes (a - 1)^2 + (a / 2 - 1)^2, so 2 (a - 1) + (a / 2 - 1) = 0.
    line = Line.through([0.0, 0.0, 1.0], [1.0, 2.0, 2.0], relative=True)
    assert (line.intercept, line.at(1.0)) == (pytest.approx(1.2), pytest.approx(2))
    assert line.farthest([0.0, 0.0, 1.0], [1.0, 2.0, 2.0]) == pytest.approx(2 / 1.2 - 1)


def test_costs_as_worked_by_hand():
    """2 ms and 10 µs a session on 1M tracks; a quarter more on 10M."""
    config = ScaleConfig(tracks=(10_000_000, 1_000_000), batches=(800, 1600))
    ms = {(1_000_000, 800): 10, (1_000_000, 1600): 18, (10_000_000, 800): 12.5, (10_000_000, 1600): 22.5}
    times = {case: Times((value / 1000,) * 3) for case, value in ms.items()}
    report = make_report(config, times, {case: [value / 500] * 3 for case, value in ms.items()}, {})
    assert report.samples == {
        f"rate on 10,000,000 : 1,000,000 tracks, batch {batch}": pytest.approx([0.8] * 3) for batch in (800, 1600)
    }
    assert "1,000,000 tracks: 2.0 ms + 10.0 µs a session." in report.notes
    assert "Batch 800: +2.5 ms for ten times the tracks." in report.notes
    rate = "Batch 800: 10,000,000 tracks run at 0.80 x the rate of 1,000,000, 0.80 x by CPU time (target: 0.9 at 256)."
    assert rate in report.notes
    assert [row[-1] for row in report.rows] == ["1.00", "1.00", "0.80", "0.80"]
    assert report.rows[0][:6] == ["1,000,000", "800", "10.0", "10.0", "20.0", "80,000"]
    assert report.variant == ""


def reading(sessions: int, wall: float, cpu: float, mib: int) -> Reading:
    return Reading(sessions, wall, cpu, mib << 20, [0.02, 0.01, 0.04], (mib + 9) << 20)


def test_growth_as_worked_by_hand():
    """1 s and 10 µs a session by the clock, half of that of the CPU; the median of three, and the most memory."""
    found = {
        200_000: [reading(200_000, wall, wall / 2, mib) for wall, mib in ((2, 400), (3, 410), (9, 405))],
        100_000: [reading(100_000, wall, wall / 2, mib) for wall, mib in ((2, 400), (1, 395), (7, 390))],
    }
    growth = Growth.of(found)
    assert growth == Growth([100_000, 200_000], [2, 3], [1, 1.5], [400, 410], [409, 419], [20, 20])
    assert growth.lines["wall"] == Line(pytest.approx(1), pytest.approx(1e-5))
    assert growth.lines["CPU"] == Line(pytest.approx(0.5), pytest.approx(5e-6))
    config = ScaleConfig(tracks=(2000,), batches=(16,), dim=16, sessions=(100_000, 200_000), table_precision="fp16")
    report = make_report(config, {(2000, 16): Times((1.0,))}, {(2000, 16): [1.0]}, found)
    assert report.variant == "fp16-sessions"
    wanted = "An epoch takes 1.000 s + 10.00 µs a session (wall); no size is further than 0 % from that line."
    assert wanted in report.notes
    assert "200,000 sessions take 1.025 x the memory of 100,000." in report.notes
    # The default recipe reads 16 lanes, and windows of 8 row groups of 4096 sessions.
    assert "Up to 557,056 sessions are in memory: 17 windows of 8 row groups." in report.notes
    assert report.samples["rate on 200,000 : 100,000 sessions"] == pytest.approx([2.0, 2 / 3, 14 / 9])
    assert len(report.figures["datasets"]) == 6


def test_written_datasets_repeat_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(written_dataset, "BLOCK", 40)
    write_dataset(tmp_path / "data", 30, 100, 12)
    store = SessionStore(str(tmp_path / "data"))  # compares with the manifest
    whole = store.read(np.arange(len(store.group_sizes)))  # and with the checksums
    block = MemoryStore(40, 30, 12).read(np.zeros(1, dtype=np.int64))
    assert len(store) == 100 == len(np.diff(whole.offsets))
    plays = [block.tracks, block.tracks, block.tracks[: block.offsets[20]]]
    assert whole.tracks.tolist() == np.concatenate(plays).tolist()
    counted = Counter(whole.tracks.tolist())
    assert train_counts(store, held_out=0).tolist() == [counted[track] for track in range(30)]
    Vocabulary.of(store).check()


def test_small_run(tmp_path: Path):
    file = tmp_path / "scale.json"
    words = ["--tracks", "2000", "4000", "--batches", "32", "16", "--dim", "16", "--rounds", "2", "--warmup", "1"]
    words += ["--table-precision", "fp16", "--sessions", "600", "--readings", "1"]
    run(["scale", *words, "--output", str(tmp_path), "--json", str(file)])
    content = json.loads(file.read_text())
    cases = {(case["tracks"], case["batch"]): case["seconds"] for case in content["cases"]}
    assert set(cases) == {(2000, 16), (2000, 32), (4000, 16), (4000, 32)}
    assert all(len(seconds) == 2 for seconds in cases.values())
    assert all(len(case["cpu_seconds"]) == 2 and min(case["cpu_seconds"]) > 0 for case in content["cases"])
    ratio = content["samples"]["rate on 4,000 : 2,000 tracks, batch 16"]
    assert ratio == pytest.approx(
        [small / large for small, large in zip(cases[2000, 16], cases[4000, 16], strict=True)]
    )
    (read,) = content["datasets"]
    assert read["sessions"] == 600 and len(read["step_seconds"]) == 20
    # Python with torch takes some 100 MiB at least; a trained table more than none.
    assert 100 << 20 < read["peak_bytes"] <= read["training_peak_bytes"]
    assert next(tmp_path.glob("*-scale-fp16-sessions.png")).read_bytes().startswith(b"\x89PNG")


def test_rows_of_the_precision_asked_for():
    config = ScaleConfig(tracks=(4000, 2000), batches=(16,), dim=16, table_precision="fp16")
    made = reading_run(config)
    assert (made.table.precision, made.table.dim, made.data.batch_size) == ("fp16", 16, 256)


def test_refusals():
    # 10^10 rows of 128 numbers of 4 bytes and 4 bytes of the optimizer's, or of 2 and 4.
    with pytest.raises(UserError, match="--tracks are tables of 4805.6 GiB together .* fewer or smaller .*fp16$"):
        check_memory(ScaleConfig(tracks=(10**10,)))
    with pytest.raises(UserError, match="--tracks are tables of 2421.4 GiB together .* ask for fewer or smaller ones$"):
        check_memory(ScaleConfig(tracks=(10**10,), table_precision="fp16"))
    with pytest.raises(ValueError, match="--sessions must be distinct"):
        ScaleConfig(sessions=(10, 0))
    with pytest.raises(UserError, match="--sessions take up to 1000000.0 GB and .* another disk in TMPDIR"):
        read_datasets(reading_run(ScaleConfig(sessions=(10**13,))), (10**13,), 2000, 1)
    with pytest.raises(ValueError, match="--batch 20 must be a multiple"):
        ScaleConfig(batches=(16, 20))
    with pytest.raises(ValueError, match="--tracks must be distinct"):
        ScaleConfig(tracks=(5, 5))
    with pytest.raises(UserError, match="--tracks 900 are too few"):
        run(["scale", "--tracks", "5000", "900"])
