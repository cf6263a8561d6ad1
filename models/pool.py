"""The next-track heads against a pool of negatives, a few positions at a time.

Only the sum of the losses is ever differentiated, so forward computes each chunk's gradient while its logits are in the
cache, and keeps neither all logits nor anything of their size for backward.
Shape legend: V positions with a target, in order of their sessions; D width; P pool; Y collisions; v and p: the rows
and columns of one chunk.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from skipwise.models.recurring_products import add_product, add_product_over_rows, compiled, product, rounded

_SHARED_ROWS = 256
_OWN_ROWS = 128
_CUDA_OWN_ROWS = 1024
_CUDA_ELEMENTS = 1 << 27

Head = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes the targets' logits [v] and the negatives' [v, p] (-inf: left out), float32; returns the losses [v] and their
gradient with respect to the targets' logits [v], and overwrites the negatives' logits with theirs."""


OnHost = tuple[Tensor | None, Tensor | None]
"""`window_V2` and `collides_Y2` of `pool_losses`."""


@dataclass(frozen=True)
class Bias:
    """Added to the logits, float32, without a gradient."""

    target_V: Tensor
    """Of each target."""
    pool_BP: Tensor
    """Of each track of the pool for each session; -inf leaves it out."""
    session_V: Tensor
    """int64: each position's session."""


def pool_losses(
    queries_VD: Tensor,
    targets_VD: Tensor,
    pool_PD: Tensor,
    window_V2: Tensor | None,
    collides_Y2: Tensor | None,
    head: Head,
    beside_V: Tensor | None = None,
    bias: Bias | None = None,
    on_host: OnHost | None = None,
) -> Tensor:
    """The sum of the head's losses of queries [V, D] against their targets' rows and their windows of the pool.

    `window_V2`: int64, the first place and the place after the last of each, ascending; None where each is the whole
    pool. `collides_Y2`: int64 (position, place) pairs to leave out, ascending, if any. `beside_V`: for `softmax_head`
    alone, float32 logsumexp of the logits of negatives that are not in the pool, finite. `on_host`: both in host
    memory, since to copy them there waits for a GPU.
    """
    if on_host is None:
        window, collides = (None if given is None else given.cpu() for given in (window_V2, collides_Y2))
        on_host = window, collides
    return _PoolLosses.apply(queries_VD, targets_VD, pool_PD, window_V2, collides_Y2, head, beside_V, bias, on_host)


def softmax_head(target_v: Tensor, logits_vp: Tensor) -> tuple[Tensor, Tensor]:
    """`heads.sampled_softmax` as a `Head`: a logit's gradient is its probability, less one for the target's."""
    highest_v = torch.maximum(target_v, logits_vp.amax(dim=1))
    exponential_v = (target_v - highest_v).exp_()
    total_v = logits_vp.sub_(highest_v[:, None]).exp_().sum(dim=1).add_(exponential_v)
    logits_vp.mul_(total_v.reciprocal()[:, None])
    return total_v.log() + highest_v - target_v, exponential_v.div_(total_v).sub_(1)


@lru_cache
def compiled_softmax_head() -> Head:
    """`softmax_head` in few kernels of a GPU, for chunks of any size."""
    return torch.compile(softmax_head, dynamic=True, fullgraph=True)


def hardest(head: Head, count: int) -> Head:
    """`head` over the `count` negatives of each position that have the highest logits, and any as high as the last of
    them; the others are left out, and get no gradient."""

    def of_hardest(target_v: Tensor, logits_vp: Tensor) -> tuple[Tensor, Tensor]:
        lowest_v = logits_vp.topk(min(count, logits_vp.shape[1]), dim=1, sorted=False).values.amin(dim=1)
        return head(target_v, logits_vp.masked_fill_(logits_vp < lowest_v[:, None], float("-inf")))

    return of_hardest


def gbce_head(power: float, negatives: int) -> Head:
    """Generalised binary cross-entropy as a `Head`: the sum over the target and `negatives` K, of logits less log K.

    Zero logits, as weights start with, then mean the probability 1 / (K + 1) and not 1/2: the negatives together
    weigh as much as the target. At 1/2 they push every row away from every query until all that is learned is how
    popular a track is. A negative that is left out counts in K, since it was drawn at the same rate.
    """
    shift = math.log(negatives)

    def head(target_v: Tensor, logits_vp: Tensor) -> tuple[Tensor, Tensor]:
        log_sigmoid = torch.nn.functional.logsigmoid
        target_v = target_v - shift
        logits_vp.sub_(shift)
        losses_v = -(power * log_sigmoid(target_v) + log_sigmoid(-logits_vp).sum(dim=1))
        logits_vp.sigmoid_()
        return losses_v, -power * torch.sigmoid(-target_v)

    return head


