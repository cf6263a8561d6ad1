"""Exports of small trained runs: files equal the checkpoint from any number of ranks; a failure leaves nothing."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
from torch.distributed.run import get_args_parser

from components.cli import parse
from components.recipes import RECIPES
from datapipes.errors import UserError
from models.encoder import Encoder
from retrieval import encoder, exporter
from retrieval.export import ExportConfig, export
from retrieval.manifest import ExportManifest
from tests.conftest import random_sessions, write_dataset
from tests.ranks import run_on_ranks
from training.build import build_model, table_weight
from training.checkpoint import load_best
from training.config import RunConfig
from training.loop import train
from training.run import RunDirectory

TRACKS, DIM, LONGEST = 203, 16, 12
DIRECTIONS = {"unidirectional": "best", "bidirectional": "bidir"}
pytestmark = pytest.mark.ranks


def small(recipe: str, folder: Path, **table) -> RunConfig:
    config = RECIPES[recipe]()
    return replace(
        config,
        run_dir=str(folder / f"run-{recipe}-{'-'.join(table.values())}"),
        data=replace(config.data, path=str(folder / "data"), batch_size=16, lanes=4, negatives=30, workers=0),
        table=replace(config.table, dim=DIM, **table),
        encoder=replace(config.encoder, heads=2, hidden=16, max_length=LONGEST),
        train=replace(config.train, epochs=2),
        evaluate=replace(config.evaluate, candidates=50),
    )


def trained_table(run_path: str) -> torch.Tensor:
    """The checkpoint's table, whole, on the one rank that runs this."""
    run = RunDirectory.open(run_path)
    model = build_model(run.config, TRACKS)
    load_best(model, run.path)
    return table_weight(model).local_shards()[0].tensor.clone()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A data set, a run of each direction, the table of each, and their exports from 1 and from 2 ranks."""
    folder = tmp_path_factory.mktemp("export")
    write_dataset(folder / "data", random_sessions(90, TRACKS, LONGEST), TRACKS)
    for direction, recipe in DIRECTIONS.items():
        config = small(recipe, folder)
        run_on_ranks(folder, 1, train_quietly, config, recipe)
        os.rename(config.run_dir, folder / direction)
        torch.save(run_on_ranks(folder, 1, trained_table, str(folder / direction))[0], folder / f"{direction}.pt")
        for ranks in (1, 2):
            run_on_ranks(folder, ranks, export, ExportConfig(str(folder / direction), folder / f"{direction}-{ranks}"))
    return folder


def train_quietly(config: RunConfig, recipe: str) -> None:
    train(config, recipe)


def read_parts(output: Path) -> tuple[list[str], np.ndarray, torch.Tensor]:
    parts = [pq.read_table(output / part["file"]) for part in ExportManifest.read(output).parts]
    assert all(part.schema.field("embedding").type == pa.list_(pa.float32(), DIM) for part in parts)
    table = pa.concat_tables(parts)
    rows = table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, DIM)
    return table["track_id"].to_pylist(), table["row"].to_numpy(), torch.from_numpy(rows.copy())


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_parts_hold_the_checkpoint_in_row_order(direction: str, ranks: int, folder: Path):
    output = folder / f"{direction}-{ranks}"
    identities, rows, embeddings = read_parts(output)
    assert identities == [f"t_{row:05}" for row in range(TRACKS)]
    assert rows.tolist() == list(range(TRACKS))
    assert torch.equal(embeddings, torch.load(folder / f"{direction}.pt"))
    assert len(ExportManifest.read(output).parts) == ranks == len(list((output / "embeddings").iterdir()))


@pytest.mark.parametrize("ranks", [1, 2])
def test_manifest_tells_the_truth(ranks: int, folder: Path):
    output = folder / f"bidirectional-{ranks}"
    manifest = ExportManifest.read(output)
    row = 0
    for part in manifest.parts:
        assert part["first_row"] == row
        row += part["rows"]
    for entry in [*manifest.parts, manifest.encoder]:
        content = (output / entry["file"]).read_bytes()
        assert entry["bytes"] == len(content) and entry["sha256"] == hashlib.sha256(content).hexdigest()
    assert (manifest.rows, manifest.dim, manifest.dtype) == (row, DIM, "float32") and row == TRACKS
    identities = read_parts(output)[0]
    assert manifest.vocabulary_hash == hashlib.sha256("".join(f"{name}\n" for name in identities).encode()).hexdigest()
    assert manifest.config["encoder"]["direction"] == manifest.encoder["direction"] == "bidirectional"
    assert (manifest.recipe, manifest.encoder["max_tracks"]) == ("bidir", LONGEST - 1)
    assert manifest.compared["sessions"] == 2 * 90 and manifest.compared["largest_difference"] <= 1e-5
    files = {path.name for path in output.rglob("*") if path.is_file()}
    assert files == {"manifest.json", "encoder.pt2"} | {f"part-0000{rank}.parquet" for rank in range(ranks)}


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_program_equals_the_model(direction: str, batch: int, folder: Path):
    """From the files alone, against an encoder filled by hand from the checkpoint, at every length."""
    output = folder / f"{direction}-2"
    manifest = ExportManifest.read(output)
    table = read_parts(output)[2]
    program = torch.export.load(output / "encoder.pt2").module()
    live = run_on_ranks(folder, 1, trained_encoder, str(folder / direction))[0]
    generator = torch.Generator().manual_seed(batch)
    for width in range(1, manifest.encoder["max_tracks"] + 1):
        rows_BT = torch.randint(TRACKS, (batch, width), generator=generator)
        lengths_B = torch.randint(1, width + 1, (batch,), generator=generator)
        items = table[rows_BT] * (torch.arange(width) < lengths_B[:, None])[:, :, None]
        queries = program(items, lengths_B)
        assert queries.shape == (batch, DIM)
        for session, length in enumerate(lengths_B.tolist()):
            torch.testing.assert_close(queries[session], by_hand(live, items[session, :length]), rtol=1e-5, atol=1e-5)


def trained_encoder(run_path: str) -> Encoder:
    run = RunDirectory.open(run_path)
    model = build_model(run.config, TRACKS)
    load_best(model, run.path)
    copy = Encoder(run.config.encoder, DIM)
    copy.load_state_dict(model.module.learner.encoder.state_dict())
    return copy.eval()


@torch.no_grad()
def by_hand(live: Encoder, items_LD: torch.Tensor) -> torch.Tensor:
    """The prediction of one session without padding, as training's code makes it."""
    masked = torch.zeros(1, len(items_LD), dtype=torch.bool)
    if live.mask_token is not None:
        items_LD = torch.cat([items_LD, torch.zeros(1, DIM)])
        masked = torch.arange(len(items_LD))[None] == len(items_LD) - 1
    return live(items_LD[None], torch.tensor([len(items_LD)]), masked)[0, -1]


