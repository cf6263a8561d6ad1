"""The counts of a training step: what is counted, that runs agree, and that a step does no more than before."""

import json
import sys
from pathlib import Path

import pytest
import torch

import skipwise
from skipwise.benchmarks.compare import BenchmarkReport, judged
from skipwise.benchmarks.harness.benchmark_report import measure_and_write
from skipwise.benchmarks.harness.config import ReportConfig
from skipwise.benchmarks.harness.operator_cases import OperatorsConfig
from skipwise.benchmarks.operators import COUNTS, _Operators, count_step, measure
from skipwise.common.distributed import process_group

RESULTS = Path(skipwise.__file__).parent / "benchmarks/results"
PINNED = sys.version_info[:2] == (3, 11)


def test_operators_and_bytes_by_hand():
    a, b = torch.ones(4, 8), torch.ones(8, 2)
    with _Operators() as operators:
        (a @ b).view(8).add_(1)
    assert dict(operators.calls) == {"aten.mm": 1, "aten.view": 1, "aten.add_": 1}
    # The product reads 32 and 16 numbers and writes 8; the sum in place is given 8 and gives 8.
    assert operators.bytes == 4 * (32 + 16 + 8) + 4 * (8 + 8)


def test_two_runs_agree():
    step = OperatorsConfig(cases=("unidir-skip-track:fp32:shared:12",))
    with process_group():
        first, second = (count_step(step.step(step.cases[0])) for _ in range(2))
    assert first == second
    assert all(value > 0 for value in first[1].values())


@pytest.mark.skipif(not PINNED, reason="another Python calls its functions otherwise")
def test_a_step_does_no_more_than_the_last_report_says(tmp_path: Path):
    """After a change that is meant: `python -m skipwise.benchmarks operators` writes a new report."""
    last = json.loads(max(RESULTS.glob("*-operators.json")).read_text())
    measure_and_write(measure, OperatorsConfig(report=ReportConfig(str(tmp_path), str(tmp_path / "now.json"))))
    now = json.loads((tmp_path / "now.json").read_text())
    rows = judged(BenchmarkReport(**last), BenchmarkReport(**now), tolerance=0.02)
    assert len(rows) == len(COUNTS) * len(OperatorsConfig().cases)
    assert [row for row in rows if not row[-1].startswith("no difference")] == []


def test_compare_judges_counts():
    made = {"machine": {}}
    reports = [
        BenchmarkReport(benchmark="operators", config={}, made=made, samples={}, counts=counts)
        for counts in ({"a": 100, "b": 100, "c": 100, "d": 0}, {"a": 103, "b": 101, "c": 97, "d": 1})
    ]
    verdicts = [row[-1] for row in judged(*reports, tolerance=0.02)]
    assert verdicts == ["regression", "no difference beyond the tolerance", "better", "regression"]


@pytest.mark.parametrize("case", ["best", "best:fp64:shared:20", "best:fp32:some:20", "best:fp32:shared:x", "::::"])
def test_what_is_no_case(case: str):
    with pytest.raises(ValueError, match="expected RECIPE:PRECISION:NEGATIVES:LENGTH"):
        OperatorsConfig(cases=(case,))
