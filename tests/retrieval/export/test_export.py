"""Exports of small trained runs, from 1 and from 2 ranks, against the checkpoint they were made of."""

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from skipwise.components.export import export
from skipwise.models.encoder import Encoder
from skipwise.models.query_encoder import QueryEncoder
from skipwise.retrieval.export.config import ExportConfig
from skipwise.retrieval.export_manifest import ExportManifest
from skipwise.retrieval.open_export import OpenExport
from skipwise.training.build import build_model
from skipwise.training.checkpoint.checkpoints import load_best
from skipwise.training.run.directory import RunDirectory
from tests.ranks import run_on_ranks
from tests.retrieval.conftest import DIM, DIRECTIONS, LONGEST, TRACKS, save_untrained, small, trained_table

pytestmark = pytest.mark.ranks


def read_parts(output: Path) -> tuple[list[str], np.ndarray, torch.Tensor]:
    parts = [pq.read_table(output / part.file) for part in ExportManifest.read(output).parts]
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
        assert part.first_row == row
        row += part.rows
    for entry in [*manifest.parts, manifest.encoder, manifest.weights, manifest.queries]:
        content = (output / entry.file).read_bytes()
        assert entry.bytes == len(content) and entry.sha256 == hashlib.sha256(content).hexdigest()
    assert (manifest.rows, manifest.dim, manifest.dtype) == (row, DIM, "float32") and row == TRACKS
    identities = read_parts(output)[0]
    assert manifest.vocabulary_hash == hashlib.sha256("".join(f"{name}\n" for name in identities).encode()).hexdigest()
    assert manifest.config["encoder"]["direction"] == manifest.encoder.direction == "bidirectional"
    assert (manifest.recipe, manifest.encoder.max_tracks) == ("bidir", LONGEST - 1)
    assert manifest.compared["sessions"] == 2 * 90 and manifest.compared["largest_difference"] <= 1e-5
    files = {path.name for path in output.rglob("*") if path.is_file()}
    assert files == {"manifest.json", "encoder.safetensors", "encoder.pt2", "queries.npy"} | {
        f"part-0000{rank}.parquet" for rank in range(ranks)
    }


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
    for width in range(1, manifest.encoder.max_tracks + 1):
        rows_BT = torch.randint(TRACKS, (batch, width), generator=generator)
        lengths_B = torch.randint(1, width + 1, (batch,), generator=generator)
        items = table[rows_BT] * (torch.arange(width) < lengths_B[:, None])[:, :, None]
        queries = program(items, lengths_B)
        assert queries.shape == (batch, DIM)
        for session, length in enumerate(lengths_B.tolist()):
            torch.testing.assert_close(queries[session], by_hand(live, items[session, :length]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_rebuilt_encoder_gives_the_programs_queries(direction: str, folder: Path):
    """To the last bit: what skipwise serves is what others serve."""
    opened = OpenExport.open(folder / f"{direction}-2")
    assert isinstance(opened.encoder, QueryEncoder)
    program = torch.export.load(folder / f"{direction}-2" / "encoder.pt2").module()
    for batch, width in ((1, 1), (1, opened.view.length), (9, 4), (64, opened.view.length)):
        rows_BT = torch.randint(TRACKS, (batch, width))
        lengths_B = torch.randint(1, width + 1, (batch,))
        items_BTD = torch.from_numpy(opened.vectors.take(rows_BT.flatten().numpy())).view(batch, width, DIM)
        items_BTD = items_BTD * (torch.arange(width) < lengths_B[:, None])[:, :, None]
        assert torch.equal(opened.encoder(items_BTD, lengths_B), program(items_BTD, lengths_B))


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
        items_LD = torch.cat([items_LD, torch.zeros(1, items_LD.shape[1])])
        masked = torch.arange(len(items_LD))[None] == len(items_LD) - 1
    return live.padded(items_LD[None], torch.tensor([len(items_LD)]), masked)[0, -1]


def test_column_wise_run_is_exported_in_blocks_of_rows(folder: Path):
    config = small("best-skip-blind", folder, sharding="column_wise", optimizer="sgd")
    run_on_ranks(folder, 2, save_untrained, config)
    expected = run_on_ranks(folder, 1, trained_table, config.run_dir)[0]
    run_on_ranks(folder, 3, export, ExportConfig(config.run_dir, folder / "of-columns"))
    assert [part.rows for part in ExportManifest.read(folder / "of-columns").parts] == [68, 68, 67]
    assert torch.equal(read_parts(folder / "of-columns")[2], expected)


def test_snippets_of_the_manual_run(folder: Path, tmp_path: Path):
    """In a fresh process, with nothing of this package or TorchRec: what a server has."""
    text = (Path(__file__).parents[3] / "docs" / "export.md").read_text().partition("## Other formats")[0]
    shutil.copytree(folder / "bidirectional-2", tmp_path / "exports" / "demo")
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    code += "\nimport sys\nassert not {'skipwise', 'torchrec'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = done.stdout.split()
    assert len(shown) == 10 and not {"t_00017", "t_00018", "t_00019"} & set(shown)
