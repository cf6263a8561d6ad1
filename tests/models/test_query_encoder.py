"""The served encoder: rebuilt from its config and weights without TorchRec, and equal to the model's padded pass."""

import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from skipwise.models.config import EncoderConfig
from skipwise.models.encoder import Encoder
from skipwise.models.query_encoder import EncoderShape, QueryEncoder, load_query_encoder, weights_of

CONFIGS = [
    EncoderConfig(max_length=6, heads=2, hidden=16, direction=direction, positions=positions, **choices)
    for direction in ("unidirectional", "bidirectional")
    for positions in ("learned", "relative")
    for choices in ({}, {"norm_first": True}, {"norm_first": True, "prediction": "none"})
]
CONFIGS += [
    EncoderConfig(kind=kind, max_length=6, heads=2, hidden=16, positions="none")
    for kind in ("ligr", "hstu", "gru", "nextitnet")
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_rebuilt_from_a_file_it_answers_the_same(config: EncoderConfig, tmp_path: Path):
    encoder = Encoder(config, dim=8)
    encoder.reset_parameters(torch.Generator().manual_seed(0))
    safetensors.torch.save_file(encoder.state_dict(), tmp_path / "encoder.safetensors")
    rebuilt = load_query_encoder(config, EncoderShape(8), safetensors.torch.load_file(tmp_path / "encoder.safetensors"))
    items_BTD, lengths_B = torch.randn(3, config.max_tracks, 8), torch.tensor([1, 3, config.max_tracks])
    queries_BD = rebuilt(items_BTD, lengths_B)
    assert torch.equal(queries_BD, QueryEncoder(encoder)(items_BTD, lengths_B))
    assert not queries_BD.requires_grad and not rebuilt.encoder.training
    # One session alone, without padding: the last position of the encoder's own output.
    items_TD = torch.cat([items_BTD[1, :3], torch.zeros(config.appended_positions, 8)])
    masked_T = torch.arange(len(items_TD)) == 3
    expected_TD = encoder.eval().padded(items_TD[None], torch.tensor([len(items_TD)]), masked_T[None])[0]
    torch.testing.assert_close(queries_BD[1], expected_TD[-1])


def test_one_that_reads_times_answers_the_same(tmp_path: Path):
    """A session's padding has a time, and changes nothing; another pause does."""
    config = EncoderConfig(kind="hstu", max_length=6, heads=2, positions="relative", times=True)
    encoder, signals_MD, pauses = Encoder(config, dim=8), torch.randn(5, 8), (-1, -1, 0, 63, 1023)
    encoder.reset_parameters(torch.Generator().manual_seed(0))
    torch.nn.init.normal_(encoder.time_bias)
    safetensors.torch.save_file(weights_of(encoder, signals_MD), tmp_path / "encoder.safetensors")
    shape = EncoderShape(8, num_signals=5, columns=2, pauses=pauses)
    rebuilt = load_query_encoder(config, shape, safetensors.torch.load_file(tmp_path / "encoder.safetensors"))
    items_BTD, lengths_B = torch.randn(3, 6, 8), torch.tensor([1, 3, 6])
    signals_BTC = torch.stack([torch.randint(2, (3, 6)), torch.randint(1, 5, (3, 6))], dim=2)
    queries_BD = rebuilt(items_BTD, lengths_B, signals_BTC)
    signals_TD = signals_MD[signals_BTC[1, :3]].sum(dim=1)
    pauses_T, nothing_T = torch.tensor(pauses)[signals_BTC[1, :3, 1]], torch.zeros(3, dtype=torch.bool)
    given = items_BTD[1, :3], torch.tensor(3), nothing_T, signals_TD
    expected_TD = encoder.eval().padded(*(one[None] for one in given), pauses_BT=pauses_T[None])[0]
    torch.testing.assert_close(queries_BD[1], expected_TD[-1])


def test_weights_of_another_config_are_refused():
    state = Encoder(EncoderConfig(max_length=6, heads=2), dim=8).state_dict()
    with pytest.raises(RuntimeError, match="its weights have other names or shapes"):
        load_query_encoder(EncoderConfig(max_length=7, heads=2), EncoderShape(8), state)
    with pytest.raises(RuntimeError, match="its weights have other names or shapes"):
        load_query_encoder(EncoderConfig(direction="bidirectional", max_length=6, heads=2), EncoderShape(8), state)
    double = {name: tensor.double() for name, tensor in state.items()}
    with pytest.raises(RuntimeError, match="is torch.float64, expected torch.float32"):
        load_query_encoder(EncoderConfig(max_length=6, heads=2), EncoderShape(8), double)


def test_serving_modules_import_neither_torchrec_nor_fbgemm():
    modules = ("query_encoder", "encoder", "attention", "dropout", "topk", "ranking")
    code = "; ".join(f"import skipwise.models.{name}" for name in modules)
    code += "; import sys; print([name for name in sys.modules if name.split('.')[0] in ('torchrec', 'fbgemm_gpu')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
