"""`evaluate --run RUN --protocol full`: measures a run's best weights again, on any number of ranks."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class EvaluateRunConfig:
    """What to measure; how is the run's own config."""

    run: str
    """Run directory that train wrote."""
    protocol: Literal["uniform", "full"] = "uniform"
    """Rank the target among the run's uniform candidates, or exactly in the whole catalogue."""


def evaluate(config: EvaluateRunConfig) -> None:
    """Writes the protocol's section of `RUN/metrics.json` and prints the table."""
    from training.build import build_model, check, stateless
    from training.checkpoint import load_best
    from training.distributed import logger, process_group
    from training.evaluate import Evaluator, measurable
    from training.report import hit_rate_table
    from training.run import RunDirectory

    with process_group():
        run = RunDirectory.open(config.run)
        store = run.open_store()
        reading = stateless(run.config)
        check(reading, store)
        model = build_model(reading, store.tracks, run.record["rows"])
        load_best(model, run.path)
        evaluator = Evaluator(run.config, store, model)
        results = {
            config.protocol: {
                split: evaluator.measure(config.protocol, split, run.config.evaluate.sessions, run.path)
                for split in measurable(run.config)
            }
        }
        run.update_metrics(results)
        logger.info(hit_rate_table(results, run.config))
