"""Hostile command lines: each ends as the config that was asked for, as its help, or as a refusal."""

import importlib
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from skipwise.components.__main__ import COMMANDS
from skipwise.components.cli import parse
from skipwise.components.recipes import RECIPES
from skipwise.components.train import read_command_line
from skipwise.training.config import RunConfig
from tests.fuzz.cases import REFUSED, cases, is_sound, kinds_of, outcome, plausible


def flags_of(config_class: type) -> dict[str, Any]:
    """The type of each flag."""
    plain = get_args(config_class)[0] if get_origin(config_class) is Annotated else config_class
    return {"--" + ".".join(path).replace("_", "-"): kind for path, kind in kinds_of(plain).items()}


def config_of(command: str) -> Any:
    """What its function takes."""
    function = getattr(importlib.import_module(f"skipwise.components.{command}"), command)
    return get_type_hints(function, include_extras=True)["config"]


CONFIGS = {name: config_of(name) for name in COMMANDS if name != "train"}
REQUIRED = {"--input": "a.csv", "--output": "b.csv", "--run": "r", "--data": "d", "--sessions": "9", "--tracks": "200"}
JUNK = st.one_of(
    st.sampled_from("|--|-|nan|inf|-1|0|3|10|0.5|1e400|10000000000000000000000000|None|True|full|x|\udcff|--x|a\nb|é|"
                    "shared|1_0|0x1|٣|-h9|--run|--config|data.csv".split("|")),
    st.integers(-5, 10**12).map(str),
    st.text(st.characters(exclude_characters="\0"), max_size=6),
)  # fmt: skip


@st.composite
def lines(draw: st.DrawFn, kinds: dict[str, Any]) -> list[str]:
    """Real flags with values of any kind, none at all, joined by `=`, misspelt, repeated."""
    required = kinds.keys() & REQUIRED.keys() - ({"--tracks"} if "--title" in kinds else set())
    words = [word for flag in sorted(required) for word in (flag, REQUIRED[flag])]
    if not draw(st.integers(0, 3)):
        words = []
    for _ in range(draw(st.integers(0, 4))):
        flag = draw(st.sampled_from(list(kinds)))
        if draw(st.booleans()):
            value = draw(plausible(kinds[flag]))
            words += [flag] if value is True else [f"--no-{flag[2:]}"] if value is False else [flag, str(value)]
            continue
        flag = draw(st.sampled_from([flag, flag, flag, flag.replace("-", "_"), flag[:-1], f"--no-{flag[2:]}", ""]))
        value = draw(JUNK)
        words += draw(st.sampled_from([[flag, value], [flag, value], [flag], [f"{flag}={value}"], [value]]))
    return words


def parsed(name: str, argv: list[str], work: Callable[[], Any]) -> Any:
    """As `outcome`; help ends with 0, and what tyro refuses with 2 and words on stderr that say where help is."""
    out, err = StringIO(), StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            return outcome(name, work, "--", "option", "there is no", "cannot be read")
    except SystemExit as stop:
        if stop.code == 2:
            REFUSED[name] += 1
            assert out.getvalue() == "" and "--help" in err.getvalue() and "Traceback" not in err.getvalue()
        else:
            assert stop.code in (0, None) and any(word in ("-h", "--help") for word in argv), argv
        return None


@pytest.mark.parametrize("command", sorted(CONFIGS))
@cases(110)
@given(st.data())
def test_command_lines(command: str, data: st.DataObject):
    """Oracle: a config whose last value of each flag is the one given, or a refusal."""
    kinds = flags_of(CONFIGS[command])
    argv = data.draw(lines(kinds))
    config = parsed("command lines", argv, lambda: parse(CONFIGS[command], argv, f"skipwise {command}"))
    if config is not None:
        is_sound(config)
        for flag, value in given_numbers(argv, kinds).items():
            assert getattr(config, flag[2:].replace("-", "_")) == value


def given_numbers(argv: list[str], kinds: dict[str, Any]) -> dict[str, int]:
    """The last whole number given to each whole-number flag, in the plain form `--flag VALUE`."""
    found = {}
    for flag, value in zip(argv, argv[1:], strict=False):
        if kinds.get(flag) is int and value.lstrip("-").isdecimal():
            found[flag] = int(value)
        elif kinds.get(flag.partition("=")[0].replace("_", "-")) is int:
            return {}
    return {flag: value for flag, value in found.items() if sum(flag in word.replace("_", "-") for word in argv) == 1}


@cases(160)
@given(st.sampled_from([*sorted(RECIPES), "best-of-all", ""]), lines(flags_of(RunConfig) | {"--config": str}))
@example("best", ["--config=", "--data.path", "x"])
@example("best", ["--config", "a.yaml", "--config", "b.yaml"])
def test_train_lines(recipe: str, argv: list[str]):
    words = [recipe, *argv]
    result = parsed("train lines", words, lambda: read_command_line(words))
    if result is not None:
        is_sound(result[1])
