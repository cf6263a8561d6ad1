"""What becomes of bad rows: they are left out alone, a new session begins behind them, or their session is left out."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pyarrow as pa

from skipwise.datapipes.prepare.places import BAD_PLACE, distance, more_than, ranks
from skipwise.datapipes.prepare.row_checks import (
    CUT,
    DISORDERED,
    NO_ORDER,
    REASONS,
    REPEATED,
    SESSION,
    TWO_FILES,
)

CUTS = "cuts"
"""The column with the number of cuts up to a row, where sessions are cut at bad rows."""
_NONE = 255


def begins(block: pa.Table, gap: Fraction | None) -> np.ndarray:
    """bool [rows]: where a session begins: by the session column, after a jump of more than `gap`, or behind a cut."""
    found = _changes(block)
    if gap is not None:
        placed = block["place"].to_numpy()[1:] != BAD_PLACE
        found[1:] |= more_than(distance(block, slice(None, -1), slice(1, None)), gap) & placed
    if CUTS in block.column_names:
        found[1:] |= np.diff(block[CUTS].to_numpy()) != 0
    return found


def leave_out(
    block: pa.Table,
    faults: np.ndarray,
    policy: dict[int, int],
    gap: Fraction | None,
    dropped: Counter[str],
    rows_out: Counter[str],
) -> pa.Table:
    """Returns the rows without a fault of the sessions that stay; counts dropped sessions and rows left out, by reason.

    `faults`: the code of each row, 0 for a good one; `policy`: what is done at each. A row that has no place in its
    session, by its order or its line, cuts nothing, and with it all that its session column names is dropped.
    """
    if not faults.any():
        return block
    action = np.zeros(_NONE, dtype=np.int8)
    action[[*policy]] = [*policy.values()]
    action = action[faults]
    placed = ~((block["place"].to_numpy() == BAD_PLACE) | block["row"].is_null().to_numpy() | (faults == NO_ORDER))
    if CUT in policy.values():
        cuts = np.cumsum((action == CUT) & placed)
        if CUTS in block.column_names:
            cuts += block[CUTS].to_numpy()
            block = block.drop_columns([CUTS])
        block = block.append_column(CUTS, pa.array(cuts))
    starts = begins(block, gap)
    piece, owner = np.cumsum(starts) - 1, np.cumsum(_changes(block)) - 1
    worst, worst_of_owner = np.full(piece[-1] + 1, _NONE), np.full(owner[-1] + 1, _NONE)
    taints = action == SESSION
    np.minimum.at(worst, piece[taints], faults[taints])
    np.minimum.at(worst_of_owner, owner[taints & ~placed], faults[taints & ~placed])
    worst = np.minimum(worst, worst_of_owner[owner[starts]])
    _count(dropped, worst[worst < _NONE])
    stays = (worst == _NONE)[piece]
    out = stays & (faults > 0)
    is_cut = out & (action == CUT) & placed
    _count(rows_out, faults[out & ~is_cut])
    _count(rows_out, faults[is_cut], ", session cut")
    return block.filter(pa.array(stays & ~out))


def _changes(block: pa.Table) -> np.ndarray:
    return np.asarray(np.diff(block["session"].to_numpy(), prepend=-1) != 0)


def _count(counts: Counter[str], codes: np.ndarray, after: str = "") -> None:
    for code, count in zip(*np.unique(codes, return_counts=True), strict=True):
        counts[REASONS[int(code)] + after] += int(count)


def order_faults(block: pa.Table, ordered: bool) -> np.ndarray:
    """uint8 [rows]: codes of rows that are in another file than the session's row before, or, where `ordered`, whose
    order value is not greater than all before it."""
    file, place = block["file"].to_numpy(), ranks(block)
    starts = np.flatnonzero(_changes(block))
    later = np.ones(len(block), dtype=bool)
    later[starts] = False
    here = np.flatnonzero(later)
    faults = np.zeros(len(block), dtype=np.uint8)
    moved = file[here] != file[here - 1]
    faults[here[moved]] = TWO_FILES
    if ordered:
        wrong = here[place[here] <= place[here - 1]]
        for session in np.unique(np.searchsorted(starts, wrong, side="right") - 1):
            rows = slice(starts[session], starts[session + 1] if session + 1 < len(starts) else len(block))
            greatest, now = np.maximum.accumulate(place[rows])[:-1], place[rows][1:]
            codes = np.where(now < greatest, DISORDERED, np.where(now == greatest, REPEATED, 0))
            found = faults[rows][1:]
            found[found == 0] = codes[found == 0]
    return faults
