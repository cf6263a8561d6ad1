"""Training batches of several ranks on CPUs, with no more empty bags than the rank with most rows needs.

A lookup needs as many bags on every rank, and a batch is made with the most that any could need: twice to four times
as many as it uses. What ranks exchange is as long as the bags are many.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from skipwise.common.distributed import Highest
from skipwise.datapipes.batch import SessionBatch

_BAGS = 64
"""Bags are a multiple of it, so that their number comes back."""


def fitted(batches: Iterator[SessionBatch]) -> Iterator[SessionBatch]:
    """Yields the batches; the ranks agree on the bags of each while the one before it is trained."""
    ahead = deque[tuple[SessionBatch, Highest]]()
    for batch in batches:
        ahead.append((batch, Highest(_bags_needed(batch))))
        if len(ahead) > 1:
            yield _next(ahead)
    while ahead:
        yield _next(ahead)


def with_bags(batch: SessionBatch, bags: int) -> SessionBatch:
    """The batch with `bags` bags, at most as many as it has and more than it uses: its last bags are left out."""
    keys, most = batch.tracks.keys(), batch.tracks.stride()
    if bags >= most:
        return batch
    lengths = batch.tracks.lengths().view(len(keys), most)[:, :bags].flatten()
    tracks = KeyedJaggedTensor(
        keys=keys, values=batch.tracks.values(), lengths=lengths, length_per_key=batch.tracks.length_per_key()
    )
    indices = {name: getattr(batch, name).clamp(max=bags - 1) for name in ("items_BT", "targets_BT", "profile_BK")}
    of_bags = {name: getattr(batch, name)[:bags] for name in ("log_q_U", "numbers_UF", "shares_UC", "own_U")}
    return replace(batch, tracks=tracks, **indices, **of_bags)


def _bags_needed(batch: SessionBatch) -> int:
    """One more than are used: the last is empty, for padding."""
    used = batch.tracks.lengths().view(len(batch.tracks.keys()), -1).any(dim=0).nonzero()
    return int(used[-1]) + 2 if len(used) else 1


def _next(ahead: deque[tuple[SessionBatch, Highest]]) -> SessionBatch:
    batch, needed = ahead.popleft()
    return with_bags(batch, -(-needed.wait() // _BAGS) * _BAGS)
