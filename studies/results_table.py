"""The table of results: models trained and tested at several seeds, beside baselines that every model must beat.

Resumes: a run that is finished is not trained again.
"""

import gc
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from skipwise.common.distributed import barrier, logger, process_group, rank
from skipwise.common.errors import UserError
from skipwise.common.files import read_yaml
from skipwise.common.locks import locked_for_all_ranks
from skipwise.common.mirrors import upload
from skipwise.common.outputs import require_directory
from skipwise.datapipes.sessions import SessionStore
from skipwise.studies.baselines.measuring import baselines_of, is_measured, measure_baseline
from skipwise.studies.comparison import Row
from skipwise.studies.comparison_files import write_comparison
from skipwise.studies.config import Model, StudyConfig
from skipwise.training.checks import check
from skipwise.training.config import RunConfig
from skipwise.training.config_fields import from_mapping
from skipwise.training.loop import train
from skipwise.training.run.directory import RunDirectory
from skipwise.training.run.start import first_difference


def run_study(config: StudyConfig, models: Mapping[str, Model]) -> None:
    """Trains the runs that are missing, measures the baselines, and writes the table's files.

    `models` stand in the table's order; each one's baseline is among them. Raises `UserError` where the output holds
    runs of another config or is in use by another job, or where the models are not evaluated alike.
    """
    store = SessionStore(config.data)
    output = Path(config.output)
    require_directory(output)
    changes = read_yaml(Path(config.config)) if config.config else {}
    recipes, rows = {}, []
    for name, model in models.items():
        recipe = from_mapping(model.recipe(), changes, config.config)
        recipes[name] = replace(recipe, data=replace(recipe.data, path=config.data))
        paths = tuple(output / "runs" / f"{name}-seed{seed}" for seed in range(config.seeds))
        row = Row(name, model.label, model.group, paths, model.baseline, model.paper, refit=recipe.train.refit)
        rows.append(row)
    runs = {
        path: (row.name, replace(recipes[row.name], train=replace(recipes[row.name].train, seed=seed)))
        for row in rows
        for seed, path in enumerate(row.runs)
    }
    first = next(iter(recipes.values()))
    with process_group(), ExitStack() as held:
        for recipe in recipes.values():
            check(recipe, store)
            if (recipe.evaluate, recipe.selection) != (first.evaluate, first.selection):
                raise UserError(
                    "these recipes are not evaluated alike: set the same evaluate and selection sections by --config"
                )
        held.enter_context(locked_for_all_ranks(output, "--output"))
        missing = [path for path, (_, recipe) in runs.items() if not _is_finished(path, recipe, store)]
        logger.info(f"{len(runs)} runs of {len(models)} models, {len(runs) - len(missing)} of them there already")
        for number, path in enumerate(missing, start=1):
            name, recipe = runs[path]
            logger.info(f"run {number} of {len(missing)}: {name}, seed {recipe.train.seed}")
            train(replace(recipe, run_dir=str(path)), name)
            if rank() == 0:
                upload(path, prune=True)
            # A sharded model refers to itself: without this, several tables would wait to be freed.
            gc.collect()
        for refit in sorted({recipe.train.refit for recipe in recipes.values()}):
            as_trained = replace(first, train=replace(first.train, refit=refit))
            for baseline in baselines_of(store):
                suffix, note = ("-refit", ", refit") if refit else ("", "")
                name, label = baseline.name + suffix, baseline.label + note
                folder = output / "runs" / name
                rows.append(Row(name, label, "references", (folder,), reference=True, refit=refit))
                if not is_measured(folder, as_trained, store):
                    logger.info(f"measuring {name}")
                    measure_baseline(baseline, as_trained, store, folder)
        if rank() == 0:
            write_comparison(output, rows, store, config.title)
            logger.info(f"wrote {output / 'table.md'}, table.json and table.png")
        barrier()


def _is_finished(path: Path, wanted: RunConfig, store: SessionStore) -> bool:
    """Whether this run has ended; refuses one of another config or other data."""
    if not (path / "run.json").exists():
        return False
    run = RunDirectory.open(str(path))
    if first_difference(run.config, wanted) or not run.record.is_same(store.manifest):
        raise UserError(f"{path} has another config or other data: remove it, or choose another --output")
    return run.finished
