"""Search a recipe's settings on the validation split alone, and write the best of them as a config for train.

Example:
  skipwise sweep --data data/log --output sweeps/log --trials 40
  skipwise train --config sweeps/log/best.yaml --data.path data/log
"""

from skipwise.components.recipes import named_recipe
from skipwise.studies.config import SweepConfig


def sweep(config: SweepConfig) -> None:
    """Runs the trials that are missing, and writes the report after each."""
    recipe = named_recipe(config.recipe)
    from skipwise.studies.sweep import run_sweep

    run_sweep(config, recipe)
