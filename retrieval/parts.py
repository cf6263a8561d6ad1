"""One rank's rows as a Parquet part: written block by block, read back and compared to the last bit.

Shape legend: R rows of this rank, D width.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from datapipes.errors import UserError
from datapipes.row_group import DAMAGED
from datapipes.vocabulary import Vocabulary


def part_name(rank: int) -> str:
    """The part of a rank; names sort in row order."""
    return f"embeddings/part-{rank:05}.parquet"


def part_schema(dim: int) -> pa.Schema:
    """Columns `track_id`, `row` and `embedding`."""
    return pa.schema({"track_id": pa.string(), "row": pa.int32(), "embedding": pa.list_(pa.float32(), dim)})


def write_part(file: Path, vocabulary: Vocabulary, first: int, rows_RD: Tensor) -> None:
    """Writes the rows from `first` on, a row group for each block of ids. Trained floats do not compress."""
    schema = part_schema(rows_RD.shape[1])
    with pq.ParquetWriter(file, schema, compression="none", use_dictionary=False, write_statistics=["row"]) as writer:
        for block in _blocks(vocabulary, first, rows_RD):
            writer.write_table(block, row_group_size=len(block))


def check_part(file: Path, vocabulary: Vocabulary, first: int, rows_RD: Tensor) -> None:
    """Raises `UserError` unless the part holds the live rows bit for bit, with their ids and numbers."""
    try:
        with pq.ParquetFile(file) as parquet:
            same = parquet.schema_arrow.equals(part_schema(rows_RD.shape[1]))
            same = same and parquet.metadata.num_rows == len(rows_RD)
            for group, block in enumerate(_blocks(vocabulary, first, rows_RD)):
                same = same and _equal(parquet.read_row_group(group, use_threads=False), block)
    except DAMAGED as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file.name} cannot be read back ({reason}): check the disk, then export again") from error
    if not same:
        raise UserError(f"{file.name} read back differs from the model's table: check the disk, then export again")


def _blocks(vocabulary: Vocabulary, first: int, rows_RD: Tensor) -> Iterator[pa.Table]:
    schema = part_schema(rows_RD.shape[1])
    for row, ids in vocabulary.ids(first, first + len(rows_RD)):
        block_RD = rows_RD[row - first : row - first + len(ids)].cpu().contiguous().numpy()
        kind = schema.field("embedding").type
        embeddings = pa.FixedSizeListArray.from_arrays(pa.array(block_RD.reshape(-1)), type=kind)
        numbers = pa.array(np.arange(row, row + len(ids), dtype=np.int32))
        yield pa.table([ids, numbers, embeddings], schema=schema)


def _equal(found: pa.Table, expected: pa.Table) -> bool:
    """Arrow's own comparison would take -0.0 for 0.0 and no NaN for itself."""
    bits = [table["embedding"].combine_chunks().flatten().to_numpy().view(np.int32) for table in (found, expected)]
    return found.drop("embedding").equals(expected.drop("embedding")) and np.array_equal(*bits)
