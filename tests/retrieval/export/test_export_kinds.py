"""Every format and type that an export may have, read by its own library, against conversions made by hand."""

import re
from itertools import product, starmap
from pathlib import Path
from typing import get_args
from unittest.mock import patch

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from skipwise.common import versions
from skipwise.common.errors import UserError
from skipwise.components.cli import parse
from skipwise.retrieval.export import exporter
from skipwise.retrieval.export.config import ExportConfig
from skipwise.retrieval.export.row_encoding import check_near, encode
from skipwise.retrieval.export_manifest import ExportManifest
from skipwise.retrieval.formats import DType, Format, PartFormat, row_bytes, scale_bias
from skipwise.retrieval.quantized import quantized_table
from skipwise.training.run.directory import RunDirectory
from tests.conftest import random_sessions, write_dataset
from tests.retrieval.conftest import DIM, LONGEST, TRACKS, small
from tests.support.one_rank import alone, save_rows  # noqa: F401  a fixture

pytestmark = [pytest.mark.ranks, pytest.mark.usefixtures("alone")]
KINDS = [kind for kind in starmap(PartFormat, product(get_args(Format), get_args(DType))) if kind.supported]
ROWS = torch.randn(TRACKS, DIM, generator=torch.Generator().manual_seed(5)) * torch.logspace(-4, 1, TRACKS)[:, None]


@pytest.fixture(scope="module")
def run(alone, tmp_path_factory) -> Path:  # noqa: F811
    """A run whose table is `ROWS`."""
    folder = tmp_path_factory.mktemp("kinds")
    write_dataset(folder / "data", random_sessions(30, TRACKS, LONGEST), TRACKS)
    config = small("best-skip-blind", folder)
    save_rows(config, ROWS)
    return Path(config.run_dir)


@pytest.fixture(scope="module")
def exports(run: Path) -> dict[PartFormat, Path]:
    """An export of each kind."""
    outputs = {kind: run.parent / f"{kind.format}-{kind.dtype}" for kind in KINDS}
    for kind, output in outputs.items():
        exporter.write_export(ExportConfig(str(run), output, False, kind.format, kind.dtype))
    return outputs


def read(output: Path, kind: PartFormat) -> np.ndarray:
    """[R, W] as the format's own library reads it."""
    (part,) = ExportManifest.read(output).parts
    file = output / part.file
    if kind.format == "npy":
        return np.load(file, mmap_mode="r")
    if kind.format == "faiss":
        index = faiss.read_index(str(file))
        assert index.metric_type == faiss.METRIC_INNER_PRODUCT and (index.ntotal, index.d) == (TRACKS, DIM)
        assert type(index) is (faiss.IndexFlatIP if kind.dtype == "float32" else faiss.IndexScalarQuantizer)
        return index.reconstruct_n(0, TRACKS).astype(kind.dtype)
    table = pq.read_table(file)
    number = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.uint8()}[kind.dtype]
    assert table.schema.field("embedding").type == pa.list_(number, DIM)
    rows_RW = table["embedding"].combine_chunks().flatten().to_numpy().reshape(TRACKS, DIM)
    if kind.dtype != "int8":
        return rows_RW
    assert table.schema.names == ["track_id", "row", "embedding", "scale", "bias"]
    return np.hstack([rows_RW] + [table[name].to_numpy().view(np.uint8).reshape(-1, 4) for name in ("scale", "bias")])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.format}-{kind.dtype}")
def test_parts_hold_the_table(kind: PartFormat, exports: dict[PartFormat, Path]):
    found = read(exports[kind], kind)
    if kind.dtype == "int8":
        assert (found.dtype, found.shape) == (np.uint8, (TRACKS, DIM + 8))
        low, high = ROWS.min(dim=1, keepdim=True).values.double(), ROWS.max(dim=1, keepdim=True).values.double()
        scale = (high - low) / 255
        both = np.ascontiguousarray(found[:, -8:]).view(np.float32)
        np.testing.assert_allclose(both, torch.cat([scale, low], dim=1).numpy(), rtol=1e-6)
        values = found[:, :DIM] * both[:, :1].astype(np.float64) + both[:, 1:]
        assert (np.abs(values - ROWS.numpy()) <= scale.numpy() / 2 + 1.1e-8 + 1e-6 * np.abs(ROWS.numpy())).all()
    else:
        assert found.dtype == kind.dtype and np.array_equal(found, ROWS.numpy().astype(kind.dtype))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.format}-{kind.dtype}")
def test_tracks_stand_beside_parts_without_ids(kind: PartFormat, exports: dict[PartFormat, Path]):
    manifest = ExportManifest.read(exports[kind])
    assert (manifest.format, manifest.dtype) == (kind.format, kind.dtype)
    assert manifest.parts[0].bytes >= TRACKS * row_bytes(DIM, kind.dtype)
    assert [part.rows for part in manifest.tracks] == ([] if kind.format == "parquet" else [TRACKS])
    table = pq.read_table(exports[kind] / (manifest.tracks or manifest.parts)[0].file)
    assert table["track_id"].to_pylist() == [f"t_{row:05}" for row in range(TRACKS)]
    assert table["row"].to_pylist() == list(range(TRACKS))


