"""What `prepare` warns of: each remedy that a warning names is taken, and silences it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from skipwise.common.errors import UserError
from skipwise.datapipes.prepare import PrepareConfig, prepare

START = 1_700_000_000
SITTINGS = [START + 86_400 * day + 200 * play for day in range(3) for play in range(5)]
"""Five plays a day, for three days."""


def warnings(folder: Path, times: list, capsys: pytest.CaptureFixture, users: int = 3, **options) -> list[str]:
    """What `prepare` warns of, of plays at these times by each of the users."""
    rows = [f"u{user},{at},t{user}{place}" for user in range(users) for place, at in enumerate(times)]
    (folder / "log.csv").write_text("\n".join(["who,at,what", *rows, ""]))
    names = {"session": "who", "track": "what", "order": "at"}
    files = {"input": (folder / "log.csv",), "output": folder / "data", "overwrite": True}
    try:
        prepare(PrepareConfig(**files, **{**names, **options}))
    except UserError as error:
        assert "no session is left" in str(error)
    return [line[9:] for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]


@pytest.mark.parametrize(("unit", "factor"), [("ms", 1_000), ("us", 1_000_000), ("ns", 1_000_000_000)])
def test_a_unit_that_fits_is_named(unit, factor, tmp_path, capsys):
    times = [at * factor for at in SITTINGS]
    said = warnings(tmp_path, times, capsys, gap="30m")
    assert said[0].endswith(f"and from 2023-11-14T22:13:20 to 2023-11-16T22:26:40 in {unit}: give --time-unit {unit}")
    assert said[1] == "--gap 30m cuts at 42 of 42 pauses between plays: raise it, or check --time-unit"
    assert warnings(tmp_path, times, capsys, gap="30m", time_unit=unit) == []
    (said,) = [
        line for line in warnings(tmp_path, SITTINGS, capsys, gap="30m", time_unit=unit) if "--time-unit s" in line
    ]
    assert f"in {unit}, and from 2023-11-14T22:13:20 to 2023-11-16T22:26:40 in s: give --time-unit s" in said


def test_a_time_that_counts_from_another_moment_is_meant_where_its_unit_is_given(tmp_path, capsys):
    """Yambda counts in steps of five seconds from a moment that is not said."""
    times = [(at - START) // 5 for at in SITTINGS]
    (said,) = [
        line for line in warnings(tmp_path, times, capsys, gap="30m") if "--time-unit s if that is meant" in line
    ]
    assert said.startswith("at runs from 1970-01-01T00:00:00 to 1970-01-01T09:38:40 in s: say what")
    assert warnings(tmp_path, times, capsys, gap="30m", time_unit="5s") == []


@pytest.mark.parametrize(
    ("tracks", "says"),
    [
        (("7", "8.0", "7.0", "9"), "1 ids of what occur with .0 behind them too"),
        (("7", "8.0", "1.00", "v1.0"), None),
        (("[1, 2]", "[3, 4]", "[5, 6]", "x"), "what holds lists written as text"),
        (("[1]", "a, b", "[5, 6]", "x"), None),
    ],
)
def test_ids_that_are_hardly_meant_are_told_of(tracks, says, tmp_path, capsys):
    rows = [f'u,{at},"{track}"\n' for at, track in enumerate(tracks)]
    (tmp_path / "log.csv").write_text("who,at,what\n" + "".join(rows))
    names = {"session": "who", "track": "what", "order": "at"}
    prepare(PrepareConfig(input=(tmp_path / "log.csv",), output=tmp_path / "data", **names))
    said = capsys.readouterr().err
    assert says in said if says else "warning" not in said


def test_digits_that_are_a_date_are_told_of_the_format(tmp_path, capsys):
    times = [f"{datetime.fromtimestamp(at, UTC):%Y%m%d%H%M%S}" for at in SITTINGS]
    assert any("how with --time-format" in line for line in warnings(tmp_path, times, capsys, gap="30m"))
    assert warnings(tmp_path, times, capsys, gap="30m", time_format="%Y%m%d%H%M%S") == []


def test_some_plays_without_a_time_are_counted(tmp_path, capsys):
    said = warnings(tmp_path, [0, *SITTINGS], capsys, gap="30m")
    assert said == [
        "3 of 48 plays are before 1990 or after tomorrow by at (it runs from 1970-01-01T00:00:00 to "
        "2023-11-16T22:26:40): correct these rows, or leave them out with --where"
    ]
    assert warnings(tmp_path, [0, *SITTINGS], capsys, gap="30m", where='"at" > 0') == []
    later = (datetime.now(UTC) + timedelta(days=2)).isoformat()
    assert "after tomorrow" in warnings(tmp_path, ["2023-11-15", "2023-11-15", later], capsys, sort=True)[0]


def test_a_gap_that_cuts_nothing_or_nearly_everything_is_told(tmp_path, capsys):
    assert warnings(tmp_path, SITTINGS[:5], capsys, gap="30m") == [
        "--gap 30m cuts nothing, as no pause is longer: check --time-unit, unless each who is one session"
    ]
    one = {"session": PrepareConfig.session, "user": "me"}
    assert warnings(tmp_path, SITTINGS[:5], capsys, gap="30m", users=1, **one) == [
        "--gap 30m cuts nothing, as no pause is longer: check --time-unit, unless each listener is one session"
    ]
    assert warnings(tmp_path, SITTINGS, capsys, users=1, **one) == [
        "1 of 1 sessions last longer than a day: cut at pauses with --gap 30m"
    ]
    assert warnings(tmp_path, SITTINGS, capsys, gap="1m")[0].startswith("--gap 1m cuts at 42 of 42 pauses")


@pytest.mark.parametrize("kind", ["s", "ms", "date"])
def test_sessions_of_days_are_told_how_to_cut(kind, tmp_path, capsys):
    write = {"s": str, "ms": lambda at: at * 1000, "date": lambda at: datetime.fromtimestamp(at, UTC).isoformat()}
    times = [write[kind](at) for at in SITTINGS]
    told = ["3 of 3 sessions last longer than a day: if who is a listener, cut at pauses with --gap 30m"]
    assert warnings(tmp_path, times, capsys) == told
    assert warnings(tmp_path, times, capsys, sort=True) == told
    assert warnings(tmp_path, times, capsys, gap="30m", time_unit=None if kind == "date" else kind) == []


def test_a_listener_who_never_pauses_is_told(tmp_path, capsys):
    times = np.arange(START, START + 86_401 + 1_700, 1_700).tolist()
    said = warnings(tmp_path, [*times, times[-1] + 9_999], capsys, users=1, gap="30m")
    assert said == [
        "1 of 2 sessions last longer than a day without a pause of 30m: leave them out with --drop-longer, or lower "
        "--gap"
    ]
    assert warnings(tmp_path, [*times, times[-1] + 9_999], capsys, users=1, gap="30m", drop_longer=50) == []


def test_long_sessions_and_positions_and_ids(tmp_path, capsys):
    """Places in a session and ids are no times, however far apart."""
    assert warnings(tmp_path, [*range(1, 102)], capsys) == [
        "more than half of the sessions have more than 100 plays: if who is a listener, cut at pauses with --gap 30m"
    ]
    assert warnings(tmp_path, [1, 10**6, 2 * 10**6], capsys) == []
    assert warnings(tmp_path, [(at * 1000) << 22 for at in SITTINGS], capsys) == []
    days = [f"2018-07-{day}" for day in (15, 15, 16)]
    assert warnings(tmp_path, days, capsys, sort=True) == []


def test_a_log_without_times_refuses_a_gap(tmp_path):
    (tmp_path / "pairs.txt").write_text("1 10\n1 11\n1 12\n")
    with pytest.raises(UserError, match=r"has no column of times or places, which --split time, --gap and"):
        prepare(PrepareConfig(input=(tmp_path / "pairs.txt",), output=tmp_path / "data", order="at", gap="30m"))
