"""Train models at several seeds, test them beside baselines, and write the table of results. Finished runs are kept.

Example:
  skipwise table --data data/mine --output tables/mine --seeds 3
"""

from dataclasses import replace

from skipwise.components.recipes.table_models import MODELS, with_baselines
from skipwise.studies.config import StudyConfig


def table(config: StudyConfig) -> None:
    """Trains what is missing, measures the baselines, and writes the table."""
    from skipwise.common.distributed import process_group
    from skipwise.common.work_folders import worked_on

    models = {name: MODELS[name] for name in with_baselines(config.recipes)}
    from skipwise.studies.results_table import run_study

    with process_group(), worked_on(config.output, "--output") as output:
        run_study(replace(config, output=output), models)
