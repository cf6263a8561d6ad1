"""From words on a command line to a typed config: tyro makes the flags and `--help` from the dataclasses."""

import os
from typing import TypeVar

import tyro

Config = TypeVar("Config")


def parse(
    config_class: type[Config],
    argv: list[str],
    command: str,
    default: Config | None = None,
    program: str = "skipwise",
) -> Config:
    """Reads `argv` into a `config_class`, starting from `default` where there is one.

    What cannot be read, or what the config's `__post_init__` refuses with a `ValueError`, is said by rank 0 alone and
    ends every rank with exit code 2.
    """
    return tyro.cli(
        config_class,
        args=argv,
        prog=f"{program} {command}",
        default=tyro.MISSING_NONPROP if default is None else default,
        console_outputs=os.environ.get("RANK", "0") == "0",
    )
