"""A Triton kernel that reads a block of scores once: counts against the targets' scores, and each group's maximum.

Shape legend: Q queries, B rows of a block, G groups of a block, S rows of a group.
"""

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from skipwise.common.distributed import logger
from skipwise.models.topk import GROUP

_GROUPS = 64
"""Groups that one program reads, 16 KiB."""

if find_spec("triton"):
    import triton
    import triton.language as tl

    @triton.jit
    def _larger(one, other):  # type: ignore[no-untyped-def]
        return tl.maximum(one, other, propagate_nan=tl.PropagateNan.ALL)

    @triton.jit(do_not_specialize=["num_rows"])
    def _summarize(  # type: ignore[no-untyped-def]
        scores,
        goals,
        counts,
        maxima,
        num_rows,
        num_groups,
        num_queries,
        row_stride,
        GROUPS: tl.constexpr,
        GROUP: tl.constexpr,
    ):
        query = tl.program_id(0).to(tl.int64)
        group_G = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
        column_GS = group_G[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
        goal = tl.load(goals + query)
        there_GS = (group_G < num_groups)[:, None]
        score_GS = tl.load(scores + query * row_stride + column_GS, mask=there_GS, other=float("-inf"))
        counted_GS = column_GS < num_rows
        at_most = tl.sum(((score_GS <= goal) & counted_GS).to(tl.int32))
        below = tl.sum(((score_GS < goal) & counted_GS).to(tl.int32))
        tl.atomic_add(counts + query, at_most, sem="relaxed")
        tl.atomic_add(counts + num_queries + query, below, sem="relaxed")
        tl.store(maxima + query * num_groups + group_G, tl.reduce(score_GS, 1, _larger), mask=group_G < num_groups)


def summarize(scores_QB: Tensor, scores_Q: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """(int32 [2, Q]: the first `num_rows` rows with at most `scores_Q` and below it; the groups' maxima [Q, G]).

    NaN is neither, and is the maximum of its group. B is a multiple of `GROUP`; rows may be strided.
    """
    num_queries, num_groups = len(scores_QB), scores_QB.shape[1] // GROUP
    counts_2Q = torch.zeros(2, num_queries, dtype=torch.int32, device=scores_QB.device)
    maxima_QG = scores_QB.new_empty(num_queries, num_groups)
    grid = (num_queries, triton.cdiv(num_groups, _GROUPS))
    _summarize[grid](
        scores_QB,
        scores_Q.contiguous(),
        counts_2Q,
        maxima_QG,
        num_rows,
        num_groups,
        num_queries,
        scores_QB.stride(0),
        _GROUPS,
        GROUP,
    )
    return counts_2Q, maxima_QG


@cache
def is_fused(device: torch.device) -> bool:
    """Whether `summarize` runs on this device: a CUDA device, Triton, and what that needs to compile."""
    if device.type != "cuda" or not find_spec("triton"):
        return False
    try:
        counts_2Q, _ = summarize(torch.ones(1, GROUP, device=device), torch.ones(1, device=device), GROUP)
        return counts_2Q.tolist() == [[GROUP], [0]]
    except Exception as error:  # whatever a compiler or driver raises: the same answers come without it
        logger.warning(f"ranking goes on without its Triton kernel, at about half the speed: {error}")
        return False
