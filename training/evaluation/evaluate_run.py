"""A finished run's best weights, measured again."""

from typing import Any

from skipwise.training.build import build_model, check, stateless
from skipwise.training.checkpoint.checkpoints import load_best
from skipwise.training.config import Protocol
from skipwise.training.evaluation.evaluator import Evaluator, measurable
from skipwise.training.run.directory import RunDirectory


def evaluate_run(run: RunDirectory, protocol: Protocol) -> dict[str, dict[str, Any]]:
    """Measures every split that the run was not trained on, on all ranks; returns each split's metrics.

    Writes them to the protocol's section of `metrics.json`. Raises `UserError` where the run's data are missing or
    have other tracks.
    """
    store, config = run.open_store(), stateless(run.config)
    check(config, store)
    model = build_model(config, store.num_tracks, run.record.num_rows)
    load_best(model, run.path)
    evaluator = Evaluator(run.config, store, model)
    metrics: dict[str, dict[str, Any]] = {
        split: evaluator.measure(protocol, split, run.config.evaluate.sessions, run.path)
        for split in measurable(run.config)
    }
    run.update_metrics({protocol: metrics})
    return metrics
