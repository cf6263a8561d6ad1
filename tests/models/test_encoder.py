"""What a position may see, and that padding changes nothing."""

import pytest
import torch
from torch.testing import assert_close

from skipwise.models.config import EncoderConfig
from skipwise.models.encoder import Encoder


def make(direction: str, **options) -> Encoder:
    encoder = Encoder(EncoderConfig(direction=direction, max_length=8, heads=2, hidden=16, **options), dim=16)
    encoder.reset_parameters(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():  # larger than the paper's init, so that a leak shows
            if "norm" not in name:  # larger norms would let attention see one position alone
                parameter.mul_(10)
    return encoder.eval()


def run(encoder: Encoder, items: torch.Tensor, length: int, masked: list[int] = ()) -> torch.Tensor:
    masked_BT = torch.zeros(items.shape[:2], dtype=torch.bool)
    masked_BT[0, list(masked)] = True
    return encoder.padded(items, torch.tensor([length]), masked_BT)[0]


@pytest.mark.parametrize(
    "options", [{}, {"norm_first": True}, *({"kind": kind} for kind in ("ligr", "hstu", "gru", "nextitnet"))]
)
def test_unidirectional_positions_never_see_later_ones(options: dict):
    encoder, items = make("unidirectional", **options), torch.randn(1, 6, 16)
    changed = items.clone()
    changed[0, 4] = torch.randn(16)
    before, after = run(encoder, items, 6), run(encoder, changed, 6)
    assert_close(before[:4], after[:4])
    assert (before[4:] - after[4:]).abs().amax(dim=1).min() > (1e-3 if options.get("kind") != "hstu" else 1e-5)


def test_bidirectional_positions_see_all_but_masked_tracks():
    encoder, items = make("bidirectional"), torch.randn(1, 6, 16)
    changed = items.clone()
    changed[0, 4] = torch.randn(16)
    assert (run(encoder, items, 6)[0] - run(encoder, changed, 6)[0]).abs().max() > 1e-4
    assert_close(run(encoder, items, 6, [4]), run(encoder, changed, 6, [4]))


@pytest.mark.parametrize("direction", ["unidirectional", "bidirectional"])
def test_padding_changes_nothing(direction: str):
    encoder, items = make(direction), torch.randn(1, 5, 16)
    padded = torch.cat([items, torch.randn(1, 3, 16)], dim=1)
    assert_close(run(encoder, padded, 5)[:5], run(encoder, items, 5))


def test_the_last_position_is_the_same_for_any_length():
    """Positions count from the end: the place that predicts at test time is the one that was trained."""
    encoder, items = make("unidirectional"), torch.randn(1, 6, 16)

    def last_outputs() -> list[torch.Tensor]:
        return [run(encoder, items, length)[length - 1].clone() for length in (1, 3, 6)]

    before = last_outputs()
    with torch.no_grad():
        encoder.positions[0] = torch.randn(16)  # the place before seven others: no session here is as long
    assert all(torch.equal(*pair) for pair in zip(before, last_outputs(), strict=True))
    with torch.no_grad():
        encoder.positions[-1] = torch.randn(16)
    assert not any(torch.allclose(*pair, atol=1e-4) for pair in zip(before, last_outputs(), strict=True))


def test_a_session_without_inputs_gives_finite_outputs():
    assert run(make("bidirectional"), torch.zeros(1, 3, 16), 0).isfinite().all()


def test_parameters_start_truncated():
    encoder = Encoder(EncoderConfig(), dim=128)
    encoder.reset_parameters(torch.Generator().manual_seed(1))
    weights = torch.cat([p.flatten() for name, p in encoder.named_parameters() if "norm" not in name])
    assert weights.abs().max() <= 0.02
    assert 0.005 < encoder.positions.std() < 0.02


@pytest.mark.parametrize("direction", ["unidirectional", "bidirectional"])
@pytest.mark.parametrize("positions", ["learned", "relative"])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("prediction", ["gelu", "linear", "none"])
def test_the_config_knows_the_number_of_weights(direction: str, positions: str, norm_first: bool, prediction: str):
    choices = {"direction": direction, "positions": positions, "norm_first": norm_first, "prediction": prediction}
    config = EncoderConfig(max_length=7, heads=2, blocks=3, hidden=20, **choices)
    for given in ((0, False), (0, True), (4, False), (4, True)):
        encoder = Encoder(config, 12, *given)
        assert config.num_weights(12, *given) == sum(weight.numel() for weight in encoder.parameters())


def test_norm_first_is_torchs_own_pre_norm_encoder_with_a_final_norm():
    encoder = make("unidirectional", norm_first=True)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
    layer = torch.nn.TransformerEncoderLayer(16, 2, 16, 0.0, batch_first=True, norm_first=True)
    peer = torch.nn.TransformerEncoder(layer, 2, norm=torch.nn.LayerNorm(16), enable_nested_tensor=False).eval()
    for block, other in zip(encoder.blocks, peer.layers, strict=True):
        pairs = (
            (block.merge, other.self_attn.out_proj),
            (block.widen, other.linear1),
            (block.narrow, other.linear2),
            (block.attention_norm, other.norm1),
            (block.feed_forward_norm, other.norm2),
        )
        for ours, theirs in pairs:
            theirs.load_state_dict(ours.state_dict())
        other.self_attn.in_proj_weight.data = block.project.weight.data
        other.self_attn.in_proj_bias.data = block.project.bias.data
    peer.norm.load_state_dict(encoder.final_norm.state_dict())
    items = torch.randn(1, 8, 16)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(8)
    expected = encoder.prediction(peer(encoder.norm(items + encoder.positions), mask=mask))[0]
    assert_close(run(encoder, items, 8), expected, rtol=1e-4, atol=1e-5)


def test_without_a_prediction_layer_the_output_is_the_last_norms():
    plain, items = make("unidirectional", norm_first=True, prediction="none"), torch.randn(1, 8, 16)
    with torch.no_grad():
        layered = make("unidirectional", norm_first=True)
        layered.load_state_dict(plain.state_dict() | layered.prediction.state_dict(prefix="prediction."))
    found = run(plain, items, 8)
    assert_close(layered.prediction(found), run(layered, items, 8))
    assert_close(
        found.mean(dim=1), torch.zeros(8), rtol=0, atol=1e-5
    )  # its weights still stand at one, its bias at zero


def test_norm_last_has_the_weights_it_always_had():
    assert not any("final" in name for name in Encoder(EncoderConfig(), 16).state_dict())
