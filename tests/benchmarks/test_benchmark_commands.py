"""The command line of the benchmarks: what it lists, how fast it answers, and where its modules are."""

import subprocess
import sys
from pathlib import Path

import pytest

import skipwise.benchmarks
from skipwise.benchmarks.__main__ import BENCHMARKS, run
from skipwise.common.errors import UserError

FOLDER = Path(skipwise.benchmarks.__file__).parent


def test_the_folder_holds_what_is_listed():
    assert {file.stem for file in FOLDER.glob("*.py")} == {
        "__init__",
        "__main__",
        *(name.replace("-", "_") for name in BENCHMARKS),
    }


def test_no_benchmark_imports_another():
    for file in FOLDER.glob("*.py"):
        text = file.read_text()
        assert not [name for name in BENCHMARKS if f"skipwise.benchmarks.{name.replace('-', '_')} import" in text], file


def test_the_list_names_all(capsys: pytest.CaptureFixture[str]):
    run(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("usage: python -m skipwise.benchmarks NAME")
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(BENCHMARKS)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_help_has_an_example_that_is_accepted(name: str, capsys: pytest.CaptureFixture[str]):
    from skipwise.components.cli import parse

    with pytest.raises(SystemExit) as stop:
        run([name, "--help"])
    assert not stop.value.code
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"usage: python -m skipwise.benchmarks {name} " in printed
    example = (BENCHMARKS[name].__doc__ or "").split("Example: ")[1].strip()
    assert example in printed
    program, words = f"python -m skipwise.benchmarks {name}", example.split()
    assert words[:4] == program.split()
    assert isinstance(parse(BENCHMARKS[name], words[4:], program), BENCHMARKS[name])


def test_help_waits_for_no_heavy_import():
    code = """
import resource, sys
from skipwise.benchmarks.__main__ import run
try:
    run(["step", "--help"])
except SystemExit:
    pass
assert not {"torch", "torchrec", "fbgemm_gpu", "pyarrow", "matplotlib"} & set(sys.modules)
used = resource.getrusage(resource.RUSAGE_SELF)
assert used.ru_utime + used.ru_stime < 2
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_an_unknown_benchmark_is_refused():
    with pytest.raises(UserError, match="there is no benchmark 'lookup': expected one of step, "):
        run(["lookup"])
