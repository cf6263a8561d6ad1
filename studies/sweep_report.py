"""The files of a sweep: `sweep.md`, `sweep.json`, and `best.yaml` for `train RECIPE --config`."""

import math
from typing import Any

import optuna
import yaml
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial

from skipwise.common.files import write_json, write_text
from skipwise.studies.markdown_table import markdown_table
from skipwise.studies.sweep_study import REFUSED, Sweep, best_trial, finished
from skipwise.training.config_fields import flatten, from_mapping, nest
from skipwise.training.run.start import FREE_TO_CHANGE

_BUDGET = ("train.epochs", "train.patience", "selection.sessions", "evaluate.sessions")
"""Fields that say how much time a trial may take: a sweep's are not those of the training that follows it."""


def write_sweep(sweep: Sweep, study: optuna.Study) -> None:
    """Writes the files; `best.yaml` once a trial is complete."""
    trials: list[dict[str, Any]] = [
        {
            "number": trial.number,
            "state": "refused" if REFUSED in trial.user_attrs else trial.state.name.lower(),
            "values": trial.params,
        }
        | trial.user_attrs
        for trial in finished(study)
    ]
    trials.sort(key=lambda trial: -trial.get("value", -1.0))
    best, error = best_trial(study), None
    if best is not None:
        value, sessions = best.user_attrs["value"], best.user_attrs["sessions"]
        error = math.sqrt(value * (1 - value) / max(sessions, 1))  # of a hit rate, and no less than that of the others
        write_text(sweep.output / "best.yaml", yaml.safe_dump(_best_settings(sweep, best), sort_keys=False))
    content = {
        "recipe": sweep.recipe,
        "selection": sweep.config.selection.name,
        "best": best.number if best else None,
        "standard_error": error,
        "importances": _importances(study),
        "trials": trials,
    }
    write_json(sweep.output / "sweep.json", content)
    write_text(sweep.output / "sweep.md", _markdown(sweep, content))


def _best_settings(sweep: Sweep, best: FrozenTrial) -> dict[str, Any]:
    """Sections for `train RECIPE --config`: what was searched, and what else makes the trial differ from the recipe.

    The data path, the budget and the fields that change no figure are left out unless they were searched.
    """
    plain = flatten(sweep.plain)
    settings = flatten(from_mapping(sweep.config, nest(best.params), f"trial {best.number}"))
    left_out = {*FREE_TO_CHANGE, *_BUDGET}
    return nest(
        {
            path: value
            for path, value in settings.items()
            if path in sweep.space or (value != plain[path] and path not in left_out)
        }
    )


def _importances(study: optuna.Study) -> dict[str, float]:
    """How much each field distinguishes the best quarter of the trials, by PED-ANOVA (arXiv 2304.10255)."""
    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(complete) < 20:
        return {}
    return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=0.25))


def _markdown(sweep: Sweep, content: dict[str, Any]) -> str:
    trials, error = content["trials"], content["standard_error"]
    lines = [f"# Sweep of `{sweep.recipe}`", "", "Validation only: no test target was looked at.", ""]
    alike = math.inf  # the value from which a trial is as good as the best
    if error is not None:
        best = next(trial for trial in trials if trial["number"] == content["best"])
        alike = best["value"] - error
        near = sum(trial.get("value", -1.0) >= alike for trial in trials) - 1
        lines += [
            f"Best: trial {best['number']}, validation {content['selection']} {best['value']:.4f} on "
            f"{best['sessions']:,} sessions, {near} other trial{'s' if near != 1 else ''} within one standard error "
            f"({error:.4f}, marked ≈): the "
            "choice among those is chance.",
            f"Only the best trial's checkpoint is kept, in `trials/{sweep.trial_path(best['number']).name}`.",
            "",
        ]
    rows = []
    for trial in trials:
        mark = " ≈" if trial.get("value", -1.0) >= alike else ""
        values = [_short(trial["values"].get(field, "")) for field in sweep.space]
        measured = [f"{trial[name]:.4f}" if name in trial else "" for name in ("value", "hr@10", "hr@1", "ndcg@10")]
        epochs = [str(trial.get(name, "")) for name in ("best_epoch", "epochs")]
        state = trial["state"] + (f": {trial[REFUSED]}" if REFUSED in trial else "")
        rows.append([f"{trial['number']}{mark}", *values, *measured, *epochs, state])
    heads = ["trial", *sweep.space, content["selection"], "HR@10", "HR@1", "NDCG@10", "best epoch", "epochs", "state"]
    lines += markdown_table(heads, rows)
    if content["importances"]:
        shares = ", ".join(f"`{field}` {share:.0%}" for field, share in content["importances"].items())
        lines += [f"What distinguishes the best quarter of the complete trials (PED-ANOVA): {shares}.", ""]
    return "\n".join(lines)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
