"""Rows of the table as an export's numbers: float32 as they are, float16, or FBGEMM's row-wise 8 bits.

`retrieval.formats.decode` is the inverse, and needs neither torch nor FBGEMM.

Shape legend: B rows of a block, D width, W numbers of an encoded row: D, and 8 bytes more for int8.
"""

import fbgemm_gpu  # noqa: F401  registers the operators
import numpy as np
import torch
from torch import Tensor

from skipwise.common.errors import UserError
from skipwise.retrieval.formats import DType, decode, scale_bias

_EPSILON = 1e-8
"""FBGEMM divides by the row's span plus this."""


def encode(rows_BD: Tensor, dtype: DType, numbers_B: np.ndarray) -> np.ndarray:
    """[B, W] float32, float16, or uint8 (codes, scale, bias) of float32 rows on the CPU.

    Raises `UserError` for a row that is not finite, or that `dtype` cannot hold; `numbers_B`: the rows' numbers.
    """
    if not torch.stack(rows_BD.aminmax()).isfinite().all():  # ten times as fast as asking each number
        _refuse(~rows_BD.isfinite().all(dim=1), numbers_B, "is not finite in the model's table: train again")
    return convert(rows_BD, dtype, numbers_B)


def convert(rows_BD: Tensor, dtype: DType, numbers_B: np.ndarray) -> np.ndarray:
    """`encode` of rows that are known to be finite."""
    if dtype == "float32":
        return rows_BD.numpy()
    if dtype == "float16":
        halves_BD = rows_BD.half()
        _refuse(halves_BD.isinf().any(dim=1), numbers_B, "goes beyond float16's 65,504: export with --dtype float32")
        return halves_BD.numpy()
    fused_BW: np.ndarray = torch.ops.fbgemm.FloatToFused8BitRowwiseQuantized(rows_BD).numpy()
    overflows_B = ~torch.from_numpy(np.isfinite(scale_bias(fused_BW)).all(axis=1))
    _refuse(overflows_B, numbers_B, "spans more than float32 can hold: export with --dtype float32")
    return fused_BW


def check_near(encoded_BW: np.ndarray, dtype: DType, rows_BD: Tensor, numbers_B: np.ndarray) -> None:
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
    far_BD = ~((torch.from_numpy(decode(encoded_BW, dtype)) - rows_BD).abs() <= allowed)
    _refuse(far_BD.any(dim=1), numbers_B, f"is further from its {dtype} than rounding moves it: see `skipwise doctor`")


def _refuse(wrong_B: Tensor, numbers_B: np.ndarray, problem: str) -> None:
    if wrong_B.any():
        raise UserError(f"row {numbers_B[int(wrong_B.nonzero()[0])]} {problem}")
