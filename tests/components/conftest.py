"""Commands as a user types them, and how they are refused."""

import sys
from dataclasses import dataclass

import pytest

from skipwise.components.__main__ import main


@dataclass
class Result:
    """How a command ended, and all it said."""

    code: int
    said: str


@pytest.fixture
def run(monkeypatch, capfd):
    """`skipwise ...`, in this process: its exit code and words."""

    def run_command(*words: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["skipwise", *words])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        said = "".join(capfd.readouterr())
        return Result(code, " ".join(said.replace("│", " ").split()))

    return run_command


def refused(result: Result, *wanted: str) -> None:
    """Exit code 2, a sentence that says all of `wanted`, no traceback."""
    assert result.code == 2, result.said
    assert "Traceback" not in result.said
    for text in wanted:
        assert text in result.said
