"""`sweep --data DATA --output OUT`: searches a recipe's settings on validation alone, and writes the best of them."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from skipwise.common.errors import UserError
from skipwise.components.recipes import named_recipe


@dataclass(frozen=True)
class SweepConfig:
    """What is searched, and for how long."""

    data: str
    """Dataset directory, as `prepare` writes it."""
    output: str
    """Directory of `sweep.md`, `sweep.json`, `best.yaml`, the study and its trials."""
    recipe: str = "unidir-skip-track"
    """What every trial starts from."""
    trials: int = 40
    """Trials in all, those of earlier calls included; a grid ends when it is exhausted."""
    space: str = "paper"
    """`paper` (its grid of alpha, beta and learning rate), `extended`, or a YAML file of fields and their values."""
    seed: int = 0
    """Decides the order of trials; every trial trains at the recipe's own seed."""
    config: str = ""
    """YAML file of fields that change in every trial, as `train --config` takes it."""

    def __post_init__(self) -> None:
        if self.trials < 1 or self.seed < 0:
            raise ValueError("--trials must be at least 1, and --seed not negative")


def sweep(config: SweepConfig) -> None:
    """Runs the trials that are missing, and writes the report after each."""
    from skipwise.common.distributed import broadcast_object, logger, process_group, rank
    from skipwise.common.files import read_yaml
    from skipwise.datapipes.sessions import SessionStore
    from skipwise.studies.search_space import read_space
    from skipwise.studies.sweep_report import write_sweep
    from skipwise.studies.sweep_search import Sweep, finished, open_study, run_trial
    from skipwise.training.build import check
    from skipwise.training.config_fields import from_mapping

    plain = named_recipe(config.recipe)
    base = from_mapping(plain, read_yaml(Path(config.config)), config.config) if config.config else plain
    store = SessionStore(config.data)
    base = replace(base, run_dir="", data=replace(base.data, path=config.data))
    space = read_space(config.space, base)
    output = Path(config.output)
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file: name a directory with --output")
    same = replace(base, data=replace(base.data, path=""))
    identity = {
        "recipe or --config": _digest([config.recipe, asdict(same)]),
        "space": _digest({field: repr(what) for field, what in space.items()}),
        "seed": str(config.seed),
        "data": _digest([store.manifest.vocabulary_hash, store.manifest.counts, store.manifest.parts]),
    }
    what = Sweep(output, config.recipe, plain, base, space, config.seed, identity)
    with process_group():
        check(base, store)
        study, sentence = None, None
        if rank() == 0:
            try:
                study = open_study(what)
            except UserError as error:
                sentence = str(error)
        if sentence := broadcast_object(sentence):
            raise UserError(sentence)
        while True:
            left = broadcast_object(config.trials - len(finished(study)) if study else 0)
            if left <= 0 or not run_trial(what, study):
                break
            if study:
                write_sweep(what, study)
        if study:
            write_sweep(what, study)
        best = "best.yaml" if (output / "best.yaml").exists() else "no best.yaml, for no trial was completed"
        logger.info(f"wrote {output / 'sweep.md'}, sweep.json and {best}")


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
