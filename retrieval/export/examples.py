"""Sessions of the test that an export holds, for the page to start from."""

import numpy as np

from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.view import counts_as_skipped
from skipwise.retrieval.skip_entries import ExamplePlay

PLAYS = 10
_LOOKED_AT = 1000
_SEED = 0


def example_sessions(store: SessionStore, skip_up_to: int, count: int) -> list[list[ExamplePlay]]:
    """The last plays, at most 10, of up to `count` sessions: tracks and skips, and nothing that says whose they are.

    Drawn from one row group. First come sessions in which something was skipped and something kept, and among these
    the ones that end with a kept track that is new in them.
    """
    part, random = store.part("test"), np.random.default_rng(_SEED)
    if not count or not len(part):
        return []
    window = part.read(random.integers(len(part.group_sizes), size=1))
    drawn = random.permutation(len(window.numbers))[:_LOOKED_AT]
    found = [slice(max(window.offsets[one], end - PLAYS), end) for one in drawn for end in [window.offsets[one + 1]]]

    def told(plays: slice) -> tuple[bool, bool]:
        tracks, skips = window.tracks[plays], window.skips[plays]
        skipped = counts_as_skipped(skips, skip_up_to)
        ends_kept = not skipped[-1] and skips[-1] >= 0 and tracks[-1] not in tracks[:-1]
        return bool(skipped.any() and ((skips >= 0) & ~skipped).any()), bool(ends_kept)

    return [
        [
            ExamplePlay(row=int(row), skipped=None if skip < 0 else bool(counts_as_skipped(skip, skip_up_to)))
            for row, skip in zip(window.tracks[plays], window.skips[plays], strict=True)
        ]
        for plays in sorted(found, key=told, reverse=True)[:count]
    ]
