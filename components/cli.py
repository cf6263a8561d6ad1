"""From words on a command line to a typed config: tyro makes the flags and `--help` from the dataclasses."""

import difflib
import os
from dataclasses import fields, is_dataclass
from typing import NoReturn, TypeVar, get_type_hints

import tyro

# Private, and the only way to a refusal that is not drawn as a box yet. setup.py pins tyro's exact version.
from tyro import _errors as refusals

from skipwise.common.errors import UserError, shown
from skipwise.common.options import check_values

Config = TypeVar("Config")

_SHELLS = ("bash", "zsh", "tcsh", "fish")
_KINDS = {"INT": "a whole number", "FLOAT": "a number", "{None}": "None", "PATH": "a path"}


def parse(
    config_class: type[Config],
    argv: list[str],
    command: str,
    default: Config | None = None,
    program: str = "skipwise",
) -> Config:
    """Reads `argv` into a `config_class`, starting from `default` where there is one.

    Raises `UserError` for what cannot be read, and for what the config's `__post_init__` refuses with a `ValueError`.
    `--help` is printed by rank 0 alone, and ends every rank with exit code 0.
    """
    help_line = f"see `{program} {command} --help`"

    def refuse(event: refusals.ParseErrorEvent) -> NoReturn:
        raise UserError(_sentence(event, config_class, help_line))

    _check_completion(argv)
    try:
        with refusals.on_parse_error(refuse):
            config = tyro.cli(
                config_class,
                args=argv,
                prog=f"{program} {command}",
                default=tyro.MISSING_NONPROP if default is None else default,
                console_outputs=os.environ.get("RANK", "0") == "0",
            )
        check_values(config)
    except ValueError as error:
        raise UserError(str(error)) from error
    except OSError as error:
        if not argv[0].startswith("--tyro"):  # the one file that tyro writes
            raise
        raise UserError(f"--tyro-write-completion cannot write ({error.strerror}): name another file") from error
    return config


def _sentence(event: refusals.ParseErrorEvent, config_class: type, help_line: str) -> str:
    """What is wrong with the command line, what was expected, and where that is written."""
    match event:
        case refusals.MissingArgs():
            wanted = ", ".join(missing.arg.display_name() for missing in event.missing_arguments)
            return f"{wanted} must be given: {help_line}"
        case refusals.UnrecognizedArgs():
            return _unknown(event.tokens[0], config_class, help_line)
        case refusals.InvalidChoice():
            flag, choices = event.argument.display_name(), ", ".join(event.choices)
            return f"{flag} must be one of {choices}, not {shown(event.value)}: {help_line}"
        case refusals.BadValue(reason="too_few_values"):
            return f"{event.argument.display_name()} needs a value: {help_line}"
        case refusals.InstantiationFailure(argument=None):
            return str(event.message)  # a config's own sentence
        case refusals.InstantiationFailure():
            kinds = str(event.argument.lowered.metavar).split("|")
            wanted = " or ".join(_KINDS.get(kind, kind) for kind in reversed(kinds))
            return f"{event.argument.display_name()} must be {wanted}: {help_line}"
    return f"the command line cannot be read ({type(event).__name__}): {help_line}"


def _unknown(word: str, config_class: type, help_line: str) -> str:
    if not word.startswith("-"):
        return f"{shown(word)} belongs to no option: {help_line}"
    flag = word.partition("=")[0]
    near = difflib.get_close_matches(flag[:100], _flags(config_class), n=1)
    meant = f"perhaps {near[0]} was meant, " if near else ""
    return f"there is no option {shown(flag)}: {meant}{help_line}"


def _flags(config_class: type, section: str = "--") -> list[str]:
    hints, flags = get_type_hints(config_class), []
    for name in (field.name for field in fields(config_class)):
        flag = f"{section}{name.replace('_', '-')}"
        flags += _flags(hints[name], f"{flag}.") if is_dataclass(hints[name]) else [flag]
    return flags


def _check_completion(argv: list[str]) -> None:
    """tyro takes any word for a shell, and fails on it."""
    asked = argv[0].replace("_", "-") if len(argv) > 1 else ""
    if asked in ("--tyro-print-completion", "--tyro-write-completion") and argv[1] not in _SHELLS:
        raise UserError(f"{asked} must name one of {', '.join(_SHELLS)}, not {shown(argv[1])}")
