"""Rows of the table as the numbers of an export: float32 as they are, float16, or FBGEMM's row-wise 8 bits.

Shape legend: B rows of a block, D width, W numbers of an encoded row: D, and 8 bytes more for int8.
"""

import fbgemm_gpu  # noqa: F401  registers the operators
import numpy as np
import torch
from torch import Tensor

from skipwise.common.errors import UserError

SCALE_BIAS_BYTES = 8
"""Behind an int8 row's codes: scale and bias, float32 each; value = code * scale + bias."""
_EPSILON = 1e-8
"""FBGEMM divides by the row's span and this much more."""


def row_bytes(dim: int, dtype: str) -> int:
    """Bytes of an encoded row."""
    return {"float32": 4 * dim, "float16": 2 * dim, "int8": dim + SCALE_BIAS_BYTES}[dtype]


def encode(rows_BD: Tensor, dtype: str, numbers_B: np.ndarray) -> np.ndarray:
    """[B, W] float32, float16, or uint8 (codes, scale, bias) of float32 rows on the CPU.

    Raises `UserError` for a row that is not finite, or that `dtype` cannot hold; `numbers_B`: the rows' numbers.
    """
    _refuse(~rows_BD.isfinite().all(dim=1), numbers_B, "is not finite in the model's table: train again")
    if dtype == "float32":
        return rows_BD.numpy()
    if dtype == "float16":
        halves_BD = rows_BD.half()
        _refuse(halves_BD.isinf().any(dim=1), numbers_B, "goes beyond float16's 65,504: export with --dtype float32")
        return halves_BD.numpy()
    fused_BW = torch.ops.fbgemm.FloatToFused8BitRowwiseQuantized(rows_BD)
    spans_too_far_B = ~fused_BW[:, -SCALE_BIAS_BYTES:].contiguous().view(torch.float32).isfinite().all(dim=1)
    _refuse(spans_too_far_B, numbers_B, "spans more than float32 can say: export with --dtype float32")
    return fused_BW.numpy()


def decode(encoded_BW: np.ndarray, dtype: str) -> Tensor:
    """float32 [B, D] of encoded rows."""
    if dtype == "int8":
        return torch.ops.fbgemm.Fused8BitRowwiseQuantizedToFloat(torch.from_numpy(encoded_BW))
    return torch.from_numpy(encoded_BW).float()


def scale_bias(fused_BW: np.ndarray) -> np.ndarray:
    """float32 [B, 2] of int8 rows."""
    return np.ascontiguousarray(fused_BW[:, -SCALE_BIAS_BYTES:]).view(np.float32)


def check_near(encoded_BW: np.ndarray, dtype: str, rows_BD: Tensor, numbers_B: np.ndarray) -> None:
    """Raises `UserError` where an encoded value is further from the live one than rounding moves it.

    That is half a step of the row's 255 for int8, half a unit in the last place for float16.
    """
    if dtype == "float32":
        return  # compared bit for bit
    rounding_B1 = rows_BD.abs().amax(dim=1, keepdim=True) * 2**-21
    if dtype == "int8":
        allowed = torch.from_numpy(scale_bias(encoded_BW))[:, :1] / 2 + _EPSILON + rounding_B1
    else:
        allowed = rows_BD.abs() * 2**-11 + 2**-25
    far_BD = ~((decode(encoded_BW, dtype) - rows_BD).abs() <= allowed)
    _refuse(far_BD.any(dim=1), numbers_B, f"is further from its {dtype} than rounding moves it: see `skipwise doctor`")


def _refuse(wrong_B: Tensor, numbers_B: np.ndarray, words: str) -> None:
    if wrong_B.any():
        raise UserError(f"row {numbers_B[int(wrong_B.nonzero()[0])]} {words}")
