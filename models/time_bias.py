"""A bias of attention by the time between two plays, in buckets (HSTU, arXiv 2402.17152, section 3.2).

Times are sums of the pauses before plays, as `prepare --pause` has them: one bucket a doubling, and the bucket of two
plays side by side is the code of the pause between them.
Shape legend: B sessions, T positions, H heads, K buckets, G sessions of a part, Q queries and P keys of it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from skipwise.models.config import TIMES

UNKNOWN = TIMES - 1
"""The bucket of plays between which a pause is not known."""
LONGEST = TIMES - 2
"""The bucket of all times of some 2 ** LONGEST seconds and more."""
NO_PAUSE = -1
"""In place of a pause that is not known."""
_NONE = TIMES
"""Of a token that is no play: without bias."""


@dataclass(frozen=True)
class TimedMask:
    """A mask for `skipwise.models.attention.attend`, and a bias beside it that differs between sessions."""

    added_HTT: Tensor
    """[H or 1, T, T]: the same for all sessions."""
    bias_HK: Tensor
    """The bias of each bucket."""
    buckets_BTT: Tensor
    """Of `time_buckets`."""


def time_buckets(pauses_BT: Tensor, prepends: bool = False) -> Tensor:
    """uint8 [B, T, T]: the bucket of the time between two positions: log2 of one more than the seconds, rounded.

    `pauses_BT`: int64, seconds from the play before a session's play to it, `NO_PAUSE` where that is not known;
    `prepends`: a token without a time stands before the first play, which adds one position.
    """
    unknown_BT = (pauses_BT < 0).to(pauses_BT.dtype).cumsum(dim=1)
    seconds_BT = pauses_BT.clamp(min=0).cumsum(dim=1)
    passed_BTT = (seconds_BT[:, :, None] - seconds_BT[:, None]).abs()
    bucket_BTT = (passed_BTT + 1).float().log2().round().clamp(max=LONGEST).to(torch.int64)
    bucket_BTT = torch.where(unknown_BT[:, :, None] == unknown_BT[:, None], bucket_BTT, UNKNOWN)
    if prepends:
        bucket_BTT = nn.functional.pad(bucket_BTT, (1, 0, 1, 0), value=_NONE)
    return bucket_BTT.to(torch.uint8)


def played_after(pauses_M: Tensor, signals_BTC: Tensor) -> Tensor:
    """[B, T]: the pauses of `time_buckets`, by the rows of signals of each play."""
    return pauses_M[signals_BTC].amax(dim=2)


def time_bias(bias_HK: Tensor, buckets_GQP: Tensor) -> Tensor:
    """[G, H, Q, P]: the bias of each head."""
    with_none_HK = nn.functional.pad(bias_HK, (0, 1))
    return with_none_HK[:, buckets_GQP.to(torch.int64)].transpose(0, 1)


def time_bias_gradient(gradient_GHQP: Tensor, buckets_GQP: Tensor) -> Tensor:
    """[H, K]: the gradient of `time_bias` by the biases; the same bits each time, on a GPU too."""
    gradient_HX, bucket_X = gradient_GHQP.float().transpose(0, 1).flatten(1), buckets_GQP.flatten().to(torch.int64)
    if bucket_X.device.type == "cpu":  # a third of the time of the other
        return torch.stack([torch.bincount(bucket_X, of_head_X, TIMES + 1) for of_head_X in gradient_HX])[:, :TIMES]
    sums_KH = torch.ops.aten.embedding_dense_backward(gradient_HX.T.contiguous(), bucket_X, TIMES + 1, -1, False)
    return sums_KH[:TIMES].T
