"""The running mean of the dense weights: by hand, in validation and checkpoints, and from another run."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from skipwise.common.distributed import process_group
from skipwise.datapipes.sessions import SessionStore
from skipwise.training.build import HeldOut, build_model, reading_inputs, train_loader
from skipwise.training.checkpoint.checkpoints import best_checkpoint
from skipwise.training.config import OptimizerConfig, RunConfig
from skipwise.training.evaluation.evaluator import Evaluator
from skipwise.training.loop import train
from skipwise.training.trainer import Trainer, seed_dropout
from tests.conftest import random_sessions, write_dataset
from tests.training.checkpoint.test_resume import TRACKS, config_of, story_of, tensors_of

NAME = "learner.encoder.blocks.0.merge.weight"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("average") / "data", random_sessions(160, TRACKS), TRACKS)


def averaging(config: RunConfig, decay: float) -> RunConfig:
    return replace(config, optimizer=replace(config.optimizer, average=decay))


def test_the_mean_is_what_is_validated_saved_and_tested(data: Path, tmp_path: Path):
    """Written out beside training without one, whose steps are the same: of step n the mean takes 1 less the decay, at
    first less n / (n + 9)."""
    plain = config_of(data, tmp_path / "plain", epochs=2)
    config = averaging(config_of(data, tmp_path / "averaged", epochs=2), 0.7)
    with process_group():
        run = train(config, "best")
        store = reading_inputs(plain, SessionStore(str(data)))
        model = build_model(plain, store.num_tracks)
        loader, weights = train_loader(plain, store), dict(model.named_parameters())
        trainer = Trainer(plain, model, 2 * loader.steps)
        means = {name: weight.detach().clone() for name, weight in weights.items() if "table" not in name}
        done, validations, saved = 0, [], {}
        for epoch in (1, 2):
            batches = loader.epoch(epoch)
            for step in range(loader.steps):
                seed_dropout(0, epoch, step)
                trainer.step(batches)
                done += 1
                decay = min(0.7, done / (done + 9))
                for name, mean in means.items():
                    mean.mul_(decay).add_(weights[name].detach(), alpha=1 - decay)
            trainer.detach()
            trained = {name: weights[name].detach().clone() for name in means}
            for name, mean in means.items():
                weights[name].data.copy_(mean)
            held_out = HeldOut.of(config.evaluate, store, "validation")
            measured = Evaluator(config, model).measure(("served", "paper"), "validation", held_out, 0)
            validations.append(measured)
            saved[epoch] = ({name: mean.clone() for name, mean in means.items()}, trained)
            for name, weight in trained.items():
                weights[name].data.copy_(weight)
    lines, metrics, found = story_of(run.path)
    of_validation = [line["ndcg@10"] for line in lines if line["kind"] == "validation"]
    assert of_validation == pytest.approx([each["served"]["ndcg@10"] for each in validations], abs=1e-6)
    best = metrics["train"]["best_epoch"]
    assert metrics["paper"]["validation"]["hr@10"] == pytest.approx(validations[best - 1]["paper"]["hr@10"], abs=1e-6)
    for name, mean in saved[best][0].items():
        if mean.dim():
            torch.testing.assert_close(found[f"model.{name}"], mean, rtol=0, atol=1e-6)
            torch.testing.assert_close(found[f"trained.{name}"], saved[best][1][name], rtol=0, atol=1e-6)
    assert not torch.equal(found[f"model.{NAME}"], found[f"trained.{NAME}"])


def test_the_trained_weights_come_back_to_the_last_bit(data: Path, tmp_path: Path):
    config = averaging(config_of(data, tmp_path / "run"), 0.9)
    with process_group():
        store = reading_inputs(config, SessionStore(str(data)))
        trainer, loader = Trainer(config, build_model(config, store.num_tracks), 10), train_loader(config, store)
        batches = loader.epoch(1)
        for _ in range(3):
            trainer.step(batches)
        trainer.detach()
        weight = dict(trainer.model.named_parameters())[NAME]
        before, saved = weight.detach().clone(), {name: value.clone() for name, value in dense(trainer).items()}
        with pytest.raises(KeyError), trainer.averaged():
            assert torch.equal(weight, saved[f"model.{NAME}"]) and not torch.equal(weight, before)
            assert all(torch.equal(value, saved[name]) for name, value in dense(trainer).items())
            raise KeyError
        assert torch.equal(weight, before)
        assert all(torch.equal(value, saved[name]) for name, value in dense(trainer).items())


def dense(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value for name, value in trainer.tensors().items() if "table" not in name}


def test_a_run_from_another_starts_at_its_mean_with_or_without_one(data: Path, tmp_path: Path):
    with process_group():
        first = train(averaging(config_of(data, tmp_path / "first", epochs=1), 0.9), "best")
        mean = tensors_of(best_checkpoint(first.path))[f"model.{NAME}"]
        for decay in (0.0, 0.5):
            config = averaging(config_of(data, tmp_path / f"next {decay}", epochs=1), decay)
            config = replace(config, init_from=str(first.path))
            # Steps that change nothing leave the weights that the run began with.
            still = OptimizerConfig(learning_rate=1e-30, average=decay, warmup_steps=0)
            run = train(replace(config, optimizer=still), "best")
            found = tensors_of(best_checkpoint(run.path))
            torch.testing.assert_close(found[f"model.{NAME}"], mean, rtol=0, atol=1e-7)


def test_a_decay_of_one_is_refused():
    with pytest.raises(ValueError, match=r"--optimizer.average 1.0 must lie in \[0, 1\)"):
        OptimizerConfig(average=1.0)
