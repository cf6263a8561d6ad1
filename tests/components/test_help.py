"""The help of every command, and of all."""

import inspect
import re
import sys

import pytest

from skipwise.components import launch
from skipwise.components.__main__ import COMMANDS, main
from skipwise.components.recipes import RECIPES
from skipwise.components.recipes.ablations import ABLATIONS


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_is_whole(command: str, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["skipwise", command, "--help"])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr()
    assert stop.value.code == 0 and said.err == ""
    assert said.out.startswith(f"usage: skipwise {command}") and "--help" in said.out
    assert re.search(rf"Examples?:\n  skipwise {command} ", said.out)


def test_help_of_all(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["skipwise", "--help"])
    main()
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said and text in said for name, text in COMMANDS.items())
    assert "torchx run components/launch.py:JOB" in said
    jobs = {name for name, job in inspect.getmembers(launch, inspect.isfunction) if not name.startswith("_")}
    listed = re.search(r"JOB is (.*) or (\w+);", said)
    assert {*listed[1].split(", "), listed[2]} == jobs
    assert all(f":{job}`" in launch.__doc__ for job in jobs)


def test_help_of_train_names_recipes_and_files(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["skipwise", "train", "--help"])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().out
    assert all(name in said for name in [*RECIPES, *ABLATIONS, "--config FILE.yaml", "--print-config"])


def test_help_of_prepare_is_in_groups(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["skipwise", "prepare", "--help"])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().out
    places = [
        said.index(word) for word in ("input options", "--order", "skips options", "--rating", "sessions options")
    ]
    places += [
        said.index(word) for word in ("--min-length", "split options", "--test-share", "output options", "--memory")
    ]
    assert places == sorted(places)