def test_column_wise_run_is_exported_in_blocks_of_rows(folder: Path):
    config = small("best", folder, sharding="column_wise", optimizer="sgd")
    run_on_ranks(folder, 2, train_quietly, config, "best")
    expected = run_on_ranks(folder, 1, trained_table, config.run_dir)[0]
    run_on_ranks(folder, 3, export, ExportConfig(config.run_dir, folder / "of-columns"))
    assert [part["rows"] for part in ExportManifest.read(folder / "of-columns").parts] == [68, 68, 67]
    assert torch.equal(read_parts(folder / "of-columns")[2], expected)


def refusal(config: ExportConfig) -> str:
    try:
        export(config)
    except UserError as error:
        return str(error)
    return "not refused"


def refused(folder: Path, ranks: int, run: Path, output: Path, overwrite: bool = False) -> str:
    """The sentence that every rank ends with; nothing may have appeared beside `output`."""
    before = sorted(path.name for path in output.parent.iterdir())
    sentences = set(run_on_ranks(folder, ranks, refusal, ExportConfig(str(run), output, overwrite)))
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
    shutil.rmtree(run / "checkpoint")
    assert "checkpoint cannot be read" in refused(folder, 2, run, tmp_path / "out")


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("file", ["__0_0.distcp", ".metadata"])
def test_corrupted_checkpoint(file: str, ranks: int, folder: Path, run: Path, tmp_path: Path):
    damaged = run / "checkpoint" / file
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    assert "checkpoint cannot be read" in refused(folder, ranks, run, tmp_path / "out")


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
def test_vocabulary_that_its_manifest_does_not_know(change, words: str, folder: Path, run: Path, tmp_path: Path):
    """The hash in both manifests is right, and the file is not what it says."""
    data = Path(shutil.copytree(folder / "data", tmp_path / "data"))
    pq.write_table(change(pq.read_table(data / "vocabulary.parquet")), data / "vocabulary.parquet")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(str(folder / "data"), str(data)))
    assert words in refused(folder, 2, run, tmp_path / "out")


def test_part_that_differs_on_one_rank(monkeypatch, folder: Path, run: Path, tmp_path: Path):
    write_part = exporter.write_part

    def write_wrongly(file: Path, vocabulary, first: int, rows_RD: torch.Tensor) -> None:
        rows_RD = rows_RD.clone()
        if first:
            rows_RD[-1, -1] = -rows_RD[-1, -1]
        write_part(file, vocabulary, first, rows_RD)

    monkeypatch.setattr(exporter, "write_part", write_wrongly)
    assert "part-00001.parquet read back differs" in refused(folder, 2, run, tmp_path / "out")


def test_program_that_differs(monkeypatch, folder: Path, run: Path, tmp_path: Path):
    forward = encoder.QueryEncoder.forward
    monkeypatch.setattr(
        encoder.QueryEncoder, "forward", lambda self, items_BTD, lengths_B: forward(self, items_BTD, lengths_B) + 1e-3
    )
    assert "encoder program read back differs from the model by 1.0e-03" in refused(folder, 2, run, tmp_path / "out")


def test_fault_of_one_rank_ends_all(monkeypatch, folder: Path, run: Path, tmp_path: Path):
    write_part = exporter.write_part

    def fail_on_one(*arguments) -> None:
        if dist.get_rank() == 1:
            raise OSError(28, "No space left on device")
        write_part(*arguments)

    monkeypatch.setattr(exporter, "write_part", fail_on_one)
    assert "No space left" in refused(folder, 2, run, tmp_path / "out")


def test_options_survive_torchrun():
    """Python 3.11's torchrun stops at any option that could be short for two spellings of its own; `--run` is one."""
    options = ["--run-dir", "runs/demo", "--output", "exports/demo", "--overwrite"]
    passed_on = get_args_parser().parse_args(["-m", "components", "export", *options]).training_script_args
    assert passed_on == ["export", *options]
    config = ExportConfig("runs/demo", Path("exports/demo"), overwrite=True)
    assert parse(ExportConfig, options, "export") == config
    assert parse(ExportConfig, ["--run", *options[1:]], "export") == config


def test_snippets_of_the_manual_run(folder: Path, tmp_path: Path):
    """In a fresh process that cannot import this package: what a server has."""
    text = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    shutil.copytree(folder / "bidirectional-2", tmp_path / "exports" / "demo")
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = done.stdout.split()
    assert len(shown) == 10 and not {"t_00017", "t_00018", "t_00019"} & set(shown)
