"""Search a recipe's settings by the validation (`selection`), and write the best of them. No test target is measured.

Example:
  skipwise sweep --data data/mine --output sweeps/mine --trials 40
"""

from dataclasses import replace

from skipwise.components.recipes import named_recipe
from skipwise.studies.config import SweepConfig


def sweep(config: SweepConfig) -> None:
    """Runs the trials that are missing, and writes the sweep's files after each."""
    recipe = named_recipe(config.recipe)
    from skipwise.common.distributed import process_group
    from skipwise.common.work_folders import worked_on
    from skipwise.studies.sweep import run_sweep

    with process_group(), worked_on(config.output, "--output") as output:
        run_sweep(replace(config, output=output), recipe)
