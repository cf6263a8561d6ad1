"""`train [RECIPE] [--config FILE.yaml] [--section.field VALUE ...]`: recipe, file, flags: the last wins."""

from pathlib import Path

from skipwise.common.errors import UserError
from skipwise.common.files import read_yaml
from skipwise.components.cli import parse
from skipwise.components.recipes import DEFAULT, named_recipe
from skipwise.training.config import RunConfig
from skipwise.training.config_fields import from_mapping


def read_command_line(argv: list[str]) -> tuple[str, RunConfig]:
    """The recipe's name and the whole config that a command line asks for."""
    recipe, argv = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else (DEFAULT, argv)
    config = named_recipe(recipe)
    file, argv = _take_config_file(argv)
    if file:
        config = from_mapping(config, read_yaml(Path(file)), file)
    return recipe, parse(RunConfig, argv, f"train {recipe}", default=config)


def main(argv: list[str]) -> None:
    """Trains; makes the sample data set first where it is asked for and not there."""
    recipe, config = read_command_line(argv)
    from skipwise.common.distributed import process_group
    from skipwise.datapipes.sample import ensure_sample
    from skipwise.training.loop import train

    with process_group():
        ensure_sample(config.data.path)
        train(config, recipe)


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
