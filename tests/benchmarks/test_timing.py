"""Cases in turn: the order, what is counted, and figures by hand."""

import time
from pathlib import Path

import pytest

from skipwise.benchmarks.harness.timing import Times, alternate, ratios, timed
from skipwise.common.distributed import rank
from tests.ranks import run_on_ranks


def test_cases_take_turns_and_warmup_is_not_counted():
    calls = []
    cases = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = alternate(cases, rounds=2, warmup=1)
    assert calls == ["a", "b"] * 3
    assert {name: len(of.seconds) for name, of in times.items()} == {"a": 2, "b": 2}
    calls.clear()
    times = alternate(cases, rounds=2, warmup=0, calls=3)
    assert calls == list("aaabbbaaabbb")
    assert len(times["a"].seconds) == 6


def test_quantiles_and_ratios_by_hand():
    times = Times(tuple(float(value) for value in range(11)))
    assert (times.p50, times.p90) == (5.0, 9.0)
    assert ratios(Times((1.0, 2.0)), Times((3.0, 1.0))) == (3.0, 0.5)


def test_a_sleep_is_as_long_as_it_is():
    assert 0.02 <= timed(lambda: time.sleep(0.02)) < 2


@pytest.mark.ranks
def test_the_slowest_rank_counts(tmp_path: Path):
    results = run_on_ranks(tmp_path, 2, _rank_1_sleeps)
    assert results[0] == results[1]
    assert min(results[0]) >= 0.05


def _rank_1_sleeps() -> tuple[float, ...]:
    return alternate({"sleep": lambda: time.sleep(0.05 * rank())}, rounds=3, warmup=1)["sleep"].seconds
