"""Runs with `norm_first` from before its final norm are refused by a sentence, not read without it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from skipwise.common.distributed import process_group
from skipwise.common.errors import UserError
from skipwise.datapipes.sessions import SessionStore
from skipwise.models.encoder import Encoder
from skipwise.training.build import build_model
from skipwise.training.checkpoint.checkpoints import best_checkpoint, load_tensors, open_checkpoint
from skipwise.training.checkpoint.state import model_tensors
from skipwise.training.loop import train
from tests.conftest import random_sessions
from tests.training.checkpoint.test_resume import SESSIONS, TRACKS, config_of


class OlderEncoder(Encoder):
    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.final_norm = None


def test_its_weights_are_refused(make_dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = make_dataset(random_sessions(SESSIONS, TRACKS), TRACKS)
    config = config_of(data, tmp_path / "run", epochs=1)
    config = replace(config, encoder=replace(config.encoder, norm_first=True))
    with process_group():
        with monkeypatch.context() as older:
            older.setattr("skipwise.training.build.Encoder", OlderEncoder)
            train(config, "best")
        path = best_checkpoint(tmp_path / "run")
        tensors = model_tensors(build_model(config, SessionStore(str(data)).num_tracks))
        assert torch.equal(tensors["model.learner.encoder.final_norm.weight"], torch.ones(16))
        with pytest.raises(UserError, match="final_norm.*: it was written by another version or config; train again"):
            load_tensors(tensors, path, open_checkpoint(path))
