"""The parts of an export: their file format, the type of their numbers, and how encoded rows are decoded.

int8 is FBGEMM's row-wise quantization. FBGEMM encodes it (`export/row_encoding.py`); NumPy decodes it, so that serving
does not need FBGEMM.

Shape legend: B rows of a block, D width, W numbers of an encoded row: D, and 8 bytes more for int8.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from skipwise.common.errors import UserError
from skipwise.common.versions import need_extra

Format = Literal["parquet", "npy", "faiss"]
DType = Literal["float32", "float16", "int8"]

SCALE_BIAS_BYTES = 8
"""After the codes of an int8 row: scale and bias, float32 each; value = code * scale + bias."""


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


def encode_rows(rows_BD: np.ndarray, dtype: DType) -> np.ndarray:
    """[B, W] of float32 rows, without FBGEMM: the inverse of `decode`, as `export/row_encoding.py` encodes them."""
    if dtype != "int8":
        return rows_BD.astype(dtype)
    least_B1 = rows_BD.min(axis=1, keepdims=True)
    span_B1 = rows_BD.max(axis=1, keepdims=True) - least_B1
    codes_BD = np.rint((rows_BD - least_B1) * (np.float32(255) / (span_B1 + np.float32(1e-8))))
    scale_bias_B2 = np.concatenate([span_B1 / np.float32(255), least_B1], axis=1).astype("<f4")
    return np.concatenate([codes_BD.astype(np.uint8), scale_bias_B2.view(np.uint8)], axis=1)


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
