"""Each kind of encoder against its published formula, written out; and what a kind refuses."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm, relu, silu
from torch.testing import assert_close

from skipwise.models.config import EncoderConfig
from skipwise.models.encoder import Encoder

DIM, LENGTH, HEADS = 12, 7, 3
KINDS = ["ligr", "hstu", "gru", "nextitnet"]
ATTENDING = ["ligr", "hstu"]


def make(kind: str, keep_dim: int = 0, **options) -> Encoder:
    """Weights so large that each of them matters."""
    options = {"max_length": LENGTH, "heads": HEADS, "hidden": 20, "prediction": "none", "dropout": 0.0} | options
    encoder = Encoder(EncoderConfig(kind=kind, **options), DIM, keep_dim)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return encoder.eval()


def run(encoder: Encoder, items_TD: Tensor) -> Tensor:
    """[T, D]: what the encoder gives at each position of one session."""
    length = torch.tensor([len(items_TD)])
    return encoder.padded(items_TD[None], length, torch.zeros(1, len(items_TD), dtype=torch.bool))[0]


def read(encoder: Encoder, items_TD: Tensor) -> Tensor:
    """What the first block takes."""
    if encoder.positions is not None:
        items_TD = items_TD + encoder.positions[LENGTH - len(items_TD) :]
    return encoder.norm(items_TD)


def bias(encoder: Encoder, block: int, head: int, query: int, key: int) -> Tensor:
    return encoder.distance_bias[block, head, LENGTH - 1 + query - key]


@pytest.mark.parametrize("direction", ["unidirectional", "bidirectional"])
@torch.no_grad()
def test_hstu_key_by_key(direction: str):
    encoder, items_TD = make("hstu", positions="relative", direction=direction), torch.randn(5, DIM)
    hidden_TD, width = read(encoder, items_TD), DIM // HEADS
    for number, block in enumerate(encoder.blocks):
        normed_TD = block.norm(hidden_TD)
        query_TD, key_TD, value_TD = silu(block.project(normed_TD)).split(DIM, dim=1)
        attended_TD = torch.zeros(5, DIM)
        for query in range(5):
            for key in range(5 if direction == "bidirectional" else query + 1):
                for head in range(HEADS):
                    part = slice(head * width, (head + 1) * width)
                    score = query_TD[query, part] @ key_TD[key, part] / width**0.5
                    weight = silu(score + bias(encoder, number, head, query, key)) / LENGTH
                    attended_TD[query, part] += weight * value_TD[key, part]
        norm = block.attended_norm
        normed = layer_norm(attended_TD, (DIM,), norm.weight, norm.bias, 1e-6)
        hidden_TD = hidden_TD + block.merge(silu(block.gate(normed_TD)) * normed)
    assert_close(run(encoder, items_TD), encoder.final_norm(hidden_TD), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_ligr_with_torchs_own_attention():
    encoder, items_TD = make("ligr"), torch.randn(5, DIM)
    hidden_TD = read(encoder, items_TD)
    later = torch.ones(5, 5, dtype=torch.bool).triu(1)
    for block in encoder.blocks:
        peer = torch.nn.MultiheadAttention(DIM, HEADS, batch_first=True)
        peer.in_proj_weight.copy_(block.project.weight)
        peer.in_proj_bias.copy_(block.project.bias)
        peer.out_proj.load_state_dict(block.merge.state_dict())
        normed_TD = block.attention_norm(hidden_TD)
        attended_TD = peer(normed_TD, normed_TD, normed_TD, attn_mask=later)[0]
        hidden_TD = hidden_TD + torch.sigmoid(block.attention_gate(hidden_TD)) * attended_TD
        normed_TD = block.feed_forward_norm(hidden_TD)
        gate, value = block.widen.weight.split(20)
        inner = silu(normed_TD @ gate.T) * (normed_TD @ value.T)
        hidden_TD = hidden_TD + torch.sigmoid(block.feed_forward_gate(hidden_TD)) * (inner @ block.narrow.weight.T)
    assert_close(run(encoder, items_TD), encoder.final_norm(hidden_TD), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_gru_step_by_step():
    encoder, items_TD = make("gru", positions="none"), torch.randn(5, DIM)
    hidden_TD = read(encoder, items_TD)
    for block in encoder.blocks:
        state, states = torch.zeros(20), []
        of_input, of_state = block.state.weight_ih_l0, block.state.weight_hh_l0
        for values_D in hidden_TD:
            given = (of_input @ values_D + block.state.bias_ih_l0).split(20)
            before = (of_state @ state + block.state.bias_hh_l0).split(20)
            reset, update = (torch.sigmoid(given[part] + before[part]) for part in (0, 1))
            state = update * state + (1 - update) * torch.tanh(given[2] + reset * before[2])
            states.append(state)
        hidden_TD = block.merge(torch.stack(states))
    assert_close(run(encoder, items_TD), hidden_TD, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_nextitnet_tap_by_tap():
    """Three blocks over sessions of up to 7: 1 and 2 apart, 4 and 8 apart, and 1 and 2 apart again."""
    encoder, items_TD = make("nextitnet", positions="none", blocks=3), torch.randn(7, DIM)
    hidden_TD = read(encoder, items_TD)
    for block, apart in zip(encoder.blocks, ((1, 2), (4, 8), (1, 2)), strict=True):
        values_TD = hidden_TD
        for convolution, norm, step in zip(block.convolutions, block.norms, apart, strict=True):
            rows = []
            for place in range(7):
                row = convolution.bias.clone()
                for tap in range(3):
                    at = place - (2 - tap) * step
                    if at >= 0:
                        row += convolution.weight[:, :, tap] @ values_TD[at]
                rows.append(row)
            values_TD = relu(norm(torch.stack(rows)))
        hidden_TD = hidden_TD + values_TD
    assert_close(run(encoder, items_TD), hidden_TD, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("positions", ["learned", "relative", "none"])
def test_the_config_knows_the_number_of_weights(kind: str, positions: str):
    if kind in ATTENDING or positions != "relative":
        encoder = make(kind, keep_dim=4, positions=positions, blocks=3)
        assert encoder.config.num_weights(DIM, 4) == sum(weight.numel() for weight in encoder.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_starts_with_finite_gradients_for_every_weight(kind: str):
    """A batch without a position to read as well, which a rank may have."""
    encoder = make(kind, dropout=0.3, prediction="linear").train()
    encoder.reset_parameters(torch.Generator().manual_seed(0))
    for length in (5, 0):
        items_BTD, lengths_B = torch.randn(2, 5, DIM), torch.tensor([length, length])
        encoder.zero_grad()
        encoder.padded(items_BTD, lengths_B, torch.zeros(2, 5, dtype=torch.bool)).sum().backward()
        assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in encoder.parameters())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kind": "hstu", "norm_first": True}, "--encoder.norm-first is of .* add --encoder.no-norm-first"),
        ({"kind": "gru", "direction": "bidirectional"}, "gru reads a session in one direction"),
        ({"kind": "nextitnet", "positions": "relative"}, "nextitnet has not: set --encoder.positions none or learned"),
    ],
)
def test_what_a_kind_does_not_have_is_refused(options: dict, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        EncoderConfig(**options)
