"""An index's file and its entry in the manifest: put in place at one blow, read back, and refused where changed.

The file is named by its own hash, so that a manifest never names a file that another one replaced.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from skipwise.common.errors import UserError, brief
from skipwise.common.versions import import_faiss
from skipwise.datapipes.manifest import MANIFEST
from skipwise.retrieval.open_export import OpenExport, check
from skipwise.retrieval.search.faiss_build import Kind
from skipwise.retrieval.search.faiss_nearest import point_width
from skipwise.training.checkpoint.checkpoint_index import FileRecord

_NAME = re.compile(r"index-[0-9a-f]{12}\.faiss", re.ASCII)
_SETTINGS = {"efSearch", "nprobe", "shortlist"}


@contextmanager
def scratch(export: Path) -> Iterator[Path]:
    """A directory inside the export that is gone at the end; made early, as a disk that cannot be written is found so
    before the work. Raises `UserError` for that."""
    folder = export / ".index.partial"
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield folder
    except OSError as error:
        raise UserError(f"{export} cannot be written ({error.strerror}): index a copy that can") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def place(folder: Path, opened: OpenExport, index: Any | None, record: dict[str, Any]) -> None:
    """Writes the index (None: there is no file), reads it back, and has the export's manifest say `record` of it."""
    kept = None
    if index is not None:
        file = _write(folder, opened, index)
        kept = f"index-{file.sha256[:12]}.faiss"
        record = record | asdict(replace(file, file=kept))
    replace(opened.manifest, index=record).write(folder)
    before = {path.name for path in opened.path.iterdir()}
    try:
        if kept:
            os.replace(folder / file.file, opened.path / kept)
        os.replace(folder / MANIFEST, opened.path / MANIFEST)
    except BaseException:
        if kept and kept not in before:
            (opened.path / kept).unlink(missing_ok=True)
        raise
    for name in before - {kept}:
        if _NAME.fullmatch(name):
            (opened.path / name).unlink()


def read_placed(opened: OpenExport) -> Any:
    """FAISS's index of an export whose manifest names a file; raises `UserError` for one that is not as it says."""
    record = opened.manifest.index
    check(opened.path, record)
    try:
        index = import_faiss().read_index(str(opened.path / record["file"]))
    except RuntimeError as error:
        raise UserError(f"{opened.path / record['file']} cannot be read ({brief(error)}): {mending(opened)}") from error
    rows, dim = opened.manifest.rows, opened.manifest.dim
    if index.ntotal != rows or index.d not in (dim, point_width(dim)):
        raise UserError(
            f"{opened.path / record['file']} holds {index.ntotal} rows of {index.d} where the export has {rows} of "
            f"{dim}: {mending(opened)}"
        )
    return index


def refuse_other_records(opened: OpenExport) -> None:
    """Raises `UserError` for an entry of the manifest that `place` did not write."""
    record = opened.manifest.index
    search = record.get("search")
    right = record.get("kind") in get_args(Kind) and isinstance(search, dict) and search.keys() <= _SETTINGS
    right = right and all(type(value) is int and 0 < value < 1 << 31 for value in search.values())
    if right and record["kind"] != "flat":  # ExportManifest has seen to what any file's entry must be
        right = _NAME.fullmatch(record.get("file", ""))
    if not right:
        raise UserError(f"{opened.path / MANIFEST} has an 'index' that index did not write: {mending(opened)}")


def mending(opened: OpenExport) -> str:
    """What to do about an index that cannot be used."""
    return f"make it anew with index --export {opened.path} --overwrite"


def _write(folder: Path, opened: OpenExport, index: Any) -> FileRecord:
    faiss = import_faiss()
    file = folder / "index.faiss"
    try:
        faiss.write_index(index, str(file))
        again = faiss.read_index(str(file))
    except RuntimeError as error:
        raise UserError(f"{opened.path} cannot take the index ({brief(error)}): make room, then index again") from error
    if not np.array_equal(faiss.serialize_index(again), faiss.serialize_index(index)):
        raise UserError(f"{opened.path}: the index read back differs from what was written: check the disk")
    return FileRecord.of(folder, file.name)
