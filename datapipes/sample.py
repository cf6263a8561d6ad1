"""The sample dataset: a synthetic log, prepared, so that `train` works in a fresh clone. Its figures mean nothing."""

from pathlib import Path

from skipwise.common.distributed import logger, on_all_ranks, rank
from skipwise.common.node_disks import leads_machine
from skipwise.datapipes.config import DataConfig
from skipwise.datapipes.prepare import PrepareConfig, prepare
from skipwise.datapipes.synthesize import SynthesizeConfig, synthesize

SAMPLE = DataConfig().path
_SESSIONS, _TRACKS = 12_000, 3_000


def ensure_sample(path: str) -> None:
    """Makes the sample where `path` is the default and does not exist; all ranks call it together.

    Rank 0 makes it first, then each machine that does not see its files.
    """
    if path == SAMPLE:
        on_all_ranks(lambda: _make() if rank() == 0 else None)
        on_all_ranks(lambda: _make() if leads_machine() else None)


def _make() -> None:
    if Path(SAMPLE).exists():
        return
    log = Path(f"{SAMPLE}.csv")
    logger.info(f"{SAMPLE} is missing: generating a synthetic log of {_SESSIONS} sessions over {_TRACKS} tracks")
    if not log.exists():
        synthesize(SynthesizeConfig(output=log, sessions=_SESSIONS, tracks=_TRACKS))
    with log.open() as file:
        names = ("title", "artist") if "title" in file.readline() else (None, None)  # not in a log of an older version
    prepare(PrepareConfig(input=(log,), output=Path(SAMPLE), title=names[0], artist=names[1]))
