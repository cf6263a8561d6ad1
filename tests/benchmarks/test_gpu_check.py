"""The check of a machine with a GPU: its refusal here, what it runs, and what its JSON keeps of what goes wrong."""

import json
import time
from pathlib import Path

import pytest

from skipwise.benchmarks import gpu_check
from skipwise.benchmarks.__main__ import run
from skipwise.benchmarks.harness import gpu_sections, step_grid
from skipwise.benchmarks.harness.config import EvaluateConfig, StepConfig
from skipwise.benchmarks.harness.gpu_sections import (
    GpuCheckConfig,
    Section,
    case_figures,
    figures_of_tests,
    sections_of,
    step_cases,
)
from skipwise.common.errors import UserError
from skipwise.components.cli import parse
from skipwise.components.train import read_command_line


@pytest.fixture
def no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def test_without_a_card_it_is_refused(no_card: None, tmp_path: Path):
    file = tmp_path / "check.json"
    with pytest.raises(UserError, match="gpu-check needs an NVIDIA GPU, and torch sees none here: run it where"):
        run(["gpu-check", "--small", "--output", str(file)])
    assert not file.exists()


@pytest.mark.parametrize("small", [True, False])
def test_every_section_is_a_command_line_that_is_accepted(small: bool, tmp_path: Path):
    config = GpuCheckConfig(small=small)
    sections = {section.name: section.words for section in sections_of(config, tmp_path)}
    assert tuple(sections) == config.sections
    files = [Path(sections[name][-1]) for name in ("step", "step-rest")]
    cases = [parse(StepConfig, line.split(), "step") for file in files for line in file.read_text().splitlines()]
    assert cases[0].precision == "bf16" and cases[0].batch == (32 if small else 4096)
    assert len(cases) == sum(map(len, step_cases(small, tmp_path, ("rowwise_adagrad", "adam"))))
    assert len({case.report.json for case in cases}) == len(cases)
    if not small:
        batches = {256, 1024, 4096, 16384}
        kinds = {(precision, optimizer) for precision in ("fp32", "bf16") for optimizer in ("rowwise_adagrad", "adam")}
        assert {(case.batch, case.precision, case.optimizer) for case in cases if case.recipe != "best"} == {
            (batch, *kind) for batch in batches for kind in kinds
        }
        assert {case.tracks for case in cases} == {1_000_000}
        assert {(case.batch, case.precision) for case in cases if case.compile} == {
            (batch, "bf16") for batch in batches
        }
    assert {case.batch for case in cases if case.baseline == "plain"} == {32 if small else 4096}
    parse(EvaluateConfig, sections["evaluate"][3:], "evaluate")
    recipe, trained = read_command_line(sections["train"][3:])
    assert recipe == "best" and trained.run_dir == str(tmp_path / "run")
    only = sections_of(GpuCheckConfig(sections=("evaluate",), small=small), tmp_path)
    assert [section.name for section in only] == ["evaluate"]


def code(name: str, text: str, limit_s: float = 60, figures=lambda: {"found": 1}) -> Section:
    return Section(name, ["-c", text], limit_s, figures)


def test_it_goes_on_after_a_failure_and_keeps_what_was_printed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(gpu_sections, "_LEAST_S", 0.1)

    def missing() -> dict:
        raise UserError("nothing was written")

    sleeping = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    sections = [
        code("a", "print('well')"),
        code("b", "print('its last words'); raise SystemExit(3)"),
        code("c", sleeping, limit_s=1.0),
        code("d", "pass", figures=missing),
    ]
    monkeypatch.setattr(gpu_check, "headline", lambda name, found: "")
    config = GpuCheckConfig(output=str(tmp_path / "check.json"))
    began = time.monotonic()
    outcomes = gpu_check.check(config, sections, tmp_path)
    assert time.monotonic() - began < 30
    assert outcomes == {"a": "passed", "b": "failed", "c": "out of time", "d": "failed"}
    content = json.loads((tmp_path / "check.json").read_text())
    assert {"schema_version", "date", "commit", "machine", "versions", "small", "sections"} == set(content)
    assert content["versions"]["torch"] and content["machine"]["cores"] and content["machine"]["devices"] == []
    found = content["sections"]
    assert found["a"]["figures"] == {"found": 1} and "output" not in found["a"]
    assert found["b"]["exit_code"] == 3 and found["b"]["output"] == "its last words\n"
    assert found["c"]["exit_code"] is None and found["d"]["problem"] == "UserError: nothing was written"
    assert "its last words" in capsys.readouterr().out
    late = gpu_check.check(GpuCheckConfig(output=config.output, limit_s=0.05), sections[:1], tmp_path)
    assert late == {"a": "left out"}


