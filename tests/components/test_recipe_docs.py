"""The recipes and defaults that docs/training.md states, against the configs."""

import re
from pathlib import Path

from skipwise.components.recipes import RECIPES
from skipwise.components.recipes.ablations import ABLATIONS
from skipwise.training.config import RunConfig
from skipwise.training.config_fields import flatten

TEXT = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
DEFAULTS = flatten(RunConfig())


def stated(text: str) -> dict[str, str]:
    """Fields by path, and their values, of the flags in a cell."""
    found = re.findall(r"`--([\w.-]+)(?: (\S+))?`", text)
    return {name.replace("-", "_"): value or "True" for name, value in found}


def rows(heading: str) -> list[list[str]]:
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in table[1:]]


def test_the_defaults():
    found = [(path, value) for *_, cell in rows("Config") for path, value in stated(cell).items()]
    assert len(found) > 20
    assert [(path, str(DEFAULTS[path])) for path, _ in found] == found


def test_every_ablation_has_a_question():
    table = (Path(__file__).parents[2] / "docs" / "table.md").read_text().split("\n## Ablations\n")[1].split("\n## ")[0]
    named = [
        name
        for line in table.splitlines()
        if line.startswith("|")
        for name in re.findall(r"`([\w.-]+)`", line.split(" | ")[0])
    ]
    assert sorted(named) == sorted(ABLATIONS)


def test_every_recipe_and_what_it_sets():
    sets: dict[str, dict[str, str]] = {}
    for names, _, cell in rows("Recipes"):
        for name in re.findall(r"`([\w-]+)`", names):
            sets[name] = stated(cell)
    assert sets.keys() == RECIPES.keys()
    sets["best"] = sets["best-skip-blind"] | sets["best"]
    for name, base in (("long", "best"), ("long-skip-blind", "best-skip-blind")):
        sets[name] = sets[base] | sets[name]
        del sets[name]["loss.in_batch"], sets[name]["loss.no_in_batch"]
    shared = {path: sets["unidir"][path] for path in ("data.sampling", "optimizer.learning_rate", "train.patience")}
    for suffix in ("skip-context", "skip-track"):
        sets[f"unidir-{suffix}"] = shared | sets[f"unidir-{suffix}"]
        sets[f"bidir-{suffix}"] = sets[f"unidir-{suffix}"] | sets[f"bidir-{suffix}"]
    sets["bidir"] = sets["unidir"] | sets["bidir"]
    for name, recipe in RECIPES.items():
        differs = {path: value for path, value in flatten(recipe()).items() if value != DEFAULTS[path]}
        written = {path: " ".join(value) if isinstance(value, tuple) else str(value) for path, value in differs.items()}
        assert written == sets[name]
