"""The encoder for ONNX, at every length, against the encoder itself; and the queries of an export."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from skipwise.models.config import EncoderConfig
from skipwise.models.encoder import Encoder
from skipwise.models.query_encoder import EncoderShape, QueryEncoder
from skipwise.retrieval.export.encoder_program import load_onnx, write_onnx, write_program
from skipwise.retrieval.export_manifest import ExportManifest
from tests.ranks import run_on_ranks
from tests.retrieval.conftest import DIRECTIONS
from tests.retrieval.export.test_export import by_hand, read_parts, trained_encoder


@pytest.mark.parametrize(
    ("kind", "direction", "positions"),
    [
        ("transformer", "unidirectional", "relative"),
        ("transformer", "bidirectional", "learned"),
        pytest.param("ligr", "unidirectional", "relative", marks=pytest.mark.soak),
        ("hstu", "unidirectional", "relative"),
        ("gru", "unidirectional", "none"),
        pytest.param("nextitnet", "unidirectional", "none", marks=pytest.mark.soak),
    ],
)
@torch.no_grad()
def test_any_batch_and_length(kind: str, direction: str, positions: str, tmp_path: Path):
    config = EncoderConfig(direction, kind, max_length=6, positions=positions, blocks=1, heads=2, hidden=8)
    encoder = Encoder(config, 8).eval()
    encoder.reset_parameters(torch.Generator().manual_seed(1))
    for parameter in encoder.parameters():
        parameter.add_(torch.randn_like(parameter) / 4)
    program = write_program(tmp_path / "encoder.pt2", encoder, EncoderShape(8))
    assert write_onnx(tmp_path / "encoder.onnx", program) >= 18
    run = load_onnx(tmp_path / "encoder.onnx")
    for batch in (1, 5):
        for width in range(1, 7 - encoder.config.appended_positions):
            lengths_B = torch.randint(1, width + 1, (batch,))
            items_BTD = torch.randn(batch, width, 8) * (torch.arange(width) < lengths_B[:, None])[:, :, None]
            queries_BD = run(items_BTD, lengths_B)
            assert queries_BD.shape == (batch, 8)
            for session, length in enumerate(lengths_B.tolist()):
                expected = by_hand(encoder, items_BTD[session, :length])
                torch.testing.assert_close(queries_BD[session], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.soak
@pytest.mark.parametrize("columns", [0, 2])
@torch.no_grad()
def test_any_batch_with_profiles(columns: int, tmp_path: Path):
    shape = EncoderShape(8, num_signals=5 * (columns > 0), columns=columns, profile=3)
    config = EncoderConfig(max_length=5, blocks=1, heads=2, hidden=8)
    encoder = Encoder(config, 8, reads_signals=columns > 0, profile=3).eval()
    encoder.reset_parameters(torch.Generator().manual_seed(1))
    for parameter in encoder.parameters():
        parameter.add_(torch.randn_like(parameter) / 4)
    signals_MD = torch.randn(5, 8) if columns else None
    query = QueryEncoder(encoder, signals_MD)
    write_onnx(tmp_path / "encoder.onnx", write_program(tmp_path / "encoder.pt2", encoder, shape, signals_MD))
    for run in (torch.export.load(tmp_path / "encoder.pt2").module(), load_onnx(tmp_path / "encoder.onnx")):
        for batch, width in ((1, 1), (5, 2), (2, query.max_tracks)):
            given = [torch.randn(batch, width, 8), torch.randint(1, width + 1, (batch,))]
            given += [torch.randint(5, (batch, width, columns))] if columns else []
            of_listeners = {
                "profile_BKD": torch.randn(batch, 3, 8),
                "profile_lengths_B": torch.arange(batch) % 4,
            }
            torch.testing.assert_close(run(*given, **of_listeners), query(*given, **of_listeners), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("direction", DIRECTIONS)
@torch.no_grad()
def test_any_batch_and_length_with_a_state(direction: str, tmp_path: Path):
    """A recurrent state is traced for one length, to which the program pads. Times are read from the signals."""
    shape = EncoderShape(8, keep_dim=4, num_signals=5, columns=2, pauses=(-1, -1, 0, 63, 1023))
    config = EncoderConfig(direction, max_length=5, times=True, blocks=1, heads=2, hidden=8)
    encoder = Encoder(config, 8, 4, True).eval()
    encoder.reset_parameters(torch.Generator().manual_seed(1))
    for parameter in encoder.parameters():
        parameter.add_(torch.randn_like(parameter) / 4)
    signals_MD = torch.randn(5, 8)
    query = QueryEncoder(encoder, signals_MD, shape.pauses)
    program = write_program(tmp_path / "encoder.pt2", encoder, shape, signals_MD)
    write_onnx(tmp_path / "encoder.onnx", program)
    for run in (torch.export.load(tmp_path / "encoder.pt2").module(), load_onnx(tmp_path / "encoder.onnx")):
        for batch, width in ((1, 1), (5, 2), (2, query.max_tracks)):
            lengths_B = torch.randint(1, width + 1, (batch,))
            items_BTX, signals_BTC = torch.randn(batch, width, 12), torch.randint(5, (batch, width, 2))
            found_BX = run(items_BTX, lengths_B, signals_BTC)
            for session, length in enumerate(lengths_B.tolist()):
                read = slice(session, session + 1), slice(0, length)
                expected_1X = query(items_BTX[read], torch.tensor([length]), signals_BTC[read])
                torch.testing.assert_close(found_BX[read[0]], expected_1X, rtol=1e-5, atol=1e-5)


@pytest.mark.ranks
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_queries_are_those_of_validation_and_then_of_test(direction: str, folder: Path):
    live = run_on_ranks(folder, 1, trained_encoder, str(folder / direction))[0]
    sessions = []
    for file in sorted((folder / "data" / "sessions").iterdir()):
        sessions += pq.read_table(file)["tracks"].to_pylist()
    most = ExportManifest.read(folder / f"{direction}-1").encoder.max_tracks
    table = read_parts(folder / f"{direction}-1")[2]
    expected = [by_hand(live, table[rows[:-held_out][-most:]]) for held_out in (2, 1) for rows in sessions]
    for ranks in (1, 2):
        output = folder / f"{direction}-{ranks}"
        record = ExportManifest.read(output).queries
        queries_SD = np.load(output / record.file)
        assert queries_SD.dtype == np.float32 and record.rows == len(queries_SD) == 2 * 90
        np.testing.assert_allclose(queries_SD, torch.stack(expected).numpy(), rtol=1e-5, atol=1e-5)
