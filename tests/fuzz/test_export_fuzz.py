"""Export targets that cannot take an export: one sentence, and nothing there that was not before."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import product, starmap
from pathlib import Path
from typing import get_args
from unittest.mock import patch

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import Phase, example, given
from hypothesis import strategies as st

from skipwise.common.errors import UserError
from skipwise.components.export import export
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.vocabulary import Vocabulary
from skipwise.retrieval.export import exporter
from skipwise.retrieval.export.config import ExportConfig
from skipwise.retrieval.export.parts import TableRows, check_part, write_part
from skipwise.retrieval.export.row_encoding import encode
from skipwise.retrieval.export_manifest import ExportManifest
from skipwise.retrieval.formats import DType, Format, PartFormat
from tests.conftest import random_sessions, write_dataset
from tests.fuzz.cases import cases
from tests.ranks import run_on_ranks
from tests.retrieval.conftest import DIM, LONGEST, TRACKS, save_untrained, small
from tests.support.flipped_bits import flip
from tests.support.one_rank import alone  # noqa: F401  a fixture

pytestmark = [pytest.mark.ranks, pytest.mark.usefixtures("alone")]
PIECES = ("embeddings/part-00000.parquet", "encoder.safetensors", "encoder.pt2", "queries.npy", "manifest.json")
"""What an export holds, in the order in which it is written."""
KINDS = [kind for kind in starmap(PartFormat, product(get_args(Format), get_args(DType))) if kind.supported]
SLOW = {"deadline": None, "phases": (Phase.explicit, Phase.generate)}
"""An export takes too long to shrink by."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A data set, a run with weights, and an export of it."""
    folder = tmp_path_factory.mktemp("targets")
    write_dataset(folder / "data", random_sessions(40, TRACKS, LONGEST), TRACKS)
    config = small("best-skip-blind", folder)
    run_on_ranks(folder, 1, save_untrained, config)
    os.rename(config.run_dir, folder / "run")
    run_on_ranks(folder, 1, export, ExportConfig(str(folder / "run"), folder / "old"))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(folder: Path, output: Path, overwrite: bool = False) -> str:
    """The sentence of a refused export; the folder that should hold it is as it was."""
    around = next(place for place in output.parents if place.is_dir())
    before, names = contents(around), sorted(around.rglob("*"))
    with pytest.raises(UserError) as caught:
        exporter.write_export(ExportConfig(str(folder / "run"), output, overwrite))
    sentence = str(caught.value)
    assert sentence.isprintable() and len(sentence) < 600
    assert contents(around) == before and sorted(around.rglob("*")) == names
    return sentence


@pytest.fixture
def target(folder: Path, tmp_path: Path) -> Path:
    """A copy of the old export, to be replaced or not."""
    return Path(shutil.copytree(folder / "old", tmp_path / "place" / "out"))


def test_targets_that_are_something_else(folder: Path, target: Path, tmp_path: Path):
    place = target.parent
    (place / "file").write_text("mine")
    (place / "link").symlink_to(target)
    (place / "dangling").symlink_to(place / "nowhere")
    shutil.copytree(folder / "data", place / "foreign")
    (place / "empty").mkdir()
    for name in ("file", "link", "dangling", "foreign", "empty"):
        assert "--overwrite" in refusal(folder, place / name)
        assert "is not what this command writes" in refusal(folder, place / name, overwrite=True)
    assert "cannot write beside" in refusal(folder, place / "file" / "out")
    assert "choose another --output" in refusal(folder, place / ("x" * 300))
    assert "choose another --output" in refusal(folder, place / "a" / "b" / ("x" * 300))


@pytest.mark.parametrize("kind", ["none", "proc"])
def test_parents_that_take_no_directory(folder: Path, kind: str):
    parent = {"none": Path("/dev/null"), "proc": Path("/proc/self/fd")}[kind]
    with pytest.raises(UserError, match="cannot write beside"):
        exporter.write_export(ExportConfig(str(folder / "run"), parent / "out"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_full(folder: Path, small_disk: Path):
    """The program does not fit, then the part that Arrow writes, then not even its rows."""
    for ballast in (0, 44 << 10):
        (small_disk / "ballast").write_bytes(bytes(ballast))
        sentence = refusal(folder, small_disk / "out")
        assert "No space left on device" in sentence and "choose another --output" in sentence
    (small_disk / "ballast").write_bytes(bytes(56 << 10))
    sentence = refusal(folder, small_disk / "out")
    assert f"out needs 0.0 MB for {TRACKS} rows of {DIM} float32 and its file system has 0.0 MB free" in sentence


def test_a_disk_that_only_reads(folder: Path, small_disk: Path):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert "Read-only file system" in refusal(folder, small_disk / "out")


def test_the_arithmetic_of_what_is_needed(folder: Path, target: Path):
    with patch.object(shutil, "disk_usage", return_value=shutil._ntuple_diskusage(2**40, 2**40, 12_000)):
        with patch("skipwise.retrieval.export.exporter.row_bytes", lambda dim, dtype: dim * 4_000):
            sentence = refusal(folder, target, overwrite=True)
    assert f"{target} needs {TRACKS * DIM * 4_000 / 1e6:.1f} MB for {TRACKS} rows of {DIM} float32" in sentence


LIMITED = """
import resource, signal, sys
from skipwise.components.__main__ import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = int(sys.argv.pop(1))
import skipwise.retrieval.export.exporter
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
main()
"""


def test_the_command_on_files_that_may_not_grow(folder: Path, target: Path):
    """In the middle of the program: exit code 2, one line, the old export untouched."""
    before = contents(target.parent)
    words = ["export", "--run", str(folder / "run"), "--output", str(target), "--overwrite"]
    ended = subprocess.run([sys.executable, "-c", LIMITED, "20000", *words], capture_output=True, text=True)
    assert ended.returncode == 2, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if line.startswith("skipwise: ")]
    assert len(lines) == 1 and "File too large" in lines[0] and "Traceback" not in ended.stderr
    assert contents(target.parent) == before


class Full:
    """A disk on which only the first `number` bytes of an export fit."""

    def __init__(self, number: int):
        self.left = number

    def bytes(self, file: Path, content: bytes) -> None:
        with open(file, "wb") as stream:
            stream.write(content[: self.left])
        self.left -= len(content)
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))

    def part(self, file: Path, *arguments) -> None:
        write_part(file, *arguments)
        self.bytes(file, file.read_bytes())


