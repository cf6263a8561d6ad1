"""Ranked tracks as lines of a terminal."""

import numpy as np

from skipwise.common.errors import printable
from skipwise.retrieval.track_ids import TrackIds


def print_ranked(tracks: TrackIds, rows_K: np.ndarray, scores_K: np.ndarray) -> None:
    """Prints rank, track and score of each row; -1, where there were no more, ends the list."""
    found_K = rows_K >= 0
    names = [printable(name) for name in tracks.ids(rows_K[found_K]).to_pylist()]
    width = max(map(len, ["track", *names]))
    print(f"{'rank':>5}  {'track':{width}}  {'score':>9}")
    for rank, (name, score) in enumerate(zip(names, scores_K[found_K], strict=True), start=1):
        print(f"{rank:>5}  {name:{width}}  {score:>9.4f}")
