"""`sweep --data DATA --output OUT`: searches a recipe's settings on validation alone, and writes the best of them."""

from skipwise.components.recipes import named_recipe
from skipwise.studies.config import SweepConfig


def sweep(config: SweepConfig) -> None:
    """Runs the trials that are missing, and writes the report after each."""
    recipe = named_recipe(config.recipe)
    from skipwise.studies.sweep import run_sweep

    run_sweep(config, recipe)