@pytest.mark.parametrize("format", ["parquet", "npy"])
def test_quantized_module(format: str, exports: dict[PartFormat, Path]):
    """Against the export's rows, to what float16 leaves of scale and bias."""
    output = exports[PartFormat(format, "int8")]
    module = quantized_table(output)
    order = torch.randperm(TRACKS)
    bags = KeyedJaggedTensor(["track"], order, lengths=torch.ones(TRACKS, dtype=torch.int64))
    found = module(bags).values()
    encoded = read(output, PartFormat(format, "int8"))
    both = torch.from_numpy(scale_bias(encoded))
    expected = torch.ops.fbgemm.Fused8BitRowwiseQuantizedToFloat(torch.from_numpy(np.ascontiguousarray(encoded)))
    allowed = (255 * both[:, :1] + both[:, 1:].abs()) / 2048 + 255 * 2**-25 + 2**-25
    assert ((found - expected[order]).abs() <= allowed[order]).all()
    halves = both.half().float()
    by_hand = torch.from_numpy(encoded[:, :DIM].copy()) * halves[:, :1] + halves[:, 1:]
    torch.testing.assert_close(found, by_hand[order], rtol=1e-6, atol=1e-6)


def test_quantized_module_refusals(exports: dict[PartFormat, Path], tmp_path: Path):
    with pytest.raises(UserError, match="is of float16, not of a whole table in int8"):
        quantized_table(exports[PartFormat("npy", "float16")])
    output = exports[PartFormat("npy", "int8")]
    (tmp_path / "embeddings").mkdir()
    (tmp_path / "manifest.json").write_bytes((output / "manifest.json").read_bytes())
    content = bytearray((output / "embeddings/part-00000.npy").read_bytes())
    content[-1] ^= 1
    (tmp_path / "embeddings/part-00000.npy").write_bytes(content)
    with pytest.raises(UserError, match="part-00000.npy differs from what was written .*SHA-256.*: .*export again"):
        quantized_table(tmp_path)


NUMBERS = st.floats(-65504, 65504, width=32)


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.float32, (3, 8), elements=NUMBERS))
@example(np.zeros((3, 8), np.float32))
@example(np.full((3, 8), 65504, np.float32))
@example(np.tile(np.float32([1e-9, 3e-9, 0, -2e-9, 1e-40, 0, 0, 0]), (3, 1)))
def test_any_row_stays_within_half_a_step(rows: np.ndarray):
    for dtype in get_args(DType):
        encoded = encode(torch.from_numpy(rows), dtype, np.arange(3))
        check_near(encoded, dtype, torch.from_numpy(rows), np.arange(3))


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_conversion_that_is_off_is_found(dtype: str):
    rows = torch.linspace(-1, 1, 48).view(3, 16)
    wrong = encode(rows, dtype, np.arange(3)).copy()
    if dtype == "int8":
        wrong[1, 4] += 1
    else:
        wrong[1, 4] *= np.float16(1.002)
    with pytest.raises(UserError, match=f"row 8 is further from its {dtype}"):
        check_near(wrong, dtype, rows, np.arange(7, 10))


def refusal(run: Path, rows: Tensor, folder: Path, *kind: str) -> str:
    """The sentence of an export of `rows`, which leaves nothing behind."""
    own = RunDirectory.open(str(run))
    with patch.object(exporter, "track_rows", lambda *arguments: (0, rows)), pytest.raises(UserError) as caught:
        exporter.write_export(ExportConfig(str(own.path), folder / "out", False, *kind))
    assert not list(folder.iterdir())
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.format}-{kind.dtype}")
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_row_that_is_not_finite_is_never_exported(value: float, kind: PartFormat, run: Path, tmp_path: Path):
    rows = ROWS.clone()
    rows[117, 3] = value
    assert "row 117 is not finite in the model's table" in refusal(run, rows, tmp_path, kind.format, kind.dtype)


def test_rows_that_a_type_cannot_hold(run: Path, tmp_path: Path):
    rows = ROWS.clone()
    rows[18, 3] = 65520.0  # the least that rounds to infinity
    assert "row 18 goes beyond float16's 65,504" in refusal(run, rows, tmp_path, "npy", "float16")
    rows[18, :2] = torch.tensor([3e38, -3e38])
    assert "row 18 spans more than float32 can hold" in refusal(run, rows, tmp_path, "parquet", "int8")


def test_faiss_has_no_int8(run: Path, tmp_path: Path):
    with patch.object(exporter, "_open", side_effect=AssertionError("no work")):
        assert "--format faiss has no --dtype int8" in refusal(run, ROWS, tmp_path, "faiss", "int8")


@pytest.mark.parametrize(
    ("package", "options", "words"),
    [
        ("faiss", {"format": "faiss"}, "--format faiss needs faiss, which is not installed: run make extras"),
        (
            "onnxruntime",
            {"onnx": True},
            "--onnx needs onnxruntime, which is not installed: run make extras",
        ),
    ],
)
def test_missing_extras(package: str, options: dict, words: str, run: Path, tmp_path: Path):
    found = versions.find_spec
    with (
        patch.object(versions, "find_spec", lambda name: None if name == package else found(name)),
        patch.object(exporter, "_open", side_effect=AssertionError("no work")),
        pytest.raises(UserError, match=re.escape(words)),
    ):
        exporter.write_export(ExportConfig(str(run), tmp_path / "out", **options))


@pytest.mark.parametrize(("option", "value"), [("format", "csv"), ("dtype", "int4")])
def test_unknown_words(option: str, value: str, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        parse(ExportConfig, ["--run", "r", "--output", "o", f"--{option}", value], "skipwise export")
    assert f"invalid choice '{value}' for argument '--{option}'" in capsys.readouterr().err