def failing(disk: "Full | Flipped") -> tuple:
    """What makes the exporter write to `disk`."""
    return (
        patch.object(exporter, "write_part", lambda *arguments: disk.part(*arguments)),
        patch.object(Path, "write_bytes", lambda file, content: disk.bytes(file, content)),
        patch.object(Path, "write_text", lambda file, text, **options: disk.bytes(file, text.encode())),
    )


@cases(20, **SLOW)
@given(piece=st.integers(0, 4), share=st.floats(0, 0.999), overwrite=st.booleans())
def test_a_disk_that_is_full_after_any_byte(folder: Path, target: Path, piece: int, share: float, overwrite: bool):
    sizes = [(folder / "old" / name).stat().st_size for name in PIECES]
    # The manifest names paths and times, so its length may differ a little from the old one's.
    number = sum(sizes[:piece]) + int(share * 0.9 * sizes[piece])
    parts, whole, text = failing(Full(number))
    with parts, whole, text:
        sentence = refusal(folder, target if overwrite else target.parent / "new", overwrite)
    assert "No space left on device" in sentence


class Flipped:
    """A disk on which one bit of one of the pieces reads back otherwise."""

    def __init__(self, piece: str, share: float, bit: int):
        self.piece, self.share, self.bit = Path(piece).name, share, bit

    def damage(self, file: Path) -> None:
        if file.name == self.piece:
            with open(file, "r+b") as stream:
                content = bytearray(stream.read())
                flip(content, self.share, self.bit)
                stream.seek(0)
                stream.write(content)

    def bytes(self, file: Path, content: bytes) -> None:
        with open(file, "wb") as stream:
            stream.write(content)
        self.damage(file)

    def part(self, file: Path, *arguments) -> None:
        write_part(file, *arguments)
        self.damage(file)


@cases(10, **SLOW)
@given(piece=st.sampled_from(PIECES[1:]), share=st.floats(0, 0.999), bit=st.integers(0, 7))
def test_a_disk_that_reads_back_other_bytes(folder: Path, target: Path, piece: str, share: float, bit: int):
    parts, whole, text = failing(Flipped(piece, share, bit))
    with parts, whole, text:
        sentence = refusal(folder, target, overwrite=True)
    assert Path(piece).name in sentence


@cases(400, **SLOW)
@given(kind=st.sampled_from(KINDS), share=st.floats(0, 0.9999), bit=st.integers(0, 7))
@example(kind=PartFormat(), share=0.9572261828895567, bit=7)  # a column's name that is no text
def test_a_part_that_reads_back_other_bytes(folder: Path, tmp_path: Path, kind: PartFormat, share: float, bit: int):
    """A refusal, or a part that still holds the table to the last bit."""
    vocabulary = Vocabulary.of(SessionStore(str(folder / "data")))
    rows_RD = torch.arange(TRACKS * DIM, dtype=torch.float32).view(TRACKS, DIM)
    rows, file = TableRows(vocabulary, 0, rows_RD), tmp_path / f"part.{kind.format}"
    write_part(file, rows, kind)
    Flipped(file.name, share, bit).damage(file)
    try:
        check_part(file, rows, kind)
    except UserError as error:
        assert file.name in str(error) and "check the disk" in str(error)
    else:
        assert np.array_equal(read_encoded(file, kind), encode(rows_RD, kind.dtype, np.arange(TRACKS)))


def read_encoded(file: Path, kind: PartFormat) -> np.ndarray:
    """[R, W] as the file's own library reads it."""
    if kind.format == "npy":
        return np.load(file, mmap_mode="r")
    if kind.format == "faiss":
        codes = faiss.vector_to_array(faiss.read_index(str(file)).codes)
        return codes.view(kind.dtype).reshape(TRACKS, DIM)
    table = pq.read_table(file)
    assert table["row"].to_pylist() == list(range(TRACKS))
    rows_RW = table["embedding"].combine_chunks().flatten().to_numpy().reshape(TRACKS, DIM)
    if kind.dtype != "int8":
        return rows_RW
    return np.hstack([rows_RW] + [table[name].to_numpy().view(np.uint8).reshape(-1, 4) for name in ("scale", "bias")])


def test_a_rename_that_fails_puts_the_old_export_back(folder: Path, target: Path):
    rename = os.rename

    def fail_on_result(source: Path, to: Path) -> None:
        if Path(source).name == "result":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, to)

    with patch.object(os, "rename", fail_on_result):
        assert "Input/output error" in refusal(folder, target, overwrite=True)
    ExportManifest.read(target)
