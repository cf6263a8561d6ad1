"""Skipwise: session recommendation that learns from what listeners skip, on sharded TorchRec tables.

    import skipwise

    skipwise.prepare("log.csv", "data/mine")
    run = skipwise.train({"data": {"path": "data/mine"}}, recipe="best")
    recommender = skipwise.load(skipwise.export(run, "exports/mine"))
    recommender.recommend(["t_1", "t_2"], skipped=[False, True], k=10)

Each function does what the command of its name does, in this process, and raises `UserError`, one sentence, for
whatever the caller can correct. `import skipwise` alone loads neither torch nor Arrow.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from skipwise.common.errors import UserError, shown

# Read when torch is loaded. Without it OpenMP's threads spin for milliseconds on a core that another process needs (its
# own data worker, say): measured 20 times slower there, and no faster on idle cores.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

if TYPE_CHECKING:
    from skipwise.datapipes.manifest import Manifest as Manifest
    from skipwise.retrieval.recommend.track_recommender import TrackRecommender as TrackRecommender
    from skipwise.training.config import RunConfig as RunConfig
    from skipwise.training.run.directory import RunDirectory as RunDirectory

__all__ = [
    "Manifest",
    "RunConfig",
    "RunDirectory",
    "TrackRecommender",
    "UserError",
    "evaluate",
    "export",
    "load",
    "prepare",
    "recipe",
    "train",
]
_TYPES = {
    "Manifest": "skipwise.datapipes.manifest",
    "RunConfig": "skipwise.training.config",
    "RunDirectory": "skipwise.training.run.directory",
    "TrackRecommender": "skipwise.retrieval.recommend.track_recommender",
}
"""Types that the functions take and return, imported on first use."""


def prepare(input: str | Path | Sequence[str | Path], output: str | Path, **options: Any) -> "Manifest":
    """Turns raw listening logs into the dataset directory `output`; returns its manifest.

    `input` is one file or folder or several. `options` are those of `skipwise prepare`, as in `skip="skipped"`.
    """
    from skipwise.datapipes.prepare import PrepareConfig
    from skipwise.datapipes.prepare import prepare as prepare_log

    paths = [input] if isinstance(input, (str, Path)) else input
    options |= {name: Path(options[name]) for name in ("tracks", "vocabulary") if isinstance(options.get(name), str)}
    return prepare_log(_config(PrepareConfig, input=tuple(map(Path, paths)), output=Path(output), **options))


def recipe(name: str) -> "RunConfig":
    """The whole config of a recipe, for `train`; change fields of it with `dataclasses.replace`."""
    from skipwise.components.recipes import named_recipe

    return named_recipe(name)


def train(config: "RunConfig | Mapping[str, Any] | str | Path | None" = None, recipe: str = "best") -> "RunDirectory":
    """Trains on this process, or on all ranks that torchrun started; returns the run directory.

    `config` is a whole `RunConfig`, of which `recipe` is then only the recorded name; or fields to change of that
    recipe, by section (`{"data": {"path": "data/mine"}, "train": {"epochs": 5}}`); or a YAML file of such fields. An
    unfinished run with the same config is resumed.
    """
    from skipwise.common.distributed import process_group
    from skipwise.common.files import read_yaml
    from skipwise.components.recipes import named_recipe
    from skipwise.datapipes.sample import ensure_sample
    from skipwise.training.config import RunConfig
    from skipwise.training.config_fields import from_mapping
    from skipwise.training.loop import train as train_run

    if not isinstance(config, RunConfig):
        fields = read_yaml(Path(config)) if isinstance(config, (str, Path)) else dict(config or {})
        source = str(config) if isinstance(config, (str, Path)) else "config"
        config = from_mapping(named_recipe(recipe), fields, source)
    with process_group():
        ensure_sample(config.data.path)
        return train_run(config, recipe)


def evaluate(
    run: "RunDirectory | str | Path",
    protocol: Literal["served", "full", "paper"] | Sequence[str] = ("served", "full", "paper"),
    data: str | Path | None = None,
    positions: Literal["all", "last"] | None = None,
    export: str | Path | None = None,
    search: Literal["auto", "exact", "index"] = "auto",
    dial: "float | str | Sequence[float | str]" = (),
    baselines: bool = False,
) -> Mapping[Any, Mapping[Any, Any]]:
    """Measures a run's best weights again; returns the metrics by protocol and split.

    `data` names other sessions to measure, and `positions` which of their tracks are targets. With `export`, also
    measures and logs what that export recommends. With `dial`, numbers or "auto", measures the test at these settings
    of the dial instead, and returns their figures by setting under "dial". With `baselines`, also measures and logs
    how popularity, Markov and neighbour methods do on the run's test.
    """
    from skipwise.components.evaluate import EvaluateRunConfig
    from skipwise.components.evaluate import evaluate as evaluate_run

    return evaluate_run(
        _config(
            EvaluateRunConfig,
            run=_run_path(run),
            protocol=(protocol,) if isinstance(protocol, str) else tuple(protocol),
            data=None if data is None else str(data),
            positions=positions,
            export=None if export is None else Path(export),
            search=search,
            dial=(dial,) if isinstance(dial, (int, float, str)) else tuple(dial),
            baselines=baselines,
        )
    )


def export(run: "RunDirectory | str | Path", output: str | Path, **options: Any) -> Path:
    """Writes a run's embeddings and encoder to the directory `output`, for `load` and `skipwise serve`; returns it.

    `options` are those of `skipwise export`, as in `format="npy"`.
    """
    from skipwise.components.export import export as write_export
    from skipwise.retrieval.export.config import ExportConfig

    write_export(_config(ExportConfig, run=_run_path(run), output=Path(output), **options))
    return Path(output)


def load(
    export: str | Path, search: Literal["auto", "exact", "index"] = "auto", tracks: str | Path | None = None
) -> "TrackRecommender":
    """Opens an export for `recommend`, `similar`, `find` and `encode`; needs neither TorchRec nor FBGEMM.

    `search` is "index" for the export's index, "exact" to score every track, or "auto": the index where there is one.
    `tracks` is a Parquet file of `track_id` and columns to filter by.
    """
    from skipwise.retrieval.recommend.track_recommender import TrackRecommender

    if search not in ("auto", "exact", "index"):
        raise UserError(f"search must be one of auto, exact, index, not {shown(search)}")
    return TrackRecommender.load(export, search, tracks)


def _config(config_class: Any, **values: Any) -> Any:
    """A command's config; a value that it refuses is a `UserError`, as it is on the command line."""
    from skipwise.common.options import check_values

    names = [field.name for field in fields(config_class)]
    if unknown := values.keys() - set(names):
        raise UserError(f"there is no option {shown(min(unknown))}: expected one of {', '.join(names)}")
    try:
        config = config_class(**values)
        check_values(config)
    except ValueError as error:
        raise UserError(str(error)) from error
    return config


def _run_path(run: "RunDirectory | str | Path") -> str:
    return str(run if isinstance(run, (str, Path)) else run.path)


def __getattr__(name: str) -> Any:
    if name in _TYPES:
        return getattr(import_module(_TYPES[name]), name)
    raise AttributeError(f"module 'skipwise' has no attribute {name!r}")
