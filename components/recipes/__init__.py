"""Recipes: functions that return the whole config of a run. To write your own, copy what one returns and edit it."""

from collections.abc import Callable
from dataclasses import replace

from skipwise.common.errors import UserError, shown
from skipwise.components.recipes.ablations import ABLATIONS
from skipwise.components.recipes.paper import (
    bidir,
    bidir_skip_context,
    bidir_skip_track,
    unidir,
    unidir_skip_context,
    unidir_skip_track,
)
from skipwise.components.recipes.recommended import best, best_long, best_skip_blind, long, long_skip_blind
from skipwise.training.config import RunConfig

RECIPES: dict[str, Callable[[], RunConfig]] = {
    recipe.__name__.replace("_", "-"): recipe
    for recipe in (
        best,
        unidir,
        unidir_skip_context,
        unidir_skip_track,
        bidir,
        bidir_skip_context,
        bidir_skip_track,
        best_skip_blind,
        best_long,
        long,
        long_skip_blind,
    )
}
DEFAULT = "best"


def find_recipe(name: str) -> RunConfig | None:
    """The config of a recipe or an ablation, None for any other name."""
    return named_recipe(name) if name in RECIPES or name in ABLATIONS else None


def named_recipe(name: str) -> RunConfig:
    """The config of a recipe or an ablation; raises `UserError` for any other name."""
    if name in RECIPES:
        return RECIPES[name]()
    if name not in ABLATIONS:
        raise UserError(
            f"there is no recipe {shown(name)}: expected one of {', '.join(RECIPES)}, or an ablation: "
            f"{', '.join(ABLATIONS)}"
        )
    config, changes = named_recipe(ABLATIONS[name].baseline), ABLATIONS[name].changes
    return replace(config, **{section: replace(getattr(config, section), **changes[section]) for section in changes})
