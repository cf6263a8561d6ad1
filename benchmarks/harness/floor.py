"""The least time one step can take on this machine: what it must multiply, read and write, at the best rates here.

Terms, each for the global batch, with padding computed nowhere:

- Encoder: a position passes four D x D matrices and two D x hidden ones in each block, 2 operations a weight.
- Attention: in each block, a position is multiplied twice (scores, weighted sum) by each that it sees, D numbers wide.
- Logits: every position with a target is compared with K negatives, and no pair that is not wanted is counted.
- All products count three times, as the gradients by both factors cost a forward pass each. They run at the best rate
  of any product here: a large square one, or one of this step's shapes.
- Rows: each lookup is read and its gradient written; each distinct row has its gradient summed, and its weight and two
  optimizer states read and written, four bytes a number, at the rate of a copy in memory. Negatives a session of their
  own are windows of one list, as training has them, whose rows count once.
- Element-wise work passes once through the cache, at the rate of a copy in it. Between two products a number is read
  and written; backward, its gradient and what that depends on are read, and one gradient is written. In each block
  these are twice D numbers a position with the residual beside them (dropout, norm), `hidden` a position (activation),
  and one a head and pair (softmax). A logit is read and its gradient written.

Left out: skip losses, the reading of signals and the keep head, random numbers, exponentials, Python and data. So 1.0
cannot be reached.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.benchmark import Timer

from skipwise.common.product_precision import products_at

_SECONDS_EACH = 0.3
_COPIED_NUMBERS = 1 << 26
_CACHED_NUMBERS = 1 << 16
"""256 KiB, and as many written: within the second level of one core."""
_SQUARE = 2048
_CARD_CACHED_NUMBERS, _CARD_SQUARE = 1 << 22, 8192
"""On a GPU: 16 MiB, and as many written, within its second level; and what it takes to occupy all of it."""


@dataclass(frozen=True)
class Work:
    """What one global batch asks for."""

    positions: float
    """Positions the encoder reads, padding left out."""
    pairs: float
    """Pairs of a position and one that it sees."""
    targets: float
    """Positions with a target."""
    negatives: float
    """Negatives a target is compared with."""
    lookups: float
    """Rows gathered: inputs, targets and negatives."""
    unique: float
    """Distinct rows among them."""
    dim: int
    hidden: int
    blocks: int
    heads: int
    number_bytes: int
    """Of a number between two products: 4, or 2 in bf16."""


@dataclass(frozen=True)
class Rates:
    """The best that this machine does."""

    product: float
    """Operations per second of matrix products."""
    copy: float
    """Bytes per second of a copy in memory, read and written."""
    cache: float
    """The same in the cache."""


def floor_seconds(work: Work, rates: Rates) -> float:
    """The sum of the terms above."""
    encoder = work.blocks * work.positions * (4 * work.dim**2 + 2 * work.dim * work.hidden)
    attention = work.blocks * 2 * work.pairs * work.dim
    logits = work.targets * work.negatives
    row_bytes = 4 * work.dim * (2 * work.lookups + 8 * work.unique)
    # A number: 2 forward, 3 backward; with a residual one more each way, whose gradient is the one that is written.
    elements = work.blocks * (2 * 6 * work.positions * work.dim + 5 * work.positions * work.hidden)
    elements += work.blocks * 5 * work.heads * work.pairs + 2 * logits
    return (
        3 * 2 * (encoder + attention + logits * work.dim) / rates.product
        + row_bytes / rates.copy
        + elements * work.number_bytes / rates.cache
    )


def measure_rates(work: Work, precision: str, device: torch.device, matmul: str = "medium") -> Rates:
    """This machine's rates by the threads that torch has now; products of square matrices and on the shapes of `work`.

    float32 products run at `matmul`; "medium" is training's. Takes some seconds.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    positions, targets, negatives, dim = round(work.positions), round(work.targets), round(work.negatives), work.dim
    shapes = [
        (positions, dim, 3 * dim),
        (targets, dim, negatives),
        (targets, negatives, dim),
        (negatives, targets, dim),
    ]
    square, cached = (_CARD_SQUARE, _CARD_CACHED_NUMBERS) if device.type == "cuda" else (_SQUARE, _CACHED_NUMBERS)
    with products_at(matmul):
        product = max(_product_rate(shape, dtype, device) for shape in [(square,) * 3, *shapes])
    return Rates(product=product, copy=_copy_rate(_COPIED_NUMBERS, device), cache=_copy_rate(cached, device))


def _product_rate(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> float:
    """Operations per second of a product [M, K] x [K, N] for `shape` (M, K, N)."""
    rows, inner, columns = shape
    left, right = (
        torch.randn(rows, inner, dtype=dtype, device=device),
        torch.randn(inner, columns, dtype=dtype, device=device),
    )
    return 2 * rows * inner * columns / _seconds(lambda: left @ right)


def _copy_rate(numbers: int, device: torch.device) -> float:
    """Bytes per second, read and written, of a copy of `numbers` float32."""
    source = torch.zeros(numbers, device=device)
    copy = torch.empty_like(source)
    return 2 * source.nbytes / _seconds(lambda: copy.copy_(source))


def _seconds(call: Callable[[], object]) -> float:
    """Median of the calls that fit in a few tenths of a second."""
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return float(timer.blocked_autorange(min_run_time=_SECONDS_EACH).median)
