"""The files of a sweep: `sweep.md`, `sweep.json`, and `best.yaml` for `train RECIPE --config`."""

import math
from typing import Any

import optuna
import yaml
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from skipwise.common.files import write_json, write_text
from skipwise.studies.search_space import changed
from skipwise.studies.sweep_study import REFUSED, Sweep, best_trial, finished, hit_rate, trial_path
from skipwise.training.config_fields import flatten, nest
from skipwise.training.run.start import FREE_TO_CHANGE

_IMPORTANCES_FROM, _BEST_SHARE = 20, 0.25
"""How many complete trials importances need, and the share of them that counts as the best."""
_BUDGET = ("train.epochs", "train.patience", "train.validation_sessions", "evaluate.sessions")
"""Fields that say how much time a trial may take: a sweep's are not those of the training that follows it."""


def write_sweep(sweep: Sweep, study: optuna.Study) -> None:
    """Writes the files; `best.yaml` once a trial is complete."""
    trials = sorted((_record(trial) for trial in finished(study)), key=lambda trial: -trial.get("hr@10", -1.0))
    best = best_trial(study)
    if best is not None:
        write_text(sweep.output / "best.yaml", yaml.safe_dump(_best_settings(sweep, best), sort_keys=False))
    importances = _importances(study)
    content = {
        "recipe": sweep.recipe,
        "best": best.number if best else None,
        "standard_error": _standard_error(best) if best else None,
        "importances": importances,
        "trials": trials,
    }
    write_json(sweep.output / "sweep.json", content)
    write_text(sweep.output / "sweep.md", _markdown(sweep, trials, best, importances))


def _best_settings(sweep: Sweep, best: optuna.trial.FrozenTrial) -> dict[str, Any]:
    """Sections for `train RECIPE --config`: what was searched, and what else makes the trial differ from the recipe.

    The data path, the budget and the fields that change no figure are left out unless they were searched.
    """
    plain = flatten(sweep.plain)
    settings = flatten(changed(sweep.config, best.params, f"trial {best.number}"))
    left_out = {*FREE_TO_CHANGE, *_BUDGET}
    return nest(
        {
            path: value
            for path, value in settings.items()
            if path in sweep.space or (value != plain[path] and path not in left_out)
        }
    )


def _importances(study: optuna.Study) -> dict[str, float]:
    """How much each field distinguishes the best trials from all others, by PED-ANOVA (arXiv 2304.10255)."""
    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(complete) < _IMPORTANCES_FROM:
        return {}
    return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=_BEST_SHARE))


def _standard_error(best: optuna.trial.FrozenTrial) -> float:
    """Of the HR@10, over the sessions of the validation."""
    return math.sqrt(hit_rate(best) * (1 - hit_rate(best)) / max(best.user_attrs["sessions"], 1))


def _record(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    state = "refused" if REFUSED in trial.user_attrs else trial.state.name.lower()
    return {"number": trial.number, "state": state, "values": trial.params} | trial.user_attrs


def _markdown(
    sweep: Sweep,
    trials: list[dict[str, Any]],
    best: optuna.trial.FrozenTrial | None,
    importances: dict[str, float],
) -> str:
    fields = list(sweep.space)
    lines = [f"# Sweep of `{sweep.recipe}`", "", "Validation only: no test target was looked at.", ""]
    alike = math.inf  # the HR@10 from which a trial is as good as the best
    if best is not None:
        standard_error = _standard_error(best)
        alike = hit_rate(best) - standard_error
        near = sum(trial.get("hr@10", -1.0) >= alike for trial in trials) - 1
        others = f"{near} other trial{'s' if near != 1 else ''}"
        kept = trial_path(sweep.output, best.number).relative_to(sweep.output)
        lines += [
            f"Best: trial {best.number}, validation HR@10 {hit_rate(best):.4f} on {best.user_attrs['sessions']:,} "
            f"sessions, {others} within one standard error ({standard_error:.4f}, marked ≈): the choice among those "
            "is luck.",
            f"Only the best trial's checkpoint is kept, in `{kept}`.",
            "",
        ]
    heads = ["trial", *fields, "HR@10", "HR@1", "NDCG@10", "best epoch", "epochs", "state"]
    lines += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for trial in trials:
        measured = [f"{trial[name]:.4f}" if name in trial else "" for name in ("hr@10", "hr@1", "ndcg@10")]
        values = [_short(trial["values"].get(field)) for field in fields]
        state = trial["state"] + (f": {trial[REFUSED]}" if REFUSED in trial else "")
        ends = [str(trial.get(name, "")) for name in ("best_epoch", "epochs")]
        mark = " ≈" if trial.get("hr@10", -1.0) >= alike else ""
        lines.append("| " + " | ".join([f"{trial['number']}{mark}", *values, *measured, *ends, state]) + " |")
    if importances:
        shares = ", ".join(f"`{field}` {share:.0%}" for field, share in importances.items())
        lines += ["", f"What distinguishes the best quarter of the complete trials (PED-ANOVA): {shares}."]
    return "\n".join(lines) + "\n"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
