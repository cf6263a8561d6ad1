"""Each ablation changes one thing of the row it is compared with, and trains."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from skipwise.common.distributed import process_group
from skipwise.components.recipes import named_recipe
from skipwise.components.recipes.ablations import ABLATIONS, MSSD_CONTEXT
from skipwise.components.train import read_command_line
from skipwise.training.config import RunConfig
from skipwise.training.loop import train
from tests.conftest import random_sessions, write_dataset
from tests.support.contexts import add_contexts, words

TRACKS, LONGEST = 300, 20


def fields_of(config: RunConfig) -> dict[str, object]:
    sections = {name: value for name, value in asdict(config).items() if isinstance(value, dict)}
    return {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()}


@pytest.mark.parametrize("name", ABLATIONS)
def test_one_thing_is_changed(name: str):
    mine, other = (fields_of(named_recipe(row)) for row in (name, ABLATIONS[name].baseline))
    changed = {field for field in mine if mine[field] != other[field]}
    skip_loss = {"loss.context", "loss.alpha", "loss.beta"}
    # The skip loss goes or comes as a whole. Two settings: in-batch negatives alone; the loss as published, sharpened;
    # skips read and learned; encoders that tell order in their own way.
    two = {
        **{f"{name}-blind": {"encoder.kind", "encoder.positions"} for name in ("hstu", "gru", "nextitnet")},
        "inputs-keep": {"data.inputs", "loss.keep"},
        "in-batch": {"data.negatives", "loss.in_batch"},
        "track-repeats-0.1": {"loss.mask_repeats", "loss.temperature"},
    }
    assert len(changed - skip_loss) <= 1 or changed - skip_loss == two[name]
    encoders = ("norm-first", "ligr", "hstu", "gru", "nextitnet")
    if name in ("shared", *encoders) or name.startswith(("shuffled-context", "shuffled-track", "track-", "context-")):
        assert skip_loss <= changed
    elif name.endswith("-contrast"):
        assert changed == {"loss.context", "loss.alpha"}
    else:
        assert changed and not changed & skip_loss or changed == {"loss.alpha"}


def test_every_ablation_is_a_recipe_of_train():
    for name in ABLATIONS:
        assert read_command_line([name]) == (name, named_recipe(name))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ablations") / "data"
    data = write_dataset(folder, random_sessions(60, TRACKS, LONGEST), TRACKS, 40, 1)
    add_contexts(data, dict.fromkeys(MSSD_CONTEXT, words("a", "b", None)), 40)
    return data


# Of the lengths of one model, the longest alone.
@pytest.mark.parametrize("name", [name for name in ABLATIONS if not name.startswith("bidir-long-")])
def test_every_ablation_trains(name: str, data: Path, tmp_path: Path):
    config = named_recipe(name)
    with process_group():
        run = train(
            replace(
                config,
                run_dir=str(tmp_path / "run"),
                data=replace(
                    config.data, path=str(data), workers=0, batch_size=32, negatives=min(config.data.negatives, 50)
                ),
                table=replace(config.table, dim=16),
                encoder=replace(config.encoder, heads=2, hidden=16, dropout=0.0),
                train=replace(config.train, epochs=4, log_every=1),
                evaluate=replace(config.evaluate, candidates=50),
                loss=replace(config.loss, hardest=min(config.loss.hardest, 10)),
            ),
            name,
        )
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert losses[-1] < losses[0]
