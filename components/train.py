"""Train a recipe: its config, changed by a YAML file and then by options: the last wins."""

import textwrap
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from skipwise.common.errors import UserError
from skipwise.common.files import read_yaml
from skipwise.common.stores import Place
from skipwise.components.cli import parse
from skipwise.components.recipes import DEFAULT, RECIPES, named_recipe
from skipwise.components.recipes.ablations import ABLATIONS
from skipwise.training.config import RunConfig
from skipwise.training.config_fields import from_mapping

if TYPE_CHECKING:
    from skipwise.training.run.directory import RunDirectory

_HELP = """Train a recipe: its config, changed by a YAML file and then by options.

  skipwise train [RECIPE] [--config FILE.yaml] [--print-config] [OPTIONS]

Recipes:
{recipes}

Ablations:
{ablations}

  --config FILE.yaml  fields to change, by section
  --print-config      print the resulting config as such a file, and train nothing

Example:
  skipwise train best --data.path data/log --train.epochs 20
  torchx run dist.ddp -j 1x4 train best --data.path data/log
"""


def main(argv: list[str]) -> None:
    """Trains; makes the sample dataset first where it is asked for and missing."""
    print_config = "--print-config" in argv
    recipe, config = read_command_line([word for word in argv if word != "--print-config"])
    if print_config:
        print(yaml.safe_dump(asdict(config), sort_keys=False), end="")
        return
    from skipwise.common.distributed import logger, process_group
    from skipwise.datapipes.sample import ensure_sample

    with process_group():
        ensure_sample(config.data.path)
        run = _train(config, recipe)
        logger.info(f"run directory: {Place.of(config.run_dir) or run.path}")


def _train(config: RunConfig, recipe: str) -> "RunDirectory":
    if not config.follow:
        from skipwise.training.loop import train

        return train(config, recipe)
    from skipwise.retrieval.export.delta_writer import DeltaWriter
    from skipwise.training.follow.follow import follow

    stream = config.stream
    return follow(config, recipe, DeltaWriter(stream.deltas, stream.deltas_kept) if stream.deltas else None)


def read_command_line(argv: list[str]) -> tuple[str, RunConfig]:
    """The recipe's name and the whole config that a command line asks for."""
    recipe, words = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else (DEFAULT, argv)
    config = named_recipe(recipe)
    file, words = _take_config_file(words)
    if file:
        config = from_mapping(config, read_yaml(Path(file)), file)
    chosen = parse(RunConfig, words, f"skipwise train {recipe}", config, _description())
    _refuse_unread(config, chosen)
    return recipe, chosen


def _refuse_unread(before: RunConfig, chosen: RunConfig) -> None:
    """Raises `UserError` for an option of a part of the loss, the encoder, the data or the stream that is not there."""
    for name in ("epochs", "patience", "refit"):
        if chosen.follow and getattr(before.train, name) != getattr(chosen.train, name):
            raise UserError(f"--train.{name} changes nothing with --follow, which goes on for ever: leave it out")
    if not chosen.follow and before.stream != chosen.stream:
        raise UserError("--stream options change nothing without --follow: name the folder of parts, or leave them out")
    loss, encoder = chosen.loss, chosen.encoder
    parts = {
        "with --loss.context output or track": (
            loss.context != "none",
            "loss",
            ("alpha", "temperature", "queries", "mask_repeats"),
        ),
        "with --loss.keep above 0": (loss.keep > 0, "loss", ("keep_dim", "keep_dropout")),
        "with --loss.head gbce": (loss.head == "gbce", "loss", ("calibration",)),
        "with --encoder.kind transformer, ligr or hstu": (encoder.attends, "encoder", ("heads",)),
        "with --encoder.kind transformer, ligr or gru": (
            encoder.kind not in ("hstu", "nextitnet"),
            "encoder",
            ("hidden",),
        ),
        "with --encoder.direction bidirectional": (
            encoder.direction == "bidirectional",
            "encoder",
            ("mask_probability",),
        ),
        "with --loss.in-batch": (loss.in_batch, "stream", ("half_life",)),
        "with --data.features": (bool(chosen.data.features), "data", ("id_dropout",)),
    }
    for where, (is_there, section, names) in parts.items():
        was, now = getattr(before, section), getattr(chosen, section)
        for name in names:
            if not is_there and getattr(was, name) != getattr(now, name):
                flag = f"--{section}.{name.replace('_', '-')} {getattr(now, name)}"
                raise UserError(f"{flag} changes nothing here: it is read {where}; add that, or leave it out")


def _description() -> str:
    recipes = [f"{name} (the default)" if name == DEFAULT else name for name in RECIPES]
    wrap = partial(textwrap.fill, width=78, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    return _HELP.format(recipes=wrap(", ".join(recipes)), ablations=wrap(", ".join(ABLATIONS)))


def _take_config_file(argv: list[str]) -> tuple[str | None, list[str]]:
    rest, file = [], None
    words = iter(argv)
    for word in words:
        if word != "--config" and not word.startswith("--config="):
            rest.append(word)
            continue
        if file is not None:
            raise UserError("--config is given twice: write one YAML file")
        file = next(words, None) if word == "--config" else word.removeprefix("--config=")
        if not file:
            raise UserError("--config needs a YAML file")
    return file, rest
