"""Rows as Parquet: a row group for each block. Trained floats do not compress."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from skipwise.retrieval.encodings import SCALE_BIAS_BYTES, check_near, encode, scale_bias
from skipwise.retrieval.export.live import Block, LiveRows

_NUMBERS = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.uint8()}


def schema(dim: int, dtype: str | None) -> pa.Schema:
    """Columns `track_id` and `row`; with a `dtype` also `embedding`, and for int8 `scale` and `bias`."""
    columns = {"track_id": pa.string(), "row": pa.int32()}
    if dtype:
        columns["embedding"] = pa.list_(_NUMBERS[dtype], dim)
    if dtype == "int8":
        columns |= {"scale": pa.float32(), "bias": pa.float32()}
    return pa.schema(columns)


def write(file: Path, rows: LiveRows, dtype: str | None) -> None:
    """Writes `file`; without a `dtype` the ids alone."""
    columns = schema(rows.dim, dtype)
    # Parquet has no numbers of 8 bits: places in a dictionary take as many, plain ones would take 32.
    coded = ["embedding.list.element"] if dtype == "int8" else False
    with pq.ParquetWriter(file, columns, compression="none", use_dictionary=coded, write_statistics=["row"]) as writer:
        for block in rows.blocks():
            writer.write_table(_table(block, columns, _encoded(block, dtype)), row_group_size=len(block.ids_B))


def check(file: Path, rows: LiveRows, dtype: str | None) -> bool:
    """Whether `file` holds the rows and nothing else."""
    columns = schema(rows.dim, dtype)
    with pq.ParquetFile(file) as parquet:
        same = parquet.schema_arrow.equals(columns) and parquet.metadata.num_rows == len(rows)
        for group, block in enumerate(rows.blocks()):
            encoded_BW = _encoded(block, dtype)
            found = parquet.read_row_group(group, use_threads=False)
            same = same and _equal(found, _table(block, columns, encoded_BW))
            if encoded_BW is not None:
                check_near(encoded_BW, dtype, block.rows_BD, block.numbers_B)
    return same


def _encoded(block: Block, dtype: str | None) -> np.ndarray | None:
    return encode(block.rows_BD, dtype, block.numbers_B) if dtype else None


def _table(block: Block, columns: pa.Schema, encoded_BW: np.ndarray | None) -> pa.Table:
    arrays = [block.ids_B, pa.array(block.numbers_B)]
    if encoded_BW is not None:
        more = []
        if "scale" in columns.names:
            more = [pa.array(np.ascontiguousarray(numbers_B)) for numbers_B in scale_bias(encoded_BW).T]
            encoded_BW = encoded_BW[:, :-SCALE_BIAS_BYTES]
        kind = columns.field("embedding").type
        arrays += [pa.FixedSizeListArray.from_arrays(pa.array(encoded_BW.reshape(-1)), type=kind), *more]
    return pa.table(arrays, schema=columns)


def _equal(found: pa.Table, expected: pa.Table) -> bool:
    """Arrow's own comparison would take -0.0 for 0.0 and no NaN for itself, so numbers are compared as bytes."""
    numbers = [name for name in ("embedding", "scale", "bias") if name in expected.column_names]
    if not found.drop(numbers).equals(expected.drop(numbers)):
        return False
    return all(np.array_equal(_bytes(found[name]), _bytes(expected[name])) for name in numbers)


def _bytes(column: pa.ChunkedArray) -> np.ndarray:
    array = column.combine_chunks()
    if isinstance(array, pa.FixedSizeListArray):
        array = array.flatten()
    return array.to_numpy(zero_copy_only=False).view(np.uint8)
