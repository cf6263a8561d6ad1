"""What an export may be made of: formats of its parts, types of their numbers, and which go together."""

from dataclasses import dataclass
from typing import Literal, get_args

from skipwise.common.errors import UserError
from skipwise.common.versions import need_extra

Format = Literal["parquet", "npy", "faiss"]
DType = Literal["float32", "float16", "int8"]


@dataclass(frozen=True)
class Kind:
    """What the parts of an export are."""

    format: Format = "parquet"
    dtype: DType = "float32"

    @property
    def possible(self) -> bool:
        """Whether both are known and go together: FAISS has no scale and bias for each row."""
        known = self.format in get_args(Format) and self.dtype in get_args(DType)
        return known and (self.format, self.dtype) != ("faiss", "int8")

    @property
    def holds_tracks(self) -> bool:
        """Whether the parts hold the track ids too; otherwise they lie in files of their own."""
        return self.format == "parquet"


PLAIN = Kind()


def check_kind(kind: Kind) -> None:
    """Raises `UserError` for a kind that no part can be of, or that needs what is not installed."""
    if not kind.possible:
        raise UserError(
            f"--format {kind.format} has no --dtype {kind.dtype}, for FAISS cannot hold a scale and a bias for each "
            "row: choose --dtype float32 or float16, or --format parquet or npy"
        )
    if kind.format == "faiss":
        need_extra("ann", "--format faiss")
