"""A program of an export with code planted in it, under a right hash, is never opened."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.serve.prometheus import Metrics
from skipwise.retrieval.serve.served_export import HotSwap
from tests.components.conftest import refused, run  # noqa: F401  a fixture
from tests.support.exports import LONGEST, Mean, change, record, write_made

DIM = 8
IDS = [f"t_{row:02}" for row in range(30)]
ROWS = np.random.default_rng(0).standard_normal((len(IDS), DIM)).astype(np.float32)


class Planted:
    """Makes a directory where it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


class Inputs(nn.Module):
    def forward(self, items_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        return Mean()(items_BTD, lengths_B)


@pytest.fixture(scope="module")
def program() -> bytes:
    whole = io.BytesIO()
    example = torch.zeros(1, LONGEST, DIM), torch.full((1,), LONGEST)
    torch.export.save(torch.export.export(Inputs(), example), whole)
    return whole.getvalue()


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "the code ran"


@pytest.fixture
def export(program: bytes, mark: Path, tmp_path: Path) -> Path:
    folder = write_made(tmp_path / "export", IDS, ROWS)
    planted = io.BytesIO()
    torch.save(Planted(mark), planted)
    with zipfile.ZipFile(io.BytesIO(program)) as sound, zipfile.ZipFile(folder / "encoder.pt2", "w") as spoilt:
        for name in sound.namelist():
            content = planted.getvalue() if name.endswith("sample_inputs/model.pt") else sound.read(name)
            spoilt.writestr(name, content)
    encoder = OpenExport.open(folder).manifest.encoder.model_dump()
    change(folder, encoder=encoder | record(folder, "encoder.pt2"))
    return folder


def test_it_would_run(export: Path, mark: Path):
    """What this file guards against: torch's own loader runs it."""
    try:
        torch.export.load(export / "encoder.pt2")
    except Exception:
        pass
    assert mark.is_dir()


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("command", [["recommend", "--session", "t_01"], ["similar", "--track", "t_01"], ["index"]])
def test_a_command_does_not_open_it(run, export: Path, mark: Path, command: list[str], older: bool):  # noqa: F811
    if older:
        change(export, weights={})
    done = run(*command, "--export", str(export))
    if older:
        refused(done, str(export), "was written by an older version", "export the run again")
    else:
        assert done.code == 0, done.said
    assert not mark.exists()


def test_a_swap_does_not_open_it(export: Path, mark: Path, tmp_path: Path):
    (tmp_path / "link").symlink_to(write_made(tmp_path / "sound", IDS, ROWS))
    swap = HotSwap("main", tmp_path / "link", "auto", Metrics())
    change(export, weights={})
    (tmp_path / "aside").symlink_to(export)
    os.replace(tmp_path / "aside", tmp_path / "link")
    swap.reload()
    assert "export the run again" in swap.error and not mark.exists()
