"""`table --data DATA --output OUT`: trains and tests models at several seeds and writes the paper's table 1 with them.

Resumes: a run that is there whole is not trained again.
"""

import gc
from dataclasses import dataclass, replace
from pathlib import Path

from skipwise.common.errors import UserError
from skipwise.components.recipes.table_models import MODELS, PAPER, with_baselines


@dataclass(frozen=True)
class TableConfig:
    """What the table holds, and where its runs and figures go."""

    data: str
    """Dataset directory, as `prepare` writes it."""
    output: str
    """Directory of `table.md`, `table.json`, `table.png` and `runs/`."""
    seeds: int = 3
    """Each model is trained at the seeds 0 to this less one; candidates are the same for all."""
    recipes: tuple[str, ...] = PAPER
    """Recipes and ablations, in the table's order; the rows they are compared with are added."""
    config: str = ""
    """YAML file of fields that change in every recipe, as `train --config` takes it."""
    title: str = "The paper's table 1"
    """Headline of `table.md`."""

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError("--seeds must be at least 1")
        if self.seeds > 1000:
            raise ValueError(f"--seeds {self.seeds} must be at most 1000")
        if not self.recipes:
            raise ValueError("--recipes must name at least one model")


def table(config: TableConfig) -> None:
    """Trains what is missing, measures the baselines, and writes the table."""
    from skipwise.common.distributed import logger, process_group
    from skipwise.common.files import read_yaml
    from skipwise.datapipes.sessions import SessionStore
    from skipwise.training.config import RunConfig
    from skipwise.training.config_fields import from_mapping

    names = with_baselines(config.recipes)
    store = SessionStore(config.data)
    output = Path(config.output)
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file: name a directory with --output")
    changes = read_yaml(Path(config.config)) if config.config else {}
    wanted: dict[str, list[RunConfig]] = {}
    for name in names:
        recipe = from_mapping(MODELS[name].recipe(), changes, config.config)
        recipe = replace(recipe, data=replace(recipe.data, path=config.data))
        wanted[name] = [replace(recipe, train=replace(recipe.train, seed=seed)) for seed in range(config.seeds)]
    with process_group():
        from skipwise.training.build import check

        for recipes in wanted.values():
            check(recipes[0], store)
        same = {tuple(vars(recipes[0].evaluate).items()) for recipes in wanted.values()}
        if len(same) > 1:
            raise UserError("these recipes are not evaluated alike: set the same --evaluate section by --config")
        jobs = [(name, seed, recipe) for name in names for seed, recipe in enumerate(wanted[name])]
        missing = [job for job in jobs if not _is_done(_run(output, *job[:2]), job[2], store)]
        logger.info(f"{len(jobs)} runs of {len(names)} models, {len(jobs) - len(missing)} of them there already")
        for number, (name, seed, recipe) in enumerate(missing, start=1):
            logger.info(f"run {number} of {len(missing)}: {name}, seed {seed}")
            _train(_run(output, name, seed), recipe, name)
        _baselines(output, wanted[names[0]][0], store)
        _write(config, output, names, store)


def _run(output: Path, name: str, seed: int) -> Path:
    return output / "runs" / f"{name}-seed{seed}"


def _is_done(path: Path, wanted, store) -> bool:
    """Whether this run is there; refuses one of another config or other data."""
    from skipwise.training.run.directory import RunDirectory
    from skipwise.training.run.start import first_difference

    if not (path / "run.json").exists():
        return False
    run = RunDirectory.open(str(path))
    if first_difference(run.config, wanted) or run.record["vocabulary_hash"] != store.manifest.vocabulary_hash:
        raise UserError(f"{path} has another config or other data: remove it, or choose another --output")
    return run.finished


def _train(path: Path, recipe, name: str) -> None:
    """Trains, or goes on where this run was stopped."""
    from skipwise.training.loop import train

    train(replace(recipe, run_dir=str(path)), name)
    # A sharded model refers to itself: left to chance, several tables would wait to be freed.
    gc.collect()


def _baselines(output: Path, config, store) -> None:
    from skipwise.common.distributed import logger
    from skipwise.studies.baselines import BASELINES, is_measured, measure_baseline

    for name in BASELINES:
        folder = output / "runs" / name
        if not is_measured(folder, config, store):
            logger.info(f"measuring {name}")
            measure_baseline(name, config, store, folder)


def _write(config: TableConfig, output: Path, names: list[str], store) -> None:
    from skipwise.common.distributed import barrier, logger, rank
    from skipwise.studies.baselines import BASELINES
    from skipwise.studies.comparison import Row
    from skipwise.studies.table_files import write_report

    if rank() == 0:
        rows = [
            Row(
                name,
                MODELS[name].label,
                MODELS[name].group,
                tuple(_run(output, name, seed) for seed in range(config.seeds)),
                MODELS[name].baseline,
                MODELS[name].paper,
            )
            for name in names
        ]
        rows += [
            Row(name, baseline.label, "references", (output / "runs" / name,), reference=True)
            for name, baseline in BASELINES.items()
        ]
        write_report(output, rows, store, config.title)
        logger.info(f"wrote {output / 'table.md'}, table.json and table.png")
    barrier()
