"""What export refuses and what it finds wrong: one sentence on every rank, and nothing left behind."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist

from skipwise.common.errors import UserError
from skipwise.components.export import export
from skipwise.models.query_encoder import QueryEncoder
from skipwise.retrieval.export import exporter
from skipwise.retrieval.export.config import ExportConfig
from skipwise.retrieval.export.parts import TableRows
from skipwise.retrieval.export_manifest import ExportManifest
from skipwise.retrieval.formats import PartFormat
from skipwise.training.checkpoint.checkpoints import best_checkpoint
from tests.ranks import run_on_ranks
from tests.retrieval.conftest import TRACKS

pytestmark = pytest.mark.ranks


def refusal(config: ExportConfig) -> str:
    try:
        export(config)
    except UserError as error:
        return str(error)
    return "not refused"


def refused(
    folder: Path,
    ranks: int,
    run: Path,
    output: Path,
    overwrite: bool = False,
    attempt: Callable[[ExportConfig], str] = refusal,
) -> str:
    """The sentence that every rank's `attempt` ends with; nothing may have appeared beside `output`."""
    before = sorted(path.name for path in output.parent.iterdir())
    sentences = set(run_on_ranks(folder, ranks, attempt, ExportConfig(str(run), output, overwrite)))
    assert sorted(path.name for path in output.parent.iterdir()) == before
    assert len(sentences) == 1
    sentence = sentences.pop()
    assert sentence != "not refused" and "\n" not in sentence
    return sentence


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Path:
    """A copy of a trained run, for a test to break."""
    return Path(shutil.copytree(folder / "unidirectional", tmp_path / "run"))


def test_existing_output(folder: Path, run: Path, tmp_path: Path):
    output = tmp_path / "out"
    shutil.copytree(folder / "unidirectional-1", output)
    assert "--overwrite" in refused(folder, 2, run, output)
    run_on_ranks(folder, 2, export, ExportConfig(str(run), output, overwrite=True))
    assert len(ExportManifest.read(output).parts) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]
    assert "is not what this command writes" in refused(folder, 2, run, folder / "data", overwrite=True)


def test_missing_run(folder: Path, tmp_path: Path):
    assert "a run directory that train wrote" in refused(folder, 2, tmp_path / "none", tmp_path / "out")


def test_missing_checkpoint(folder: Path, run: Path, tmp_path: Path):
    shutil.rmtree(run / "checkpoints")
    assert "checkpoints/best cannot be read" in refused(folder, 2, run, tmp_path / "out")


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("file", ["part-00000.safetensors", "checkpoint.json"])
def test_corrupted_checkpoint(file: str, ranks: int, folder: Path, run: Path, tmp_path: Path):
    damaged = best_checkpoint(run) / file
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    sentence = refused(folder, ranks, run, tmp_path / "out")
    assert file in sentence and re.search("expected (the index of )?a whole checkpoint", sentence)


def test_another_vocabulary(folder: Path, run: Path, tmp_path: Path):
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"vocabulary_hash": "0" * 64}))
    assert "has another vocabulary" in refused(folder, 2, run, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.set_column(0, "track_id", table["row"].cast(pa.string())), "does not hold"),
        (lambda table: table.take(list(range(TRACKS))[::-1]), "not in row order"),
        (lambda table: table.slice(0, 200), "holds 200 tracks"),
        (lambda table: table.drop("row"), "cannot be read"),
    ],
)
def test_vocabulary_that_its_run_does_not_know(change, words: str, folder: Path, run: Path, tmp_path: Path):
    """The hash in the run's record is right, and its vocabulary is not what it says."""
    pq.write_table(change(pq.read_table(run / "vocabulary.parquet")), run / "vocabulary.parquet")
    assert words in refused(folder, 2, run, tmp_path / "out")


def wrong_part(config: ExportConfig) -> str:
    write_part = exporter.write_part

    def write_wrongly(file: Path, rows: TableRows, kind: PartFormat) -> None:
        rows_RD = rows.rows_RD.clone()
        if rows.first:
            rows_RD[-1, -1] = -rows_RD[-1, -1]
        write_part(file, replace(rows, rows_RD=rows_RD), kind)

    with patch.object(exporter, "write_part", write_wrongly):
        return refusal(config)


def test_part_that_differs_on_one_rank(folder: Path, run: Path, tmp_path: Path):
    sentence = refused(folder, 2, run, tmp_path / "out", attempt=wrong_part)
    assert "part-00001.parquet read back differs" in sentence


def wrong_program(config: ExportConfig) -> str:
    forward = QueryEncoder.forward

    def forward_wrongly(self, items_BTD: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        return forward(self, items_BTD, lengths_B) + 1e-3

    with patch.object(QueryEncoder, "forward", forward_wrongly):
        return refusal(config)


def test_program_that_differs(folder: Path, run: Path, tmp_path: Path):
    sentence = refused(folder, 2, run, tmp_path / "out", attempt=wrong_program)
    assert "encoder program read back differs from the model by 1.0e-03" in sentence


def full_disk_on_one(config: ExportConfig) -> str:
    write_part = exporter.write_part

    def fail_on_one(*arguments) -> None:
        if dist.get_rank() == 1:
            raise OSError(28, "No space left on device")
        write_part(*arguments)

    with patch.object(exporter, "write_part", fail_on_one):
        return refusal(config)


def test_fault_of_one_rank_ends_all(folder: Path, run: Path, tmp_path: Path):
    assert "No space left" in refused(folder, 2, run, tmp_path / "out", attempt=full_disk_on_one)
