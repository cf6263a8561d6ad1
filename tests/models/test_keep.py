"""The keep head's r and b: by hand from the encoder's output and a recurrent state of signals, at every position."""

import pytest
import torch

from skipwise.models.config import STATE, EncoderConfig
from skipwise.models.encoder import Encoder
from skipwise.models.keep import KeepHead
from skipwise.models.packed import Packed

DIM, KEEP = 8, 4
LENGTHS = [5, 3, 1]


def encoder_of(direction: str, keep_dropout: float = 0.0) -> Encoder:
    torch.manual_seed(3)
    config = EncoderConfig(direction=direction, blocks=1, heads=2, hidden=16, max_length=6, dropout=0.0)
    encoder = Encoder(config, DIM, KEEP, reads_signals=True, keep_dropout=keep_dropout)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return encoder


def by_the_equations(head: KeepHead, signals_TD: torch.Tensor) -> torch.Tensor:
    """[T, STATE] in float64, by the equations of Cho et al., arXiv 1406.1078, as PyTorch writes them."""
    weights = {name: value.double() for name, value in head.state.state_dict().items()}
    read, kept = (
        (weights[f"weight_{kind}_l0"].split(STATE), weights[f"bias_{kind}_l0"].split(STATE)) for kind in ("ih", "hh")
    )
    state, states = torch.zeros(STATE, dtype=torch.float64), []
    for row in signals_TD.double():
        reset, update = (
            torch.sigmoid(read[0][gate] @ row + read[1][gate] + kept[0][gate] @ state + kept[1][gate])
            for gate in (0, 1)
        )
        proposed = torch.tanh(read[0][2] @ row + read[1][2] + reset * (kept[0][2] @ state + kept[1][2]))
        state = (1 - update) * proposed + update * state
        states.append(state)
    return torch.stack(states)


@pytest.mark.parametrize("direction", ["unidirectional", "bidirectional"])
def test_r_and_b_by_hand_and_packed_as_padded(direction: str):
    encoder = encoder_of(direction).eval()
    head, hidden = encoder.keep, []
    encoder.prediction.register_forward_hook(lambda _, given, __: hidden.append(given[0]))
    items_BTD, signals_BTD = torch.randn(2, 3, 5, DIM)
    masked_BT = torch.zeros(3, 5, dtype=torch.bool)
    masked_BT[0, 2] = masked_BT[1, 2] = direction == "bidirectional"
    lengths_B = torch.tensor(LENGTHS)
    with torch.no_grad():
        found_BTX = encoder.padded(items_BTD, lengths_B, masked_BT, signals_BTD)
        hidden_BTD = hidden.pop().view(3, 5, DIM).double()
        for session, length in enumerate(LENGTHS):
            # What is predicted is hidden: its signals too.
            told_TD = torch.where(masked_BT[session, :length, None], 0.0, signals_BTD[session, :length])
            expected_TK = by_the_equations(head, told_TD) @ head.of_state.weight.double().T
            expected_TK += hidden_BTD[session, :length] @ head.of_output.weight.double().T + head.of_output.bias
            torch.testing.assert_close(found_BTX[session, :length, DIM:].double(), expected_TK, rtol=1e-5, atol=1e-5)
        tokens_N = torch.cat([5 * session + torch.arange(length) for session, length in enumerate(LENGTHS)])
        places = Packed(3, 5, tokens_N)
        packed_NX = encoder(places.collect(items_BTD), places, lengths_B, masked_BT, places.collect(signals_BTD))
        torch.testing.assert_close(packed_NX, found_BTX.flatten(0, 1)[tokens_N])


def test_the_state_reads_no_track_and_the_next_track_head_no_state():
    encoder = encoder_of("unidirectional").eval()
    items_BTD, others_BTD, signals_BTD = torch.randn(3, 1, 5, DIM)
    given = torch.tensor([5]), torch.zeros(1, 5, dtype=torch.bool), signals_BTD
    with torch.no_grad():
        encoder.keep.of_output.weight.zero_()
        first, second = (encoder.padded(items, *given) for items in (items_BTD, others_BTD))
        assert torch.equal(first[..., DIM:], second[..., DIM:])
        assert not torch.equal(first[..., :DIM], second[..., :DIM])
        encoder.keep.of_state.weight.zero_()
        assert torch.equal(encoder.padded(items_BTD, *given)[..., :DIM], first[..., :DIM])


def test_dropout_is_of_training_alone_and_spares_the_next_track_head():
    encoder = encoder_of("unidirectional", keep_dropout=0.5)
    given = torch.randn(1, 5, DIM), torch.tensor([5]), torch.zeros(1, 5, dtype=torch.bool), torch.randn(1, 5, DIM)
    with torch.no_grad():
        trained, again = encoder.train().padded(*given), encoder.padded(*given)
        served = encoder.eval().padded(*given)
        assert torch.equal(served, encoder.padded(*given))
    assert torch.equal(trained[..., :DIM], served[..., :DIM])
    assert not torch.equal(trained[..., DIM:], again[..., DIM:])


def test_the_state_starts_from_the_generator_alone():
    states = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        encoder = Encoder(EncoderConfig(), 16, KEEP, reads_signals=True)
        encoder.reset_parameters(torch.Generator().manual_seed(5))
        states.append(encoder.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    bound = STATE**-0.5
    assert 0.9 * bound < states[0]["keep.state.weight_hh_l0"].abs().max() <= bound


def test_half_precision_leaves_the_state_alone():
    encoder = encoder_of("unidirectional").eval()
    signals_BTD = torch.randn(2, 5, DIM)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        states = encoder.keep.states(signals_BTD)
    assert states.dtype == torch.float32
    with torch.no_grad():
        assert torch.equal(states, encoder.keep.states(signals_BTD))


def test_a_state_wider_than_the_rows_and_nearly_all_dropped():
    """The pool of masks is as large as the widest that takes from it, and keeps something to draw from."""
    config = EncoderConfig(blocks=1, heads=2, hidden=8, max_length=20, dropout=0.999999)
    encoder = Encoder(config, 4, KEEP, reads_signals=True, keep_dropout=0.999999)
    encoder.reset_parameters(torch.Generator().manual_seed(0))
    given = torch.randn(200, 20, 4), torch.full((200,), 20), torch.zeros(200, 20, dtype=torch.bool)
    assert encoder.padded(*given, torch.randn(200, 20, 4)).isfinite().all()
