"""The index of an export: stored beside its parts, recorded in its manifest, and opened for search.

The file is named by its own hash, so that a manifest never names a file that another one has replaced.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from skipwise.common.errors import UserError, brief
from skipwise.common.files import FileRecord
from skipwise.common.locks import lock_beside, locked
from skipwise.common.versions import import_faiss
from skipwise.datapipes.manifest import MANIFEST
from skipwise.retrieval.export_manifest import INDEX_FILE, ExportManifest, IndexEntry
from skipwise.retrieval.faiss_files import INDEX, read_faiss
from skipwise.retrieval.open_export import OpenExport, check_file
from skipwise.retrieval.search.config import IndexKind, SearchChoice
from skipwise.retrieval.search.exact import ExactSearch, Search
from skipwise.retrieval.search.faiss_build import point_width, scan_index
from skipwise.retrieval.search.faiss_search import IndexSearch


def open_search(opened: OpenExport, choice: SearchChoice = "auto") -> Search:
    """The search of an export. Raises `UserError` where an index is wanted and there is none, or a damaged one.

    Where the exact search was chosen as the fastest, it is the index.
    """
    entry, remedy = opened.manifest.index, f"make it again with index --export {opened.path} --overwrite"
    if choice == "index" and not entry:
        raise UserError(f"{opened.path} has no index: make one with index --export {opened.path}, or search exactly")
    if choice == "exact" or not entry or not (file_record := entry.file_record):
        return ExactSearch(opened.vectors)
    check_file(opened.path, file_record, remedy)
    file = opened.path / file_record.file
    try:
        index = read_faiss(file, INDEX[entry.kind])
    except (RuntimeError, ValueError, OSError, MemoryError) as error:
        raise UserError(f"{file} cannot be read ({brief(error)}): {remedy}") from error
    rows, dim = opened.manifest.rows, opened.manifest.dim
    width = {"hnsw": point_width(dim), "fastscan": scan_index(dim).d}.get(entry.kind, dim)
    if (index.ntotal, index.d) != (rows, width):
        raise UserError(f"{file} holds {index.ntotal} rows of {index.d} where {rows} of {width} belong: {remedy}")
    if entry.kind == "ivfpq" and not _sound(index) or entry.kind == "fastscan" and not _sound_scan(index, dim):
        raise UserError(f"{file} is not an index that was written by index: {remedy}")
    return IndexSearch(index, opened.vectors, entry.search)


def _sound(index: Any) -> bool:
    """Whether the pieces of inverted lists fit each other, which FAISS does not check (of a graph it does)."""
    quantizer, codes, lists = index.quantizer, index.pq, index.invlists
    widths, sizes = {quantizer.d, codes.d, index.d}, {codes.code_size, index.code_size}
    if not index.is_trained or len(widths) > 1 or len(sizes) > 1 or quantizer.ntotal != index.nlist:
        return False
    faiss, seen_R = import_faiss(), np.zeros(index.ntotal, dtype=bool)
    for number in range(index.nlist):
        rows_X = faiss.rev_swig_ptr(lists.get_ids(number), lists.list_size(number))
        if not len(rows_X):
            continue
        if not 0 <= rows_X.min() <= rows_X.max() < len(seen_R):
            return False
        seen_R[rows_X] = True
    return bool(seen_R.all())


def _sound_scan(index: Any, dim: int) -> bool:
    """The same of codes that are all gone through."""
    fresh, of = scan_index(dim), ("bbs", "qbs", "implem", "M", "M2", "ksub", "nbits", "code_size", "skip")
    same = all(getattr(index, name) == getattr(fresh, name) for name in of)
    of_codes = ("d", "M", "nbits", "dsub", "ksub", "code_size")
    same &= all(getattr(index.pq, name) == getattr(fresh.pq, name) for name in of_codes)
    rows = -(-index.ntotal // fresh.bbs) * fresh.bbs
    return bool(
        index.is_trained
        and same
        and index.ntotal2 == rows
        and index.codes.size() == rows * fresh.M2 // 2
        and index.pq.centroids.size() == fresh.d * fresh.ksub
    )


@contextmanager
def index_folder(export: Path) -> Iterator[Path]:
    """A directory inside the export for the time of the block, made first so that a read-only disk is found early.

    No other job writes the export meanwhile. Raises `UserError` where one does, or where it cannot be written.
    """
    ExportManifest.read(export)  # whatever is no export is refused before a lock is made beside it
    folder = export / ".index.partial"
    try:
        with locked(lock_beside(export), export):
            try:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{export} cannot be written ({error.strerror}): index a copy that can") from error


def store_index(folder: Path, opened: OpenExport, index: Any | None, entry: dict[str, Any]) -> None:
    """Writes the index (None: it needs no file), reads it back, and puts it into the manifest.

    `entry`: the fields of `IndexEntry` but for those of the file.

    `folder`: an `index_folder`. After a failure the export is as it was.
    """
    name = None
    if index is not None:
        _write(folder / "index.faiss", opened.path, index, entry["kind"])
        written = FileRecord.of(folder, "index.faiss")
        name = f"index-{written.sha256[:12]}.faiss"
        entry = entry | written.model_dump() | {"file": name}
    opened.manifest.model_copy(update={"index": IndexEntry(**entry)}).write(folder)
    before = {path.name for path in opened.path.iterdir()}
    try:
        if name:
            os.replace(folder / "index.faiss", opened.path / name)
        os.replace(folder / MANIFEST, opened.path / MANIFEST)
    except BaseException:
        if name and name not in before:
            (opened.path / name).unlink(missing_ok=True)
        raise
    for other in before - {name}:
        if re.fullmatch(INDEX_FILE, other, re.ASCII):
            (opened.path / other).unlink()


def _write(file: Path, export: Path, index: Any, kind: IndexKind) -> None:
    faiss = import_faiss()
    try:
        faiss.write_index(index, str(file))
        again = read_faiss(file, INDEX[kind])
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{export} cannot take the index ({brief(error)}): make room, then index again") from error
    if not np.array_equal(faiss.serialize_index(again), faiss.serialize_index(index)):
        raise UserError(f"{export}: the index read back differs from what was written: check the disk")
