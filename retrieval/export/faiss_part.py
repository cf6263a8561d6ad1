"""Rows as a flat FAISS index of inner products; its ids count from 0 in each part. Needs the extra `ann`.

Unlike the other formats' it is made in memory, where it takes as much as the part does on disk.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from skipwise.retrieval.encodings import check_near, encode
from skipwise.retrieval.export.live import LiveRows

if TYPE_CHECKING:
    import faiss


def write(file: Path, rows: LiveRows, dtype: str) -> None:
    """Writes `file`: `IndexFlatIP`, or for float16 `IndexScalarQuantizer` with QT_fp16."""
    import faiss

    index = _empty(rows.dim, dtype)
    for block in rows.blocks():
        # Its own codes, not FAISS's conversion of the rows, which differs from processor to processor.
        index.add_sa_codes(encode(block.rows_BD, dtype, block.numbers_B).view(np.uint8))
    # Through Python's file, for FAISS's own writer says nothing of a disk that is full when it is closed.
    with open(file, "wb") as stream:
        faiss.write_index(index, faiss.PyCallbackIOWriter(stream.write))


def check(file: Path, rows: LiveRows, dtype: str) -> bool:
    """Whether `file` is an index of the rows and nothing else."""
    import faiss

    index, expected = faiss.read_index(str(file)), _empty(rows.dim, dtype)
    if _facts(index) != _facts(expected) or index.ntotal != len(rows):
        return False
    same, first = index.codes.size() == len(rows) * index.code_size, 0
    for block in rows.blocks():
        encoded_BW = encode(block.rows_BD, dtype, block.numbers_B)
        if same:
            codes_X = faiss.rev_swig_ptr(index.codes.data(), len(rows) * index.code_size)
            same = np.array_equal(codes_X[first : first + encoded_BW.nbytes], encoded_BW.view(np.uint8).reshape(-1))
        first += encoded_BW.nbytes
        check_near(encoded_BW, dtype, block.rows_BD, block.numbers_B)
    return same


def _empty(dim: int, dtype: str) -> "faiss.IndexFlatCodes":
    import faiss

    if dtype == "float32":
        return faiss.IndexFlatIP(dim)
    return faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)


def _facts(index: "faiss.Index") -> tuple:
    """What must be equal beside the codes."""
    quantizer = getattr(index, "sq", None)
    of_quantizer = (quantizer.qtype, quantizer.d, quantizer.code_size) if quantizer else ()
    facts = type(index), index.d, index.metric_type, index.is_trained, getattr(index, "code_size", None)
    return *facts, of_quantizer