def test_what_is_kept_of_pytest(tmp_path: Path):
    (tmp_path / "tests.xml").write_text(
        '<testsuites><testsuite><testcase classname="t.a" name="one" time="0.5"><properties>'
        '<property name="distance" value="1e-7"/></properties></testcase>'
        '<testcase classname="t.a" name="two" time="1"><failure message="assert 1 == 2">trace</failure></testcase>'
        '<testcase classname="t.b" name="three" time="0"><skipped message="no card"/></testcase>'
        "</testsuite></testsuites>"
    )
    found = figures_of_tests(tmp_path / "tests.xml")
    assert found["outcomes"] == {"failure": 1, "passed": 1, "skipped": 1}
    assert found["tests"][0]["noted"] == {"distance": "1e-7"} and found["tests"][0]["test"] == "t.a::one"
    assert [test["message"] for test in found["tests"]] == ["", "trace", "no card"]


def test_cases_of_step_in_one_process(monkeypatch: pytest.MonkeyPatch, no_card: None, tmp_path: Path):
    """A case that this device refuses stops no other; cases of one size share their batches."""
    monkeypatch.setattr("skipwise.benchmarks.harness.floor._SECONDS_EACH", 0.0)
    monkeypatch.setattr("skipwise.benchmarks.harness.floor._COPIED_NUMBERS", 1 << 16)
    monkeypatch.setattr("skipwise.benchmarks.harness.floor._SQUARE", 64)
    first, rest = step_cases(True, tmp_path, ("adagrad", "adam"))
    cases = {name: words for name, words in (first | rest).items() if words[words.index("--batch") + 1] == "16"}
    lines = [" ".join(words) for words in cases.values()]
    assert step_grid.measure_all(lines) == 2
    found = {name: case_figures(name, tmp_path) for name in cases}
    assert [name for name, figures in found.items() if "failed" in figures] == [
        f"unidir-skip-track-adam-{precision}-16" for precision in ("bf16", "fp32")
    ]
    refused = found["unidir-skip-track-adam-fp32-16"]["failed"]
    assert refused == "UserError: --optimizer adam needs a GPU: choose rowwise_adagrad, adagrad or sgd on CPU"
    for precision in ("fp32", "bf16"):
        figures = found[f"unidir-skip-track-adagrad-{precision}-16"]
        assert figures["config"]["optimizer"] == "adagrad" and figures["ours"]["sessions_per_s"] > 0
    assert "failed" in case_figures("none", tmp_path)


@pytest.mark.soak
def test_all_of_it_small(tmp_path: Path):
    """Here on a CPU, whose tests for a GPU are skipped, and with the optimizers that it has."""
    config = GpuCheckConfig(output=str(tmp_path / "check.json"), small=True)
    outcomes = gpu_check.check(config, sections_of(config, tmp_path, ("rowwise_adagrad", "sgd")), tmp_path)
    content = json.loads((tmp_path / "check.json").read_text())
    assert set(outcomes.values()) == {"passed"}, content
    found = {name: section["figures"] for name, section in content["sections"].items()}
    assert found["tests"]["outcomes"]["skipped"] > 40
    cases = found["step"]["cases"] + found["step-rest"]["cases"]
    assert all(case["ours"]["p50_ms"] > 0 for case in cases) and len(cases) == 10
    assert found["evaluate"]["served"]["users_per_s"] > 0 and found["train"]["served"]["test"]["targets"]
