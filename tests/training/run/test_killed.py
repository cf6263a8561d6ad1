"""SIGKILL at any moment: started again, the job ends as if nothing had been, whatever it was doing when it died."""

import importlib
import os
import random
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from skipwise.common.distributed import rank
from skipwise.retrieval.export.config import ExportConfig
from skipwise.retrieval.export.exporter import write_export
from skipwise.training.config import CheckpointConfig, RunConfig
from skipwise.training.loop import train
from tests.conftest import random_sessions
from tests.ranks import run_on_ranks
from tests.training.checkpoint.test_resume import SESSIONS, TRACKS, assert_equal, config_of, story_of

RANKS = 2


class Death(NamedTuple):
    """A rank dies before (or after) the n-th call of a function."""

    rank: int
    function: str
    count: int = 1
    after: bool = False


# In the order of a run, so that each has still to come when its turn is: one a start.
DEATHS = [
    Death(0, "skipwise.training.run.start.write_json"),
    Death(1, "skipwise.training.guards.stop_signal.StopSignal.sync_action"),
    Death(0, "os.fsync"),
    Death(0, "skipwise.training.checkpoint.checkpoints.write_index", after=True),
    Death(0, "os.rename"),
    Death(0, "os.rename", after=True),
    Death(0, "skipwise.training.checkpoint.checkpoints.write_text"),
    Death(1, "skipwise.training.guards.stop_signal.StopSignal.sync_action", random.Random(1).randint(1, 3)),
    Death(1, "skipwise.training.run.progress.Progress.validation"),
    Death(1, "skipwise.training.evaluation.evaluator.Evaluator.measure", after=True),
    Death(0, "skipwise.training.checkpoint.checkpoints.Checkpoints._point", after=True),
    Death(0, "skipwise.training.active_run.load_best"),
    Death(1, "skipwise.training.active_run.ActiveRun.start_refit", after=True),
    Death(0, "skipwise.training.guards.stop_signal.StopSignal.sync_action", random.Random(4).randint(10, 15)),
    Death(1, "skipwise.training.evaluation.records.TargetRankWriter.__exit__", 2),
    Death(0, "skipwise.training.run.directory.RunDirectory.update_metrics"),
    Death(0, "skipwise.training.run.directory.RunDirectory.update_metrics", after=True),
    Death(1, "skipwise.retrieval.export.exporter.write_part", after=True),
    Death(0, "os.rename"),
    Death(0, "os.rename", after=True),
]


def job(config: RunConfig, output: Path, death: Death | None) -> None:
    """What a restarted job does: trains, or finds that done, and exports in place of what may be there."""
    if death and death.rank == rank():
        _arm(death)
    run = train(config, "best")
    write_export(ExportConfig(str(run.path), output, overwrite=True))


def _arm(death: Death) -> None:
    *path, name = death.function.split(".")
    owner: Any = importlib.import_module(".".join(part for part in path if part.islower()))
    for part in path:
        owner = owner if part.islower() else getattr(owner, part)
    function: Callable = getattr(owner, name)
    left = [death.count]

    def deadly(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if not (left[0] or death.after):
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **options)
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)


def last_words(folder: Path, config: RunConfig, output: Path, death: Death) -> str:
    try:
        run_on_ranks(folder, RANKS, job, config, output, death)
    except AssertionError as error:
        return str(error)
    return "the job has ended"


@pytest.mark.ranks
@pytest.mark.parametrize("deaths", [DEATHS[2::5], pytest.param(DEATHS, marks=pytest.mark.soak)], ids=["few", "all"])
def test_a_job_killed_at_every_turn_ends_as_if_it_had_not_been(make_dataset, tmp_path: Path, capsys, deaths):
    data = make_dataset(random_sessions(SESSIONS, TRACKS), TRACKS)
    stories, exports = [], []
    for name, planned in (("whole", []), ("killed", deaths)):
        folder = tmp_path / name
        config = config_of(data, folder / "run", dropout=0.2, refit=True)
        config = replace(config, checkpoint=CheckpointConfig(minutes=0, every=2, keep=2))
        for number, death in enumerate(planned):
            said = last_words(tmp_path, config, folder / "export", death)
            assert f"rank {death.rank}: ended with exit code -9" in said, f"{number}, {death}: {said}"
        run_on_ranks(tmp_path, RANKS, job, config, folder / "export", None)
        stories.append(story_of(folder / "run"))
        exports.append({file.name: file.read_bytes() for file in (folder / "export" / "embeddings").iterdir()})
        assert {path.name for path in folder.iterdir()} == {"run", "export"}, "something is left behind"
    with capsys.disabled():
        print(f"\n{len(deaths)} kills, all gone on from")
    # Every step's loss, so that no session is lost or comes twice; all metrics; the last table and its optimizer.
    assert stories[0][:2] == stories[1][:2]
    assert_equal(stories[0][2], stories[1][2])
    assert exports[0] == exports[1]
