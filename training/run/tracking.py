"""Where a run is reported beside its own directory: MLflow, or the trackers that TorchX was given.

Rank 0 reports, in a thread: training never waits for a server. One that fails later than at the start is named once and
left alone, for a run of hours is worth more than its copy elsewhere.
"""

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any, Protocol

from skipwise.common.distributed import logger, on_all_ranks, rank
from skipwise.common.errors import UserError, brief
from skipwise.common.files import read_json, write_json
from skipwise.training.config_fields import flatten
from skipwise.training.run.directory import RunDirectory

_FILES = ("config.yaml", "metrics.json")
_MLFLOW_RUN = "mlflow.json"
_EXPERIMENT = "skipwise"
_MOST_PARAMS = 100  # that MLflow takes at once
_LIMITS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
Values = Mapping[str, Any]


class _Backend(Protocol):
    def scalars(self, kind: str, step: int, values: Values) -> None: ...

    def end(self, metrics: Mapping[str, Values] | None) -> None:
        """`metrics`: those of the finished run; None where it was stopped."""
        ...


class Tracking:
    """The tracker of `--train.tracker`. All ranks make it together; raises the same `UserError` on all of them."""

    def __init__(self, run: RunDirectory):
        kind = run.config.train.tracker
        self._backend: _Backend | None = None
        self._thread: ThreadPoolExecutor | None = None

        def begin() -> None:
            try:
                # TorchX's own are made on each rank, as some of them let all ranks wait for the first.
                backend = _MAKERS[kind](run) if kind == "torchx" or rank() == 0 else None
            except UserError:
                raise
            except Exception as error:  # a library's, or a server's
                raise UserError(
                    f"--train.tracker {kind} cannot be used ({brief(error)}): correct its settings, or leave it out"
                ) from error
            if rank() == 0:
                self._backend, self._thread = backend, ThreadPoolExecutor(1)

        if kind != "none":
            on_all_ranks(begin)

    def scalars(self, kind: str, step: int, values: Values) -> None:
        """Reports figures of a step, or of a validation."""
        self._later(lambda backend: backend.scalars(kind, step, dict(values)))

    def end(self, metrics: Mapping[str, Values] | None = None) -> None:
        """Reports the metrics of a finished run, or without them that it was stopped; waits until all is reported."""
        self._later(lambda backend: backend.end(metrics))
        if self._thread:
            self._thread.shutdown()
            self._thread = None

    def _later(self, report: Callable[[_Backend], None]) -> None:
        if self._thread:
            self._thread.submit(self._try, report)

    def _try(self, report: Callable[[_Backend], None]) -> None:
        if not self._backend:
            return
        try:
            report(self._backend)
        except Exception as error:  # a library's, or a server's
            self._backend = None
            logger.warning(f"the run is no longer reported to its tracker ({brief(error)}); its directory is whole")


class _MLflow:
    """A run of MLFLOW_EXPERIMENT_NAME at MLFLOW_TRACKING_URI; a resumed run goes on in the same one."""

    def __init__(self, run: RunDirectory):
        if find_spec("mlflow") is None:
            raise UserError("--train.tracker mlflow needs the package mlflow-skinny: run pip install mlflow-skinny")
        for name, value in _LIMITS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._path, self._client = run.path, MlflowClient()
        file = run.path / _MLFLOW_RUN
        if file.exists():
            self._id = str(read_json(file, "the id of a run of MLflow")["run_id"])
            self._client.set_terminated(self._id, "RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        made = self._client.create_run(experiment, run_name=run.path.name, tags={"recipe": run.record.recipe})
        self._id = made.info.run_id
        write_json(file, {"run_id": self._id})
        params = [Param(name, str(value)) for name, value in flatten(run.config).items()]
        for first in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(self._id, params=params[first : first + _MOST_PARAMS])

    def scalars(self, kind: str, step: int, values: Values) -> None:
        from mlflow.entities import Metric

        now = round(1000 * time.time())
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        named = [Metric(f"{kind}/{_plain(name)}", float(value), now, step) for name, value in numbers.items()]
        self._client.log_batch(self._id, metrics=named)

    def end(self, metrics: Mapping[str, Values] | None) -> None:
        for name, value in _results(metrics or {}).items():
            self._client.log_metric(self._id, _plain(name), value)
        for file in _FILES:
            if (self._path / file).exists():
                self._client.log_artifact(self._id, str(self._path / file))
        self._client.set_terminated(self._id, "KILLED" if metrics is None else "FINISHED")


class _TorchX:
    """The trackers of `.torchxconfig`, which TorchX names in TORCHX_TRACKERS. They take no figures of single steps."""

    def __init__(self, run: RunDirectory):
        from torchx.tracker.api import ENV_TORCHX_JOB_ID, AppRun, trackers_from_environ

        self._path = run.path
        self._app = AppRun(os.environ.get(ENV_TORCHX_JOB_ID, str(run.path)), [*trackers_from_environ()])
        if not self._app.backends:
            raise UserError(
                "--train.tracker torchx finds no tracker: name one in .torchxconfig, under [torchx:tracker], or in "
                "TORCHX_TRACKERS"
            )
        if rank() == 0:
            self._app.add_metadata(recipe=run.record.recipe, **flatten(run.config))

    def scalars(self, kind: str, step: int, values: Values) -> None:
        """None: see above."""

    def end(self, metrics: Mapping[str, Values] | None) -> None:
        if metrics is None:
            return
        self._app.add_metadata(**{_plain(name): value for name, value in _results(metrics).items()})
        for file in _FILES:
            self._app.add_artifact(file, str(self._path / file))


_MAKERS: dict[str, Callable[[RunDirectory], _Backend]] = {"mlflow": _MLflow, "torchx": _TorchX}


def _results(metrics: Mapping[str, Any], under: str = "") -> dict[str, float]:
    """The numbers of `metrics.json`, by names such as `served/test/hr@10`."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            found |= _results(value, f"{under}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{under}{name}"] = float(value)
    return found


def _plain(name: str) -> str:
    """A name that MLflow takes."""
    return name.replace("@", "_at_")
