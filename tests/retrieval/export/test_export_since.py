"""Deltas: what is exported is what changed, and what it is applied to becomes the whole table of the newer run."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from skipwise.common.errors import UserError
from skipwise.components.export import export
from skipwise.retrieval.export.config import ExportConfig
from skipwise.retrieval.export.exporter import write_export
from skipwise.retrieval.export_manifest import ExportManifest
from skipwise.retrieval.formats import PartFormat
from skipwise.retrieval.quantized import quantized_table
from skipwise.training.checkpoint import saved_rows
from tests.conftest import random_sessions, write_dataset
from tests.ranks import run_on_ranks
from tests.retrieval.conftest import DIM, LONGEST, small
from tests.support.one_rank import alone, save_rows  # noqa: F401  a fixture
from tests.training.checkpoint.test_warm_start import named

pytestmark = [pytest.mark.ranks, pytest.mark.usefixtures("alone")]
OLD, NEW, SHARED = 150, 170, 120


class Runs:
    """An older run and a newer one, which lacks 30 of its tracks, has 50 others, and all in other rows."""

    def __init__(self, folder: Path):
        random = np.random.default_rng(3)
        names = [f"track {number}" for number in random.permutation(OLD + 50)]
        self.old_names, self.new_names = sorted(names[:OLD]), sorted(names[30:], reverse=True)
        self.old, self.new = folder / "old", folder / "new"
        table = {name: torch.randn(DIM) for name in names}
        self.old_table = torch.stack([table[name] for name in self.old_names])
        self.changed = set(random.choice(names[30:OLD], 37, replace=False))
        for name in self.changed:  # by the last bit of one number
            table[name] = table[name].clone()
            table[name].view(torch.int32)[int(random.integers(DIM))] ^= 1
        self.new_table = torch.stack([table[name] for name in self.new_names])
        for run, names, rows in (
            (self.old, self.old_names, self.old_table),
            (self.new, self.new_names, self.new_table),
        ):
            data = write_dataset(folder / f"data-{run.name}", random_sessions(30, len(names), LONGEST), len(names))
            config = small("best-skip-blind", folder)
            config = replace(config, run_dir=str(run), data=replace(config.data, path=str(named(data, names))))
            save_rows(config, rows)


@pytest.fixture(scope="module")
def runs(alone, tmp_path_factory) -> Runs:  # noqa: F811
    torch.manual_seed(1)
    return Runs(tmp_path_factory.mktemp("since"))


def by_id(output: Path) -> dict[str, np.ndarray]:
    """Track ids and the bytes of their rows, of a Parquet export in float32."""
    found = {}
    for part in ExportManifest.read(output).parts:
        table = pq.read_table(output / part.file)
        rows = table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, DIM)
        found |= dict(zip(table["track_id"].to_pylist(), rows.view(np.int32), strict=True))
    return found


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_delta_makes_the_newer_table_of_the_older(ranks: int, runs: Runs, tmp_path: Path):
    write_export(ExportConfig(str(runs.old), tmp_path / "base"))
    if ranks == 1:
        write_export(ExportConfig(str(runs.new), tmp_path / "delta", only_new_since=str(runs.old)))
    else:
        config = ExportConfig(str(runs.new), tmp_path / "delta", only_new_since=str(runs.old))
        run_on_ranks(tmp_path, ranks, export, config)
    manifest, base = ExportManifest.read(tmp_path / "delta"), ExportManifest.read(tmp_path / "base")
    delta = by_id(tmp_path / "delta")
    assert set(delta) == runs.changed | (set(runs.new_names) - set(runs.old_names))
    known = {"table_rows": NEW, "changed": 37, "new": 50, "unchanged": SHARED - 37, "gone": 30}
    assert known.items() <= manifest.since.model_dump().items() and manifest.rows == 87 and len(manifest.parts) == ranks
    assert manifest.since.run == str(runs.old) and manifest.since.rows_hash == base.vocabulary_hash
    for part in manifest.parts:
        table = pq.read_table(tmp_path / "delta" / part.file)
        assert [runs.new_names[row] for row in table["row"].to_pylist()] == table["track_id"].to_pylist()
    gone = pq.read_table(tmp_path / "delta" / manifest.since.gone_tracks.file)["track_id"].to_pylist()
    whole = by_id(tmp_path / "base")
    for name in gone:
        del whole[name]
    whole |= delta
    assert len(whole) == NEW
    found = np.stack([whole[name] for name in runs.new_names])
    assert np.array_equal(found, runs.new_table.numpy().view(np.int32))


@pytest.mark.parametrize("kind", [PartFormat(), PartFormat("npy", "int8"), PartFormat("faiss", "float16")], ids=str)
def test_nothing_changed(kind: PartFormat, runs: Runs, tmp_path: Path):
    write_export(ExportConfig(str(runs.old), tmp_path / "out", False, kind.format, kind.dtype, str(runs.old)))
    manifest = ExportManifest.read(tmp_path / "out")
    assert manifest.rows == 0 and [part.rows for part in manifest.parts] == [0]
    assert manifest.since.unchanged == OLD and manifest.since.gone_tracks.rows == 0
    if kind.format == "npy":
        assert np.load(tmp_path / "out" / manifest.parts[0].file, mmap_mode="r").shape == (0, DIM + 8)
        with pytest.raises(UserError, match="is of a delta, not of a whole table in int8"):
            quantized_table(tmp_path / "out")


@pytest.mark.parametrize("kind", [PartFormat("npy", "float16"), PartFormat("faiss")], ids=str)
def test_a_delta_of_parts_without_ids(kind: PartFormat, runs: Runs, tmp_path: Path):
    write_export(ExportConfig(str(runs.new), tmp_path / "out", False, kind.format, kind.dtype, str(runs.old)))
    manifest = ExportManifest.read(tmp_path / "out")
    tracks = pq.read_table(tmp_path / "out" / manifest.tracks[0].file)
    rows = tracks["row"].to_pylist()
    assert tracks["track_id"].to_pylist() == [runs.new_names[row] for row in rows] and len(rows) == 87
    if kind.format == "npy":
        found = np.load(tmp_path / "out" / manifest.parts[0].file)
        assert np.array_equal(found, runs.new_table[rows].half().numpy())


def test_small_blocks_find_the_same(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(saved_rows, "_BLOCK_ROWS", 7)
    write_export(ExportConfig(str(runs.new), tmp_path / "out", only_new_since=str(runs.old)))
    assert ExportManifest.read(tmp_path / "out").since.changed == 37


def refused(runs: Runs, other: Path, output: Path) -> str:
    with pytest.raises(UserError) as caught:
        write_export(ExportConfig(str(runs.new), output, only_new_since=str(other)))
    assert not output.exists()
    return str(caught.value)


def test_refusals(runs: Runs, tmp_path: Path):
    assert "a run directory that train wrote" in refused(runs, tmp_path / "none", tmp_path / "out")
    broken = Path(shutil.copytree(runs.old, tmp_path / "broken"))
    (part,) = broken.glob("checkpoints/*/part-00000.safetensors")
    part.write_bytes(part.read_bytes()[:-1])
    assert "expected a whole checkpoint" in refused(runs, broken, tmp_path / "out")
    part.unlink()
    shutil.rmtree(broken / "checkpoints")
    assert "checkpoints/best cannot be read" in refused(runs, broken, tmp_path / "out")
    text = (runs.old / "config.yaml").read_text()
    assert f"dim: {DIM}\n" in text
    (broken / "config.yaml").write_text(text.replace(f"dim: {DIM}\n", f"dim: {2 * DIM}\n"))
    sentence = refused(runs, broken, tmp_path / "out")
    assert f"has rows of {2 * DIM} numbers and {runs.new} has {DIM}" in sentence and "--only-new-since" in sentence
