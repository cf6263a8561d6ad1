"""Matrix products of another number of rows at each step, made of products of few shapes.

On a CPU, products that may round to bfloat16 are oneDNN's, which compiles a kernel for each shape that it has not met
lately. That takes .6 to 1.2 ms, two to ten times as long as the product itself. So rows are multiplied by multiples of
`ROWS`, and what is left with zeros below it.
Shape legend: N rows, R rows of a part of them, X and Y any widths.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

ROWS = 64


def rounded(number: int) -> int:
    """The next multiple of `ROWS`."""
    return -(-number // ROWS) * ROWS


def compiled(values: Tensor) -> bool:
    """Whether a product of these values is compiled: on a CPU in bfloat16, or where float32 may be rounded to it."""
    return values.device.type == "cpu" and (
        values.dtype == torch.bfloat16 or torch.get_float32_matmul_precision() == "medium"
    )


def product(left_NX: Tensor, right_XY: Tensor, out: Tensor | None = None) -> Tensor:
    """[N, Y] of `left_NX @ right_XY`, in `out` if that is given; without a gradient."""
    out_NY = left_NX.new_empty(len(left_NX), right_XY.shape[1]) if out is None else out
    if not compiled(left_NX):
        return torch.mm(left_NX, right_XY, out=out_NY)
    for rows in _parts(len(left_NX)):
        if (rows.stop - rows.start) % ROWS:
            out_NY[rows] = torch.mm(_padded(left_NX[rows]), right_XY)[: rows.stop - rows.start]
        else:
            torch.mm(left_NX[rows], right_XY, out=out_NY[rows])
    return out_NY


def add_product(sum_NY: Tensor, left_NX: Tensor, right_XY: Tensor) -> None:
    """Adds `left_NX @ right_XY` to `sum_NY`, which may be of higher precision; without a gradient."""
    few = compiled(left_NX)
    for rows in _parts(len(left_NX)) if few else [slice(0, len(left_NX))]:
        sum_RY, left_RX = sum_NY[rows], left_NX[rows]
        if few and len(left_RX) % ROWS:
            sum_RY += torch.mm(_padded(left_RX), right_XY)[: len(left_RX)]
        elif sum_NY.dtype == left_NX.dtype:
            sum_RY.addmm_(left_RX, right_XY)
        else:
            sum_RY += left_RX @ right_XY


def add_product_over_rows(sum_XY: Tensor, left_NX: Tensor, right_NY: Tensor) -> None:
    """Adds `left_NX.T @ right_NY` to `sum_XY`, which may be of higher precision; without a gradient."""
    for rows in _parts(len(left_NX)) if compiled(left_NX) else [slice(None)]:
        left_RX, right_RY = left_NX[rows], right_NY[rows]
        if compiled(left_NX) and len(left_RX) % ROWS:
            left_RX, right_RY = _padded(left_RX), _padded(right_RY)
        if sum_XY.dtype == left_NX.dtype:
            sum_XY.addmm_(left_RX.T, right_RY)
        else:
            sum_XY += left_RX.T @ right_RY


def _parts(number: int) -> Iterator[slice]:
    whole = number // ROWS * ROWS
    yield from (rows for rows in (slice(0, whole), slice(whole, number)) if rows.start < rows.stop)


def _padded(values_NX: Tensor) -> Tensor:
    return nn.functional.pad(values_NX, (0, 0, 0, ROWS - len(values_NX)))


class RowLinear(nn.Linear):
    """`nn.Linear` of values [N, X]."""

    def forward(self, values: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or not self.training or values.device.type != "cpu":
            return super().forward(values)
        weight_YX: Tensor = self.weight
        bias_Y: Tensor | None = self.bias
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            values, weight_YX = values.to(dtype), weight_YX.to(dtype)
            bias_Y = None if bias_Y is None else bias_Y.to(dtype)
        if not compiled(values):
            return nn.functional.linear(values, weight_YX, bias_Y)
        products_NY: Tensor = _RowLinear.apply(values, weight_YX, bias_Y)
        return products_NY


class _RowLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values_NX: Tensor, weight_YX: Tensor, bias_Y: Tensor | None) -> Tensor:
        ctx.save_for_backward(values_NX, weight_YX)
        products_NY = product(values_NX, weight_YX.T)
        return products_NY if bias_Y is None else products_NY.add_(bias_Y)

    @staticmethod
    def backward(ctx: Any, grad_NY: Tensor) -> tuple[Tensor | None, ...]:
        values_NX, weight_YX = ctx.saved_tensors
        grad_weight_YX = torch.zeros_like(weight_YX, dtype=torch.float32)
        add_product_over_rows(grad_weight_YX, grad_NY, values_NX)
        grad_bias_Y = grad_NY.sum(dim=0) if ctx.needs_input_grad[2] else None
        return product(grad_NY, weight_YX), grad_weight_YX.to(weight_YX.dtype), grad_bias_Y
