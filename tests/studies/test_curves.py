"""How far an unfinished run has come, as `show` prints it."""

import json
from pathlib import Path

import pytest

from skipwise.components.show import ShowConfig, show


@pytest.fixture
def run(tmp_path: Path) -> Path:
    content = {
        "schema_version": 2, "recipe": "best", "ranks": 1, "vocabulary_hash": "0" * 64,
        "counts": {"sessions": 9, "plays": 90, "tracks": 30}, "rows": 30, "rows_hash": "0" * 64, "versions": {},
    }  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(content))
    (tmp_path / "config.yaml").write_text("train: {epochs: 40}\nselection: {protocol: served}\n")
    return tmp_path


def step(kind: str, epoch: int, loss: float) -> dict:
    return {"kind": kind, "step": 20, "epoch": epoch, "loss": loss, "nll": 1.0, "nce": 1.0, "sessions_per_s": 9.0}


def said(run: Path, lines: list[dict], capsys) -> list[str]:
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    show(ShowConfig(((str(run),),)))
    return capsys.readouterr().out.splitlines()


def test_before_the_first_step(run: Path, capsys):
    show(ShowConfig(((str(run),),)))
    assert capsys.readouterr().out.splitlines() == [
        f"{run} has not finished training. The command that began it goes on where it stopped."
    ]


def test_between_epochs(run: Path, capsys):
    epochs = [
        {"kind": "validation", "step": 1, "epoch": epoch, "hr@1": 0.01 * epoch, "hr@10": 0.5} for epoch in range(1, 13)
    ]
    first, *rest = said(run, [step("train", 12, 5.5), *epochs, step("train", 13, 5.25)], capsys)
    assert "has not finished" in first
    assert rest[:3] == [
        "last report: epoch 13, loss 5.2500",
        "12 of at most 40 epochs are validated, by served, all targets:",
        "epoch     HR@1    HR@10",
    ]
    assert [line.split() for line in rest[3:]] == [[str(e), f"{0.01 * e:.4f}", "0.5000"] for e in range(3, 13)]


def test_in_a_refit(run: Path, capsys):
    assert (
        said(run, [step("train", 3, 5.5), step("refit", 1, 6.5)], capsys)[1]
        == "last report: the refit, epoch 1, loss 6.5000"
    )
