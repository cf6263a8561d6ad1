"""What the parts of an export are made of: their file format, the type of their numbers, and rows encoded as that type.

int8 is FBGEMM's row-wise quantization. FBGEMM encodes it; NumPy decodes it, so that serving does not need FBGEMM.

Shape legend: B rows of a block, D width, W numbers of an encoded row: D, and 8 bytes more for int8.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from skipwise.common.errors import UserError
from skipwise.common.versions import need_extra

if TYPE_CHECKING:
    from torch import Tensor

Format = Literal["parquet", "npy", "faiss"]
DType = Literal["float32", "float16", "int8"]

SCALE_BIAS_BYTES = 8
"""After the codes of an int8 row: scale and bias, float32 each; value = code * scale + bias."""
_EPSILON = 1e-8
"""FBGEMM divides by the row's span plus this."""


@dataclass(frozen=True)
class PartFormat:
    """The format of an export's parts, and the type of the numbers in them."""

    format: Format = "parquet"
    dtype: DType = "float32"

    @property
    def supported(self) -> bool:
        """Whether both are known and go together: FAISS has no scale and bias for each row."""
        known = self.format in get_args(Format) and self.dtype in get_args(DType)
        return known and (self.format, self.dtype) != ("faiss", "int8")

    @property
    def holds_tracks(self) -> bool:
        """Whether the parts hold the track ids too; otherwise these are in files of their own."""
        return self.format == "parquet"

    def check(self) -> None:
        """Raises `UserError` where the two do not go together, or need a package that is not installed."""
        if not self.supported:
            raise UserError(
                f"--format {self.format} has no --dtype {self.dtype}, for FAISS cannot hold a scale and a bias for "
                "each row: choose --dtype float32 or float16, or --format parquet or npy"
            )
        if self.format == "faiss":
            need_extra("ann", "--format faiss")


def row_bytes(dim: int, dtype: DType) -> int:
    """Bytes of an encoded row."""
    return {"float32": 4 * dim, "float16": 2 * dim, "int8": dim + SCALE_BIAS_BYTES}[dtype]


def encode(rows_BD: "Tensor", dtype: DType, numbers_B: np.ndarray) -> np.ndarray:
    """[B, W] float32, float16, or uint8 (codes, scale, bias) of float32 rows on the CPU.

    Raises `UserError` for a row that is not finite, or that `dtype` cannot hold; `numbers_B`: the rows' numbers.
    """
    import torch

    _refuse(~rows_BD.isfinite().all(dim=1), numbers_B, "is not finite in the model's table: train again")
    if dtype == "float32":
        return rows_BD.numpy()
    if dtype == "float16":
        halves_BD = rows_BD.half()
        _refuse(halves_BD.isinf().any(dim=1), numbers_B, "goes beyond float16's 65,504: export with --dtype float32")
        return halves_BD.numpy()
    import fbgemm_gpu  # noqa: F401  registers the operators

    fused_BW: np.ndarray = torch.ops.fbgemm.FloatToFused8BitRowwiseQuantized(rows_BD).numpy()
    overflows_B = ~torch.from_numpy(np.isfinite(scale_bias(fused_BW)).all(axis=1))
    _refuse(overflows_B, numbers_B, "spans more than float32 can hold: export with --dtype float32")
    return fused_BW


def decode(encoded_BW: np.ndarray, dtype: DType) -> np.ndarray:
    """float32 [B, D] of encoded rows; float32 rows are returned without a copy."""
    if dtype == "int8":
        scale_bias_B2 = scale_bias(encoded_BW)
        codes_BD = encoded_BW[:, :-SCALE_BIAS_BYTES].astype(np.float32)
        return codes_BD * scale_bias_B2[:, :1] + scale_bias_B2[:, 1:]
    return encoded_BW.astype(np.float32, copy=False)


def scale_bias(fused_BW: np.ndarray) -> np.ndarray:
    """float32 [B, 2] of int8 rows."""
    return np.ascontiguousarray(fused_BW[:, -SCALE_BIAS_BYTES:]).view(np.float32)


def check_near(encoded_BW: np.ndarray, dtype: DType, rows_BD: "Tensor", numbers_B: np.ndarray) -> None:
    """Raises `UserError` where an encoded value is further from the live one than rounding moves it.

    That is half a step of the row's 255 for int8, half a unit in the last place for float16.
    """
    import torch

    if dtype == "float32":
        return  # compared bit for bit
    rounding_B1 = rows_BD.abs().amax(dim=1, keepdim=True) * 2**-21
    if dtype == "int8":
        allowed = torch.from_numpy(scale_bias(encoded_BW))[:, :1] / 2 + _EPSILON + rounding_B1
    else:
        allowed = rows_BD.abs() * 2**-11 + 2**-25
    far_BD = ~((torch.from_numpy(decode(encoded_BW, dtype)) - rows_BD).abs() <= allowed)
    _refuse(far_BD.any(dim=1), numbers_B, f"is further from its {dtype} than rounding moves it: see `skipwise doctor`")


def _refuse(wrong_B: "Tensor", numbers_B: np.ndarray, problem: str) -> None:
    if wrong_B.any():
        raise UserError(f"row {numbers_B[int(wrong_B.nonzero()[0])]} {problem}")
