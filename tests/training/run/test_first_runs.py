"""A run directory as the first version of this layout wrote it: before `init_from`, without rows of its own."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from skipwise.common.distributed import process_group
from skipwise.common.errors import UserError
from skipwise.components.show import ShowConfig, show
from skipwise.training.checkpoint.checkpoints import best_checkpoint, find_newest, load_tensors, open_checkpoint
from skipwise.training.config import SelectionConfig
from skipwise.training.run.directory import RunDirectory
from tests.conftest import random_sessions, write_dataset

TRACKS = 30
CONFIG = """\
run_dir: runs/best-001
resume: auto
data:
  path: DATA
  batch_size: 128
  negatives: 1000
  sampling: shared
  skip_up_to: 2
  skip_flags: recorded
  skipped_tracks: read
  skip_negatives: own
  lanes: 16
  shuffle_groups: 8
  workers: 1
  prefetch: 4
table:
  dim: 8
  optimizer: rowwise_adagrad
  learning_rate: 0.05
  eps: 1.0e-08
  sharding: row_wise
  init_bound: 0.02
encoder:
  direction: unidirectional
  max_length: 20
  positions: learned
  blocks: 2
  heads: 8
  hidden: 128
  dropout: 0.2
  track_dropout: 0.0
  norm_first: false
  mask_probability: 0.2
loss:
  context: track
  alpha: 0.5
  beta: 0.5
  temperature: 1.0
  queries: all
  head: softmax
  calibration: 0.75
  in_batch: false
optimizer:
  learning_rate: 0.001
  weight_decay: 0.0
  clip_norm: 5.0
  warmup_steps: 0
  decay_to: 1.0
train:
  epochs: 60
  patience: 6
  seed: 0
  precision: fp32
  matmul: medium
  refit: false
  validation_sessions: 50000
  log_every: 20
  hang_s: 600.0
evaluate:
  candidates: 1000
  seed: 0
  sessions: 0
  batch_size: 512
  filter_history: true
checkpoint:
  minutes: 10.0
  every: 0
  keep: 2
"""
FIGURES = {
    "hr@1": 0.25, "hr@5": 0.5, "hr@10": 0.5, "hr@20": 0.75, "ndcg@10": 0.4, "mrr": 0.3, "sessions": 90,
    "skipped_percentile": 40.0, "skipped_hr@10": 0.5, "skipped_sessions": 45,
    "kept_percentile": 30.0, "kept_hr@10": 0.5, "kept_sessions": 45,
}  # fmt: skip


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    """The directory, written without any code of this version but the dataset's."""
    data = write_dataset(tmp_path / "data", random_sessions(90, TRACKS), TRACKS)
    manifest = json.loads((data / "manifest.json").read_text())
    run = tmp_path / "runs" / "best-001"
    checkpoint = run / "checkpoints" / "train-00003-00000000"
    checkpoint.mkdir(parents=True)
    (run / "config.yaml").write_text(CONFIG.replace("DATA", str(data)))
    record = {
        "schema_version": 2,
        "recipe": "best",
        "ranks": 1,
        "vocabulary_hash": manifest["vocabulary_hash"],
        "counts": manifest["counts"],
        "versions": {"torch": "2.12.0+cpu", "torchrec": "1.7.0+cpu"},
        "launch": None,
    }
    (run / "run.json").write_text(json.dumps(record, indent=2) + "\n")
    (run / "vocabulary.parquet").write_bytes((data / "vocabulary.parquet").read_bytes())
    train = {"sessions_per_s": 900.0, "epochs": 4, "best_epoch": 2, "seconds": 12.5}
    metrics = {"uniform": {"validation": FIGURES, "test": FIGURES}, "full": {"test": FIGURES}, "train": train}
    (run / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")

    name = "table.embedding_bags.tracks.weight"
    part = checkpoint / "part-00000.safetensors"
    save_file({f"model.{name}@0,0": torch.arange(TRACKS * 8.0).reshape(TRACKS, 8)}, part)
    position = {
        "phase": "train", "epoch": 3, "step": 0, "best": 0.5, "best_epoch": 2,
        "best_checkpoint": "train-00003-00000000", "steps": 8, "seconds": 12.5, "results": {},
    }  # fmt: skip
    content = {
        "schema_version": 1,
        "ranks": 1,
        "position": position,
        "vocabulary_hash": manifest["vocabulary_hash"],
        "config": {"run_dir": "runs/best-001"},
        "tensors": {
            f"model.{name}": {
                "dtype": "F32",
                "shape": [TRACKS, 8],
                "chunks": [{"offsets": [0, 0], "shape": [TRACKS, 8], "file": part.name}],
            }
        },
        "files": [
            {
                "file": part.name,
                "bytes": part.stat().st_size,
                "sha256": hashlib.sha256(part.read_bytes()).hexdigest(),
            }
        ],
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (checkpoint / "checkpoint.json").write_text(json.dumps({"content": content, "sha256": digest}, indent=1) + "\n")
    for pointer in ("latest", "best"):
        (run / "checkpoints" / pointer).write_text(f"{checkpoint.name}\n")
    return run


def test_its_record_config_and_data_are_read(old_run: Path):
    run = RunDirectory.open(str(old_run))
    assert (run.record.num_rows, run.record.rows_hash) == (TRACKS, run.record.vocabulary_hash)
    assert (run.record.recipe, run.record.world_size) == ("best", 1)
    assert (run.config.table.dim, run.config.init_from, run.config.vanished) == (8, "", "keep")
    assert not run.config.loss.mask_repeats, "it took repeats as negatives"
    assert run.finished and run.open_store().num_tracks == TRACKS
    run.vocabulary.check()
    assert sum(len(ids) for _, ids in run.vocabulary.ids(0, TRACKS)) == TRACKS


def test_its_weights_are_loaded(old_run: Path):
    with process_group():
        path = best_checkpoint(old_run)
        weight = torch.zeros(TRACKS, 8)
        load_tensors({"model.table.embedding_bags.tracks.weight": weight}, path, open_checkpoint(path))
        assert torch.equal(weight, torch.arange(TRACKS * 8.0).reshape(TRACKS, 8))
        name, index = find_newest(old_run)
    position = index.position
    assert name == position.best_checkpoint == "train-00003-00000000" and position.best_epoch == 2


def test_its_figures_are_not_shown_under_the_present_names(old_run: Path, capsys: pytest.CaptureFixture):
    """Its `full` left out what the session had heard, but for the target."""
    show(ShowConfig(((str(old_run),),)))
    said = capsys.readouterr().out
    assert "of an older version: measure the run again with evaluate --run" in said and "0.2500" not in said
    assert "best after epoch 2 by validation paper HR@10" in said


def test_its_config_is_read_by_the_present_names(old_run: Path):
    """It chose by HR@10 among uniform tracks, and says how many sessions it was validated on."""
    config = RunDirectory.open(str(old_run)).config
    assert config.selection == SelectionConfig("hr@10", "paper", sessions=50_000)
    fields = yaml.safe_load((old_run / "config.yaml").read_text())
    fields["train"]["validation_sessions"] = 7
    (old_run / "config.yaml").write_text(yaml.safe_dump(fields))
    assert RunDirectory.open(str(old_run)).config.selection.sessions == 7


def test_a_record_that_lost_its_rows_alone_is_refused(old_run: Path):
    record = json.loads((old_run / "run.json").read_text())
    (old_run / "run.json").write_text(json.dumps(record | {"rows_hash": "0" * 64}))
    with pytest.raises(UserError, match="run.json has no field 'rows': restore the file, or train again"):
        RunDirectory.open(str(old_run))
