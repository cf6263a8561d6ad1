"""The files of a sweep: `sweep.md`, `sweep.json`, and `best.yaml`, which `train RECIPE --config` takes."""

import math
from typing import Any

import optuna
import yaml
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from skipwise.common.files import write_json, write_text
from skipwise.studies.search_space import changed, settings
from skipwise.studies.sweep_search import REFUSED, Sweep, best_trial, finished, trial_path

_IMPORTANCES_FROM, _BEST_SHARE = 20, 0.25
"""Complete trials, and the share of them whose settings are set apart: Optuna advises five trials at least."""


def write_sweep(sweep: Sweep, study: optuna.Study) -> None:
    """Writes all three; `best.yaml` once a trial is complete."""
    trials = sorted((_record(trial) for trial in finished(study)), key=lambda trial: -trial.get("hr@10", -1.0))
    best = best_trial(study)
    noise = None
    if best is not None:
        value, sessions = best.value, best.user_attrs["sessions"]
        noise = math.sqrt(value * (1 - value) / max(sessions, 1))
        config = changed(sweep.config, best.params, f"trial {best.number}")
        text = yaml.safe_dump(settings(sweep.plain, config, best.params), sort_keys=False)
        write_text(sweep.output / "best.yaml", text)
    importances = _importances(study)
    content = {
        "recipe": sweep.recipe,
        "best": best.number if best else None,
        "standard_error": noise,
        "importances": importances,
        "trials": trials,
    }
    write_json(sweep.output / "sweep.json", content)
    write_text(sweep.output / "sweep.md", _markdown(sweep, trials, best, noise, importances))


def _importances(study: optuna.Study) -> dict[str, float]:
    """Each field's share in what sets the best trials apart, by PED-ANOVA (Watanabe et al., arXiv 2304.10255)."""
    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(complete) < _IMPORTANCES_FROM:
        return {}
    return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=_BEST_SHARE))


def _record(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    state = "refused" if REFUSED in trial.user_attrs else trial.state.name.lower()
    return {"number": trial.number, "state": state, "values": trial.params} | trial.user_attrs


def _markdown(
    sweep: Sweep,
    trials: list[dict[str, Any]],
    best: optuna.trial.FrozenTrial | None,
    noise: float | None,
    importances: dict[str, float],
) -> str:
    fields = list(sweep.space)
    lines = [f"# Sweep of `{sweep.recipe}`", "", "Validation only: no test target was looked at.", ""]
    if best is not None:
        near = sum(trial.get("hr@10", -1.0) >= best.value - noise for trial in trials) - 1
        others = f"{near} other trial{'s' if near != 1 else ''}"
        kept = trial_path(sweep.output, best.number).relative_to(sweep.output)
        lines += [
            f"Best: trial {best.number}, validation HR@10 {best.value:.4f} on {best.user_attrs['sessions']:,} "
            f"sessions, {others} within one standard error ({noise:.4f}, marked ≈): the choice among those is luck.",
            f"Only the best trial's checkpoint is kept, in `{kept}`.",
            "",
        ]
    heads = ["trial", *fields, "HR@10", "HR@1", "NDCG@10", "best epoch", "epochs", "state"]
    lines += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for trial in trials:
        near = best is not None and trial.get("hr@10", -1.0) >= best.value - noise
        measured = [f"{trial[name]:.4f}" if name in trial else "" for name in ("hr@10", "hr@1", "ndcg@10")]
        values = [_short(trial["values"].get(field)) for field in fields]
        state = trial["state"] + (f": {trial[REFUSED]}" if REFUSED in trial else "")
        ends = [str(trial.get(name, "")) for name in ("best_epoch", "epochs")]
        mark = " ≈" if near else ""
        lines.append("| " + " | ".join([f"{trial['number']}{mark}", *values, *measured, *ends, state]) + " |")
    if importances:
        shares = ", ".join(f"`{field}` {share:.0%}" for field, share in importances.items())
        lines += ["", f"What sets the best quarter of the complete trials apart (PED-ANOVA): {shares}."]
    return "\n".join(lines) + "\n"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
