"""An export is opened as its manifest says, or refused with a sentence."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipwise.common.errors import UserError
from skipwise.retrieval import open_export
from skipwise.retrieval.export.encoder_program import write_weights
from skipwise.retrieval.open_export import OpenExport
from tests.components.conftest import refused, run  # noqa: F401  a fixture
from tests.support.exports import change, record, small_encoder, write_made
from tests.support.flipped_bits import flip

TRACKS, DIM = 30, 8
IDS = [f"t_{row:02}" for row in range(TRACKS)]
ROWS = np.random.default_rng(0).standard_normal((TRACKS, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return write_made(tmp_path_factory.mktemp("whole") / "out", IDS, ROWS, parts=3)


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "out"))


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def part(number: int) -> str:
    return f"embeddings/part-{number:05}.parquet"


def test_what_it_holds(whole: Path):
    opened = OpenExport.open(whole)
    assert opened.tracks.ids(np.arange(TRACKS)).to_pylist() == IDS
    assert np.array_equal(opened.vectors.take(np.arange(TRACKS)), ROWS)
    assert np.array_equal(opened.queries().numpy(), ROWS[:5])
    assert (opened.view.length, opened.view.skip_up_to, opened.view.filter_skipped) == (6, 2, False)


def as_npy(folder: Path) -> None:
    """Writes the parts as `--format npy` has them, each with more rows than one read takes."""
    parts, tracks = [], []
    (folder / "tracks").mkdir()
    for entry in manifest(folder)["parts"]:
        rows = {"first_row": entry["first_row"], "rows": entry["rows"]}
        table, name = pq.read_table(folder / entry["file"]), Path(entry["file"]).stem
        np.save(folder / f"embeddings/{name}.npy", ROWS[rows["first_row"] :][: rows["rows"]])
        pq.write_table(table.select(["track_id", "row"]), folder / f"tracks/{name}.parquet")
        parts.append(rows | record(folder, f"embeddings/{name}.npy"))
        tracks.append(rows | record(folder, f"tracks/{name}.parquet"))
    change(folder, format="npy", parts=parts, tracks=tracks)


@pytest.mark.parametrize("npy", [False, True])
def test_files_may_be_cut_short_once_it_is_open(copy: Path, npy: bool, monkeypatch: pytest.MonkeyPatch):
    """Whatever is mapped from a file that is cut short kills the process by SIGBUS."""
    monkeypatch.setattr(open_export, "BLOCK_ROWS", 4)
    if npy:
        as_npy(copy)
    opened = OpenExport.open(copy)
    assert str(copy) not in Path("/proc/self/maps").read_text()
    for file in copy.rglob("*.*"):
        if file.is_file():
            os.truncate(file, 0)
    assert np.array_equal(opened.vectors.take(np.arange(TRACKS)), ROWS)
    with torch.no_grad():
        assert opened.encoder(torch.ones(1, 6, DIM), torch.tensor([6])).isfinite().all()


@pytest.mark.parametrize("spoil", ["short", "columns", "objects"])
def test_npy_that_is_no_table(copy: Path, spoil: str):
    as_npy(copy)
    entry = manifest(copy)["parts"][0]
    file = copy / entry["file"]
    match spoil:
        case "short":
            file.write_bytes(file.read_bytes()[:-1])
        case "columns":
            np.save(file, np.asfortranarray(ROWS[: entry["rows"]]))
        case "objects":
            np.save(file, np.array([{}]), allow_pickle=True)
    change(copy, parts=[entry | record(copy, entry["file"]), *manifest(copy)["parts"][1:]])
    with pytest.raises(UserError, match=r"cannot be opened .*export again"):
        OpenExport.open(copy)


def missing(folder: Path) -> str:
    (folder / part(1)).unlink()
    return f"{part(1)} cannot be read"


def swapped(folder: Path) -> str:
    """Two parts of the same size, each sound."""
    (folder / part(0)).rename(folder / "aside")
    (folder / part(1)).rename(folder / part(0))
    (folder / "aside").rename(folder / part(1))
    return f"{part(0)} differs from what was written"


def swapped_with_their_hashes(folder: Path) -> str:
    swapped(folder)
    parts = manifest(folder)["parts"]
    change(folder, parts=[one | record(folder, one["file"]) for one in parts])
    return "not in row order from row 0"


def cut(folder: Path) -> str:
    (folder / part(2)).write_bytes((folder / part(2)).read_bytes()[:-1])
    return "bytes where its index says"


def encoder_changed(folder: Path) -> str:
    content = bytearray((folder / "encoder.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "encoder.safetensors").write_bytes(content)
    return "encoder.safetensors differs from what was written"


def encoder_replaced(folder: Path) -> str:
    (folder / "encoder.safetensors").write_bytes(b"no weights")
    change(folder, weights=manifest(folder)["weights"] | record(folder, "encoder.safetensors"))
    return "encoder.safetensors is no encoder"


def older(folder: Path) -> str:
    """Of a version that wrote the program alone."""
    change(folder, weights={})
    (folder / "encoder.safetensors").unlink()
    return "was written by an older version, without the encoder's weights: export the run again"


def narrower(folder: Path) -> str:
    change(folder, dim=DIM // 2)
    return "cannot be opened"


def wider(folder: Path) -> str:
    change(folder, dim=DIM * 2)
    return "cannot be opened"


def longer_sessions(folder: Path) -> str:
    change(folder, encoder=manifest(folder)["encoder"] | {"max_tracks": 7})
    return "encoder.safetensors is no encoder"


def length_unknown(folder: Path) -> str:
    encoder = manifest(folder)["encoder"]
    change(folder, encoder={name: encoder[name] for name in encoder if name != "max_tracks"})
    return "max_tracks"


def config_unknown(folder: Path) -> str:
    change(folder, config={"data": {"skip_up_to": 2, "skipped_tracks": "sometimes"}})
    return "data.skipped_tracks"


def delta(folder: Path) -> str:
    counts = {"changed": TRACKS, "new": 0, "unchanged": 3, "gone": 0, "table_rows": TRACKS + 3}
    gone = record(folder, "queries.npy") | {"rows": 0}
    change(folder, since={"run": "runs/before", "rows_hash": "0" * 64, "gone_tracks": gone} | counts)
    return "holds only the rows that changed since runs/before"


def another_version(folder: Path) -> str:
    change(folder, schema_version=1)
    return "schema_version 1"


FAULTS = [missing, swapped, swapped_with_their_hashes, cut, encoder_changed, encoder_replaced, older, narrower, wider]
FAULTS += [longer_sessions, length_unknown, config_unknown, delta, another_version]


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_export(fault, copy: Path, run):  # noqa: F811
    words = fault(copy)
    refused(run("recommend", "--export", str(copy), "--session", "t_01"), str(copy), words)


def test_an_encoder_of_another_width(tmp_path: Path):
    folder = write_made(tmp_path / "out", IDS, ROWS)
    write_weights(folder / "encoder.safetensors", small_encoder(DIM + 4))
    change(folder, weights=manifest(folder)["weights"] | record(folder, "encoder.safetensors"))
    with pytest.raises(UserError, match="encoder.safetensors is no encoder of rows of 8 .*: export again"):
        OpenExport.open(folder)


def test_a_track_with_two_rows(tmp_path: Path):
    folder = write_made(tmp_path / "out", [*IDS[:-1], IDS[0]], ROWS)
    with pytest.raises(UserError, match="the track 't_00' has two rows"):
        OpenExport.open(folder)


@settings(max_examples=40, deadline=None)
@given(number=st.integers(0, 2), share=st.floats(0, 0.999), bit=st.integers(0, 7))
def test_a_part_that_was_vouched_for_and_is_damaged(whole: Path, tmp_path_factory, number: int, share: float, bit: int):
    """A sentence, or a table of the right size: Parquet has no checksum of its own."""
    copy = Path(shutil.copytree(whole, tmp_path_factory.mktemp("damaged") / "out"))
    content = bytearray((copy / part(number)).read_bytes())
    flip(content, share, bit)
    (copy / part(number)).write_bytes(content)
    parts = manifest(copy)["parts"]
    parts[number] |= record(copy, part(number))
    change(copy, parts=parts)
    try:
        opened = OpenExport.open(copy)
    except UserError as error:
        assert str(copy) in str(error) and str(error).isprintable()
    else:
        assert len(opened.tracks) == TRACKS and opened.vectors.take(np.arange(TRACKS)).shape == (TRACKS, DIM)


def test_queries_are_no_larger_than_their_file(copy: Path):
    """2.9 TiB, by its header."""
    with open(copy / "queries.npy", "wb") as stream:
        shape = {"descr": "<f4", "fortran_order": False, "shape": (10**11, DIM)}
        np.lib.format.write_array_header_1_0(stream, shape)
    change(copy, queries=record(copy, "queries.npy") | {"rows": 10**11})
    with pytest.raises(UserError, match="queries.npy cannot be read .*: export again"):
        OpenExport.open(copy).queries()