class _PoolLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries_VD: Tensor,
        targets_VD: Tensor,
        pool_PD: Tensor,
        window_V2: Tensor | None,
        collides_Y2: Tensor | None,
        head: Head,
        beside_V: Tensor | None,
        bias: Bias | None,
        on_host: OnHost,
    ) -> Tensor:
        dtype = queries_VD.dtype  # bfloat16 under autocast; sums over chunks stay float32
        rows_PD, tracks_VD = pool_PD.to(dtype), targets_VD.to(dtype)
        target_V = (queries_VD * tracks_VD).sum(dim=1, dtype=torch.float32)
        if bias is not None:
            target_V += bias.target_V
        # A softmax over the target and the negatives beside it: both are one term against the pool.
        first_V = target_V if beside_V is None else torch.logaddexp(target_V, beside_V)
        grad_query_VD, grad_target_V = torch.empty_like(queries_VD), torch.empty_like(target_V)
        grad_pool_PD = torch.zeros_like(pool_PD, dtype=torch.float32)
        total = target_V.new_zeros(())
        for rows, columns, pairs in _chunks(queries_VD, len(pool_PD), *on_host):
            if bias is None:
                logits_vp = product(queries_VD[rows], rows_PD[columns].T).float()
            else:  # in place of its copy: what is as large as the logits is not passed once more
                logits_vp = bias.pool_BP[:, columns].index_select(0, bias.session_V[rows])
                add_product(logits_vp, queries_VD[rows], rows_PD[columns].T)
            if window_V2 is not None:
                place_p = torch.arange(columns.start, columns.stop, device=logits_vp.device)
                window_v2 = window_V2[rows]
                logits_vp.masked_fill_((place_p < window_v2[:, :1]) | (place_p >= window_v2[:, 1:]), float("-inf"))
            if collides_Y2 is not None and pairs.start < pairs.stop:
                collides = collides_Y2[pairs]
                places = collides[:, 0] - rows.start, collides[:, 1] - columns.start
                logits_vp.index_put_(places, logits_vp.new_full((), float("-inf")))  # a plain number would be copied
            losses_v, grad_target_V[rows] = head(first_V[rows], logits_vp)
            total += losses_v.sum()
            grad_logit_vp = logits_vp.to(dtype)
            product(grad_logit_vp, rows_PD[columns], out=grad_query_VD[rows])
            add_product_over_rows(grad_pool_PD[columns], grad_logit_vp, queries_VD[rows])
        grad_beside_V = None
        if beside_V is not None:
            total += (first_V - target_V).sum()
            probability_V = grad_target_V + 1  # of the target and those beside it
            grad_beside_V = probability_V * (beside_V - first_V).exp()
            grad_target_V = probability_V * (target_V - first_V).exp() - 1
        grad_target_VD = queries_VD * grad_target_V[:, None]
        grad_query_VD.addcmul_(tracks_VD, grad_target_V[:, None].to(dtype))
        ctx.save_for_backward(
            grad_query_VD, grad_target_VD.to(targets_VD.dtype), grad_pool_PD.to(pool_PD.dtype), grad_beside_V
        )
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_query_VD, grad_target_VD, grad_pool_PD, grad_beside_V = ctx.saved_tensors
        grad_beside_V = None if grad_beside_V is None else grad_beside_V * grad
        gradients = grad_query_VD * grad, grad_target_VD * grad, grad_pool_PD * grad
        return *gradients, None, None, None, grad_beside_V, None, None


def _chunks(
    queries_VD: Tensor, pool: int, window_V2: Tensor | None, collides_Y2: Tensor | None
) -> Iterator[tuple[slice, slice, slice]]:
    """(positions, the places in any of their windows, the collisions of these positions), of tensors in host memory."""
    positions, size = len(queries_VD), _SHARED_ROWS if window_V2 is None else _OWN_ROWS
    if queries_VD.device.type != "cpu":
        size = _CUDA_OWN_ROWS if window_V2 is not None else max(size, _CUDA_ELEMENTS // max(pool, 1))
    starts = list(range(0, positions, size))
    bounds = [0] * len(starts) + [0 if collides_Y2 is None else len(collides_Y2)]
    if collides_Y2 is not None and len(starts) > 1:
        bounds = torch.searchsorted(collides_Y2[:, 0].contiguous(), torch.tensor([*starts, positions])).tolist()
    for number, start in enumerate(starts):
        rows = slice(start, min(start + size, positions))
        columns = slice(0, pool)
        if window_V2 is not None:
            first, last = int(window_V2[rows, 0].min()), int(window_V2[rows, 1].max())
            last = max(last, first + 1)  # where all windows are empty, one place in none of them
            columns = slice(first, min(first + rounded(last - first), pool) if compiled(queries_VD) else last)
        yield rows, columns, slice(bounds[number], bounds[number + 1])
