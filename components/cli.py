"""From words on a command line to a typed config: tyro makes the flags and `--help` from the dataclasses."""

import io
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import TypeVar

import tyro

from skipwise.common.errors import UserError, shown
from skipwise.common.options import check_values
from skipwise.datapipes.renamed_options import outdated

Config = TypeVar("Config")
RunPaths = tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]]
"""The type of `--run A --run B`, which may also be written `--run A B`."""


def parse(
    config_class: type[Config],
    argv: list[str],
    program: str,
    default: Config | None = None,
    description: str | None = None,
) -> Config:
    """Reads `argv` into a `config_class`, starting from `default` where there is one.

    `--help` ends every rank with exit code 0; what tyro or the config's `__post_init__` refuses, with exit code 2. Rank
    0 alone prints. Raises `UserError` for values that no option takes.
    """
    _check_completion(argv)
    _check_names(argv)
    # tyro's `console_outputs` silences its help, and not all of its refusals.
    unread = None if os.environ.get("RANK", "0") == "0" else io.StringIO()
    try:
        with redirect_stdout(unread or sys.stdout), redirect_stderr(unread or sys.stderr):
            config = tyro.cli(
                config_class,
                prog=program,
                description=description,
                args=argv,
                default=tyro.MISSING_NONPROP if default is None else default,
                config=(tyro.conf.DisallowNone,),
            )
        check_values(config)
    except ValueError as error:
        raise UserError(str(error)) from error
    except OSError as error:
        if not argv[0].startswith("--tyro"):  # the one file that tyro writes
            raise
        raise UserError(f"--tyro-write-completion cannot write ({error.strerror}): name another file") from error
    return config


def run_paths(given: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    """The run directories of a `RunPaths` option."""
    return tuple(path for paths in given for path in paths)


def _check_names(argv: list[str]) -> None:
    """Names the new name of an option, or of a value, of an older version."""
    option = ""
    for word in argv:
        flag, _, value = word.partition("=")
        option, value = (flag.removeprefix("--"), value) if flag.startswith("--") else (option, word)
        if said := outdated(option, value):
            raise UserError(said)


def _check_completion(argv: list[str]) -> None:
    """tyro takes any word for a shell, and fails on it."""
    option = argv[0].replace("_", "-") if len(argv) > 1 else ""
    shells = ("bash", "zsh", "tcsh", "fish")
    if option in ("--tyro-print-completion", "--tyro-write-completion") and argv[1] not in shells:
        raise UserError(f"{option} must name one of {', '.join(shells)}, not {shown(argv[1])}")
