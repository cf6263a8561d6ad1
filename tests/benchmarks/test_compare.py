"""The verdict between two reports: what is sure, what is noise, and what is no report."""

import json
from pathlib import Path

import pytest

from skipwise.benchmarks.compare import judge, measure
from skipwise.benchmarks.harness.config import CompareConfig
from skipwise.common.errors import UserError

STEADY = [1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 1.0, 1.01]


def report(path: Path, samples: dict[str, list[float]], **changes) -> str:
    content = {"schema_version": 1, "benchmark": "step", "config": {"batch": 1}, "made": {"machine": {"cores": 2}}}
    path.write_text(json.dumps(content | {"samples": samples} | changes))
    return str(path)


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        ([0.9 * value for value in STEADY], "regression"),
        ([1.1 * value for value in STEADY], "better"),
        ([0.99 * value for value in STEADY], "no difference beyond the noise"),
        ([0.5, 1.5, 0.6, 1.4, 0.7, 1.3], "no difference beyond the noise"),
    ],
)
def test_verdicts(after: list[float], verdict: str):
    found, change, low, high = judge(STEADY, after, tolerance=0.02)
    assert found == verdict
    assert low <= change <= high


def test_a_constant_has_an_interval_of_no_width():
    assert judge([2.0] * 5, [1.0] * 5, tolerance=0.02) == ("regression", -0.5, -0.5, -0.5)


def test_exit_code_tells_a_regression(tmp_path: Path, capsys):
    fast = report(tmp_path / "a.json", {"ratio": STEADY})
    slow = report(tmp_path / "b.json", {"ratio": [value / 2 for value in STEADY]}, config={"batch": 2})
    measure(CompareConfig(slow, fast))
    with pytest.raises(SystemExit) as stop:
        measure(CompareConfig(fast, slow))
    assert stop.value.code == 1
    printed = capsys.readouterr().out
    assert "regression" in printed and "better" in printed and "differ in their options: batch" in printed


@pytest.mark.parametrize(
    ("samples", "changes", "sentence"),
    [
        ({"ratio": STEADY}, {"benchmark": "other"}, "two reports of the same"),
        ({"other": STEADY}, {}, "no figure in common"),
        ({"ratio": []}, {}, r"samples.ratio is \[\]: expected .* run the benchmark again"),
        ({"ratio": [0.0]}, {}, r"samples.ratio\[0\] is 0.0: expected a number greater than 0; run the benchmark again"),
        (
            {"ratio": STEADY},
            {"schema_version": 0},
            "has schema_version 0, this version reads 1: run the benchmark again",
        ),
        ({"ratio": STEADY}, {"made": {}}, "has no field .made.machine.: run the benchmark again"),
    ],
)
def test_what_cannot_be_compared_is_refused(samples: dict, changes: dict, sentence: str, tmp_path: Path):
    good = report(tmp_path / "a.json", {"ratio": STEADY})
    with pytest.raises(UserError, match=sentence):
        measure(CompareConfig(good, report(tmp_path / "b.json", samples, **changes)))
    with pytest.raises(UserError, match="no.json"):
        measure(CompareConfig(good, str(tmp_path / "no.json")))
