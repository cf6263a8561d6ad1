"""Train models at several seeds, test them beside baselines, and write the table of results. Finished runs are kept.

Example:
  skipwise table --data data/mine --output tables/mine --seeds 3
"""

from skipwise.components.recipes.table_models import MODELS, with_baselines
from skipwise.studies.config import StudyConfig


def table(config: StudyConfig) -> None:
    """Trains what is missing, measures the baselines, and writes the table."""
    models = {name: MODELS[name] for name in with_baselines(config.recipes)}
    from skipwise.studies.results_table import run_study

    run_study(config, models)
