"""The sample data set: a generated log, prepared, so that `train` works in a fresh clone. Its numbers are synthetic."""

from pathlib import Path

from skipwise.common.distributed import broadcast_object, logger, rank
from skipwise.common.errors import UserError
from skipwise.datapipes.config import DataConfig
from skipwise.datapipes.prepare import PrepareConfig, prepare
from skipwise.datapipes.synthesize import SynthesizeConfig, synthesize

SAMPLE = DataConfig().path
_SESSIONS, _TRACKS = 12_000, 3_000


def ensure_sample(path: str) -> None:
    """Generates and prepares the sample on rank 0 where `path` is the default and does not exist."""
    if path != SAMPLE:
        return
    error = None
    if rank() == 0 and not Path(path).exists():
        log = Path(f"{path}.csv")
        logger.info(f"{path} is not there: generating a synthetic log of {_SESSIONS} sessions over {_TRACKS} tracks")
        try:
            if not log.exists():
                synthesize(SynthesizeConfig(output=log, sessions=_SESSIONS, tracks=_TRACKS))
            prepare(PrepareConfig(input=(log,), output=Path(path)))
        except UserError as caught:
            error = str(caught)
    if error := broadcast_object(error):
        raise UserError(error)
