"""The least time one step can take on this machine: its arithmetic and its bytes at rates measured here.

Terms, each for the global batch, with padding computed nowhere:

- Encoder: a position passes four D x D matrices and two D x hidden ones in each block, 2 operations a weight.
- Attention: in each block, every position of a session is multiplied by every other twice (scores, weighted sum).
- Both count three times: the gradients by weights and by inputs cost a forward pass each.
- Logits: every position with a target is compared with K negatives; this product, the gradient of its queries and that
  of its negatives are as large, but differ in shape and rate.
- Rows: each lookup is read and its gradient written; each distinct row has its gradient summed, and its weight and two
  optimizer states read and written, four bytes a number.
- Logit bytes: written, read for the softmax, written as gradients and read again.

Left out: norms, activations, the skip head (small beside these), dropout, exponentials, Python and data. So 1.0 of the
floor cannot be reached; the fraction says how much is left to gain, at most. Attention is charged at the rate of the
encoder's products: batches of small ones run below it, which is a kernel's weakness and not the machine's.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.benchmark import Timer

_SECONDS_EACH = 0.3
_COPIED_NUMBERS = 1 << 26


@dataclass(frozen=True)
class Work:
    """What one global batch asks for."""

    positions: float
    """Positions the encoder reads, padding left out."""
    squares: float
    """Sum over sessions of the squared number of positions read."""
    targets: float
    """Positions with a target."""
    negatives: float
    """Negatives a target is compared with."""
    per_session: bool
    """Negatives are each session's own, so that their products are batches of small ones."""
    lookups: float
    """Rows gathered: inputs, targets and negatives."""
    unique: float
    """Distinct rows among them."""
    dim: int
    hidden: int
    blocks: int
    number_bytes: int
    """Of a logit: 4, or 2 in bf16."""


@dataclass(frozen=True)
class Rates:
    """Operations per second by the shape of a matrix product, and bytes per second of a copy (read and written)."""

    encoder: float
    logits: float
    query_gradient: float
    negative_gradient: float
    copy: float


def floor_seconds(work: Work, rates: Rates) -> float:
    """The sum of the terms above."""
    encoder = 3 * work.blocks * 2 * work.positions * (4 * work.dim**2 + 2 * work.dim * work.hidden)
    attention = 3 * work.blocks * 2 * 2 * work.squares * work.dim
    logits = 2 * work.targets * work.negatives * work.dim
    row_bytes = 4 * work.dim * (2 * work.lookups + 8 * work.unique)
    logit_bytes = 4 * work.targets * work.negatives * work.number_bytes
    return (
        (encoder + attention) / rates.encoder
        + logits * (1 / rates.logits + 1 / rates.query_gradient + 1 / rates.negative_gradient)
        + (row_bytes + logit_bytes) / rates.copy
    )


def measure_rates(work: Work, batch: int, precision: str, device: torch.device) -> Rates:
    """This machine's rates on the shapes of `work`, by the threads that torch has now.

    float32 products run at "medium", the fastest setting whose errors stay float32's. Takes some seconds.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    positions, targets, negatives, dim = round(work.positions), round(work.targets), round(work.negatives), work.dim
    shape = (batch, max(1, targets // batch)) if work.per_session else (targets,)
    pool = shape[:1] if work.per_session else ()

    def random(*sizes: int) -> torch.Tensor:
        return torch.randn(*sizes, dtype=dtype, device=device)

    inputs, weights = random(positions, dim), random(dim, 3 * dim)
    queries, logits, rows = random(*shape, dim), random(*shape, negatives), random(*pool, negatives, dim)
    source = torch.zeros(_COPIED_NUMBERS, device=device)
    copy = torch.empty_like(source)
    try:
        return Rates(
            encoder=2 * inputs.numel() * 3 * dim / _seconds(lambda: inputs @ weights),
            logits=2 * logits.numel() * dim / _seconds(lambda: queries @ rows.mT),
            query_gradient=2 * logits.numel() * dim / _seconds(lambda: logits @ rows),
            negative_gradient=2 * logits.numel() * dim / _seconds(lambda: logits.mT @ queries),
            copy=2 * 4 * _COPIED_NUMBERS / _seconds(lambda: copy.copy_(source)),
        )
    finally:
        torch.set_float32_matmul_precision(before)


def _seconds(call: Callable[[], object]) -> float:
    """Median of the calls that fit in a few tenths of a second."""
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return float(timer.blocked_autorange(min_run_time=_SECONDS_EACH).median)
