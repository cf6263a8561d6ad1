"""Relative positions: a bias by distance, of the right sign, in every block. And tracks hidden whole."""

import pytest
import torch

from skipwise.models.config import EncoderConfig
from skipwise.models.encoder import Encoder

FAR = -1e9


def make(direction: str) -> Encoder:
    config = EncoderConfig(direction=direction, positions="relative", max_length=8, heads=2, hidden=16)
    encoder = Encoder(config, dim=16)
    encoder.reset_parameters(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(10)
    return encoder.eval()


def changes(encoder: Encoder, place: int, length: int = 6) -> list[bool]:
    """Which positions' predictions move with the track at `place`."""
    random = torch.Generator().manual_seed(3)
    items = torch.randn(2, length, 16, generator=random)
    items[1] = items[0]
    items[1, place] = torch.randn(16, generator=random)
    with torch.no_grad():
        outputs = encoder.padded(items, torch.tensor([length, length]), torch.zeros(2, length, dtype=torch.bool))
    return ((outputs[0] - outputs[1]).abs().amax(dim=1) > 1e-6).tolist()


@pytest.mark.parametrize("direction", ["unidirectional", "bidirectional"])
def test_a_bias_that_shuts_out_all_but_the_track_before(direction: str):
    """Two blocks that look one step back see two steps back, and nobody else."""
    encoder = make(direction)
    with torch.no_grad():
        encoder.distance_bias.fill_(FAR)
        encoder.distance_bias[:, :, [7, 8]] = 0  # distance 0 is the middle of 15; one step back is the next
    assert changes(encoder, 1) == [False, True, True, True, False, False]


def test_without_bias_order_is_not_told():
    encoder = make("bidirectional")
    with torch.no_grad():
        encoder.distance_bias.zero_()
    items = torch.randn(1, 6, 16, generator=torch.Generator().manual_seed(1))
    swapped = items[:, [1, 0, 2, 3, 4, 5]]
    nothing = torch.zeros(1, 6, dtype=torch.bool)
    with torch.no_grad():
        last = [encoder.padded(given, torch.tensor([6]), nothing)[0, 5] for given in (items, swapped)]
        torch.testing.assert_close(*last)
        encoder.distance_bias[:, :, 12] = 1.0  # five steps back
        last = [encoder.padded(given, torch.tensor([6]), nothing)[0, 5] for given in (items, swapped)]
    assert (last[0] - last[1]).abs().max() > 1e-4


def test_the_bias_starts_at_nothing_and_learns():
    encoder = Encoder(EncoderConfig(positions="relative", dropout=0.0), dim=128)
    encoder.reset_parameters(torch.Generator().manual_seed(1))
    assert encoder.positions is None and not encoder.distance_bias.any()
    items = torch.randn(3, 7, 128, generator=torch.Generator().manual_seed(2))
    encoder.padded(items, torch.tensor([7, 7, 7]), torch.zeros(3, 7, dtype=torch.bool)).pow(2).sum().backward()
    gradient = encoder.distance_bias.grad
    assert gradient.isfinite().all() and gradient[:, :, 19:26].abs().amin(dim=(0, 1)).min() > 0
    assert not gradient[:, :, :19].any(), "a unidirectional encoder never looks ahead"


def test_track_dropout_hides_whole_tracks_in_training_alone():
    """With all weight on itself, a position's output tells whether its track was hidden: it is then a zero's."""
    config = EncoderConfig(positions="relative", max_length=8, heads=2, hidden=16, dropout=0.0, track_dropout=0.3)
    encoder = Encoder(config, dim=16)
    encoder.reset_parameters(torch.Generator().manual_seed(0))
    with torch.no_grad():
        encoder.distance_bias.fill_(FAR)
        encoder.distance_bias[:, :, 7] = 0
        encoder.norm.bias.fill_(0.5)
    items = torch.randn(1, 1, 16, generator=torch.Generator().manual_seed(1)).expand(500, 8, 16)
    given = torch.full((500,), 8), torch.zeros(500, 8, dtype=torch.bool)
    torch.manual_seed(0)
    with torch.no_grad():
        hidden = encoder.padded(torch.zeros(1, 8, 16), given[0][:1], given[1][:1])[0, 0]
        seen = encoder.eval().padded(items, *given)[0, 0]
        trained = encoder.train().padded(items, *given).flatten(0, 1)
    is_hidden = (trained - hidden).abs().amax(dim=1) < 1e-6
    assert ((trained[~is_hidden] - seen).abs() < 1e-6).all() and not torch.allclose(seen, hidden, atol=1e-4)
    assert 0.27 < is_hidden.float().mean() < 0.33
