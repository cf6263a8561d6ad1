"""What can be wrong with a session as a whole."""

import numpy as np
import pyarrow as pa

from skipwise.common.errors import UserError
from skipwise.datapipes.prepare.config import PrepareConfig
from skipwise.datapipes.prepare.row_checks import DISORDERED, REPEATED, TWO_FILES, order_error, shown
from skipwise.datapipes.prepare.sources import Source


def session_faults(
    block: pa.Table, starts: np.ndarray, ids: pa.Array, sources: list[Source], config: PrepareConfig
) -> np.ndarray:
    """The fault code of each session, 0 for a good one; raises for the first where bad rows stop the run."""
    faults = block["fault"].to_numpy().copy()
    if not config.sorts:
        file, place = block["file"].to_numpy(), block["place"].to_numpy()
        later = np.ones(len(block), dtype=bool)
        later[starts] = False
        later[1:] &= (faults[1:] == 0) & (faults[:-1] == 0)
        before = np.flatnonzero(later) - 1
        here = before + 1
        moved = file[here] != file[before]
        faults[here[moved]] = TWO_FILES
        if "order" in sources[0].roles:
            faults[here[~moved & (place[here] < place[before])]] = DISORDERED
            faults[here[~moved & (place[here] == place[before])]] = REPEATED
    if config.on_error == "stop" and faults.any():
        raise session_error(block, int(np.flatnonzero(faults)[0]), int(faults[faults > 0][0]), starts, ids, sources)
    # Faults are unsigned: 0 becomes the greatest code, so that the least is the first check that failed.
    return np.minimum.reduceat(faults - 1, starts) + 1


def session_error(
    block: pa.Table, at: int, code: int, starts: np.ndarray, ids: pa.Array, sources: list[Source]
) -> UserError:
    """The sentence for a session that is bad as a whole."""
    now, before = block.slice(at, 1).to_pylist()[0], block.slice(at - 1, 1).to_pylist()[0]
    source, other = sources[now["file"]], sources[before["file"]]
    if code == TWO_FILES:
        session = ids[int(np.searchsorted(starts, at, side="right")) - 1].as_py()
        return UserError(
            f"session {shown(session)} is in {other.path} and in {source.path}: expected each session in one "
            f"file; join them by order with --sort, or drop the session with --on-error skip"
        )
    return order_error(source, now["row"], before["row"], code)
