"""Skips from what logs hold, and what is not known of them."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skipwise.common.errors import UserError
from skipwise.datapipes.manifest import Manifest
from skipwise.datapipes.prepare import PrepareConfig, prepare
from skipwise.datapipes.sessions import SessionStore

NAMES = {"session": "user", "track": "track", "order": "at"}


def skips(tmp_path: Path, columns: dict[str, list], suffix: str = "csv", **options) -> list[int]:
    """The strengths of one session whose rows have these columns."""
    size = len(next(iter(columns.values())))
    table = {"user": ["u"] * size, "at": list(range(size)), "track": [f"t{at}" for at in range(size)], **columns}
    log = tmp_path / f"log.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table(table), log)
    else:
        rows = [table, *zip(*table.values(), strict=True)]
        log.write_text("\n".join(",".join("" if value is None else str(value) for value in row) for row in rows))
    prepare(PrepareConfig(input=(log,), output=tmp_path / "data", overwrite=True, context=(), **NAMES, **options))
    (found,) = pq.read_table(tmp_path / "data" / "sessions")["skips"].to_pylist()
    return found


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("columns", "options", "expected"),
    [
        ({"s": [True, None, False, None]}, {"skip": "s"}, [2, -1, 0, -1]),
        ({"done": [True, None, False]}, {"kept": "done"}, [0, -1, 2]),
        (
            {"hate": [True, False, False, None], "like": [False, True, False, None]},
            {"skip": "hate", "kept": "like"},
            [2, 0, -1, -1],
        ),
        ({"n": [0, 1, 2, 3, None]}, {"skip_strength": "n"}, [0, 1, 2, 3, -1]),
        ({"r": [1, 2.5, 3, 5, None]}, {"rating": "r"}, [2, 2, 0, 0, -1]),
        ({"pct": [10.0, 100.0, None]}, {"rating": "pct", "skip_below": 50}, [2, 0, -1]),
        (
            {"end": ["fwdbtn", "trackdone", None, "backbtn"]},
            {"reason": "end", "skip_reasons": ("fwdbtn", "backbtn")},
            [2, 0, -1, 2],
        ),
        ({"end": ["fwdbtn", "trackdone", None]}, {"reason": "end", "keep_reasons": ("trackdone",)}, [2, 0, -1]),
        (
            {"end": ["FwdBtn", "fwdbtn ", "\tFWDBTN", "TrackDone", "fwd btn", " " * 9]},
            {"reason": "end", "skip_reasons": (" Fwdbtn",), "keep_reasons": ("trackdone",)},
            [2, 2, 2, 0, -1, -1],
        ),
        ({"end": ["a", "\t\u2003" + " " * 9, "\u00e9"]}, {"reason": "end", "keep_reasons": ("a",)}, [0, -1, 2]),
        (
            {"event": ["like", "dislike", "o'clock", None]},
            {"reason": "event", "skip_reasons": ("dislike", "o'clock"), "keep_reasons": ("like",)},
            [0, 2, 2, -1],
        ),
        (
            {"event": ["like", "dislike", "seen"]},
            {"reason": "event", "skip_reasons": ("dislike",), "keep_reasons": ("like",)},
            [0, 2, -1],
        ),
        (
            {"ms": [29_999, 30_000, None, 0]},
            {"played": "ms", "skip_under": "30s", "played_unit": "ms"},
            [2, 0, -1, 2],
        ),
        ({"s": [29, 30, 31.5]}, {"played": "s", "skip_under": "0.5m", "played_unit": "s"}, [2, 0, 0]),
        ({"s": [29, 30, 31]}, {"played": "s", "skip_under": "30000ms", "played_unit": "s"}, [2, 0, 0]),
        (
            {"ms": [40, 60, 60, None, 1], "length": [100, 100, 0, 100, None]},
            {"played": "ms", "duration": "length", "skip_under": ".5"},
            [2, 0, -1, -1, -1],
        ),
        # The first that knows decides: a true flag, then the reason, then a false flag, then the time.
        (
            {
                "s": [None, None, None, False, True, False, False],
                "end": [None, "fwdbtn", "trackdone", "fwdbtn", "trackdone", "trackdone", None],
                "ms": [1000, 90_000, 1000, 90_000, 90_000, 1000, 1000],
            },
            {
                "skip": "s",
                "reason": "end",
                "skip_reasons": ("fwdbtn",),
                "played": "ms",
                "skip_under": "30s",
                "played_unit": "ms",
            },
            [2, 2, 0, 2, 2, 0, 0],
        ),
        (
            {"s": [False, True, False], "r": [1, 5, None]},
            {"skip": "s", "rating": "r"},
            [0, 2, 0],
        ),
        (
            {"skip_1": [0, 1, None, None, 0], "skip_2": [0, 1, 1, None, 0], "skip_3": [1, 1, 1, None, None]},
            {},
            [3, 1, 2, -1, -1],
        ),
        (
            {"skip_1": [0, None], "skip_2": [0, None], "skip_3": [0, None], "not_skipped": [1, 1]},
            {},
            [0, 0],
        ),
    ],
)
def test_skips_are_what_the_columns_say(columns, options, expected, suffix, tmp_path):
    # One row more, which is of no interest, where there are fewer than the least session has.
    while len(expected) < 3:
        columns, expected = {name: [*values, values[-1]] for name, values in columns.items()}, [*expected, expected[-1]]
    assert skips(tmp_path, columns, suffix, **options) == expected
    manifest = Manifest.read(tmp_path / "data")
    assert manifest.skip_share == pytest.approx(np.mean([0 < one < 3 for one in expected]), abs=1e-6)
    assert manifest.unknown_share == pytest.approx(np.mean([one < 0 for one in expected]), abs=1e-6)
    window = SessionStore(str(tmp_path / "data")).read(np.array([0]))
    assert window.skips.tolist() == expected
    for name, value in options.items():
        assert manifest.options[name] == (list(value) if isinstance(value, tuple) else value)


@pytest.mark.parametrize(
    ("values", "option", "says"),
    [
        ([True] * 3, "skip", "all of the plays are skipped, by 's'; if it is true where a track was kept, .* --kept"),
        (
            [True] * 3,
            "kept",
            "none of the plays are skipped, by 's'; if it is true where a track was skipped, .* --skip",
        ),
        ([False] * 3, "skip", "none of the plays are skipped"),
        ([True] * 19 + [False], "skip", "95.0 % of the plays are skipped"),
        ([None] * 3, "skip", "of no play it is known whether it was skipped: 's' says nothing"),
        ([True, False, None], "skip", None),
        ([True] * 9 + [False], "skip", None),
    ],
)
def test_a_share_of_skips_that_is_hardly_true_is_warned_of(values, option, says, tmp_path, capfd):
    skips(tmp_path, {"s": values}, **{option: "s"})
    said = capfd.readouterr().err
    assert "% of them skipped" in said
    assert ("warning" in said) == (says is not None)
    if says:
        assert re.search(says, said)


def test_a_column_that_is_inverted_is_read_by_the_option_that_the_warning_names(tmp_path):
    clicked = [True] * 19 + [False]
    assert skips(tmp_path, {"is_click": clicked}, skip="is_click") == [2] * 19 + [0]
    assert skips(tmp_path, {"is_click": clicked}, kept="is_click") == [0] * 19 + [2]


@pytest.mark.parametrize(
    ("values", "says", "options", "expected"),
    [
        (["skipped", "done", "skipped"], "words", {"reason": "s", "skip_reasons": ("skipped",)}, [2, 0, 2]),
        ([0.25, 0.5, 1], "numbers", {"rating": "s", "skip_below": 0.5}, [2, 0, 0]),
    ],
)
@pytest.mark.parametrize("option", ["skip", "kept"])
def test_a_column_that_is_no_flag_is_read_by_the_options_that_the_sentence_names(
    option, values, says, options, expected, tmp_path
):
    with pytest.raises(UserError) as caught:
        skips(tmp_path, {"s": values}, **{option: "s"})
    ways = "--reason and --skip-reasons" if says == "words" else "--rating and --skip-below"
    assert str(caught.value).endswith(f"a column of {says} for it is read with {ways}")
    assert skips(tmp_path, {"s": values}, **options) == expected
