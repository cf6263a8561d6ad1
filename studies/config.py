"""Options of the studies, and what a model of a study is."""

from collections.abc import Callable
from dataclasses import dataclass

from skipwise.training.config import RunConfig

PAPER_MODELS = ("unidir", "unidir-skip-context", "unidir-skip-track", "bidir", "bidir-skip-context", "bidir-skip-track")
"""The recipes of table 1 of Seshadri & Knees, arXiv 2309.11623."""


@dataclass(frozen=True)
class Model:
    """One model of the table of results, before it is trained."""

    label: str
    group: str
    """Models of a group stand together, and the best figures of each group are marked."""
    recipe: Callable[[], RunConfig]
    baseline: str | None = None
    """Name of the model it is compared with."""
    paper: tuple[float, float, float, float] | None = None
    """HR@1/5/10/20 that the paper's table 1 gives this model."""


@dataclass(frozen=True)
class StudyConfig:
    """What the table of results holds, and where its runs and figures go."""

    data: str
    """Dataset directory, as `prepare` writes it."""
    output: str
    """Directory of `table.md`, `table.json`, `table.png` and `runs/`."""
    seeds: int = 3
    """Each model is trained at the seeds 0 to this less one; candidates are the same for all."""
    recipes: tuple[str, ...] = PAPER_MODELS
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
