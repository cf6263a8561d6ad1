"""Profiles: pooled by hand; a token that each position sees, an item like any other to the blocks; and repeats."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from skipwise.models.config import EncoderConfig
from skipwise.models.encoder import Encoder
from skipwise.models.packed import Packed
from skipwise.models.profile import Profile, ReadProfile
from tests.models.test_encoder_kinds import DIM, HEADS, LENGTH

KINDS = {
    "transformer": {"positions": "learned"},
    "norm-first": {"positions": "relative", "norm_first": True},
    "bidirectional": {"positions": "relative", "direction": "bidirectional"},
    "hstu": {"kind": "hstu", "positions": "relative"},
    "gru": {"kind": "gru", "positions": "none"},
    "nextitnet": {"kind": "nextitnet", "positions": "none"},
}
LENGTHS = [3, 1, LENGTH, 0]


def make(options: dict, profile: int = 4, **given) -> Encoder:
    """Weights so large that each of them matters."""
    options = {"max_length": LENGTH, "heads": HEADS, "hidden": 20, "dropout": 0.0} | options
    encoder = Encoder(EncoderConfig(**options), DIM, profile=profile, **given)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return encoder.eval()


def random_profile(sessions: int, generator: torch.Generator | None = None) -> ReadProfile:
    return ReadProfile(*torch.randn(2, sessions, DIM, generator=generator).unbind(0))


@torch.no_grad()
def test_what_is_pooled_by_hand():
    profile = Profile(DIM, 4)
    profile.reset_parameters()
    rows_BKD, real_BK = torch.randn(3, 4, DIM), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]).bool()
    rows_BKD = rows_BKD * real_BK[:, :, None]
    means = torch.stack([rows_BKD[0].mean(dim=0), rows_BKD[1, :2].mean(dim=0), torch.zeros(DIM)])
    read = profile(rows_BKD, real_BK)
    assert_close(read.token_BD, means)
    assert not read.repeats_BD.any()
    profile.recency.copy_(torch.tensor([2.0, 1.0, 3.0, 0.5]).log())
    profile.repeats.copy_(torch.tensor([0.5, -0.25, 1.0, 2.0]))
    profile.projection.weight.mul_(2)
    profile.projection.bias.fill_(0.25)
    read = profile(rows_BKD, real_BK)
    weighted = (2 * rows_BKD[1, 0] + 1 * rows_BKD[1, 1]) / 3
    assert_close(read.token_BD[1:], torch.stack([2 * weighted + 0.25, torch.full((DIM,), 0.25)]))
    assert_close(read.repeats_BD[1:], torch.stack([0.5 * rows_BKD[1, 0] - 0.25 * rows_BKD[1, 1], torch.zeros(DIM)]))


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_packed_positions_predict_as_padded_ones_do(name: str):
    encoder, generator = make(KINDS[name]), torch.Generator().manual_seed(1)
    items_BTD = torch.randn(len(LENGTHS), LENGTH, DIM, generator=generator)
    profile = random_profile(len(LENGTHS), generator)
    inputs_B, masked_BT = torch.tensor(LENGTHS), torch.zeros(len(LENGTHS), LENGTH, dtype=torch.bool)
    masked_BT[0, 1] = encoder.mask_token is not None
    real_BT = torch.arange(LENGTH) < inputs_B[:, None]
    places = Packed(len(LENGTHS), LENGTH, real_BT.flatten().nonzero().squeeze(1))
    padded_BTD = encoder.padded(items_BTD, inputs_B, masked_BT, profile=profile)
    packed_ND = encoder(places.collect(items_BTD), places, inputs_B, masked_BT, profile=profile)
    assert_close(packed_ND, padded_BTD[real_BT], rtol=1e-4, atol=1e-5)
    # Every position sees the token of its own session, and of no other.
    other_BD = profile.token_BD.clone()
    other_BD[0] = torch.randn(DIM, generator=generator)
    other = profile._replace(token_BD=other_BD)
    changed_BT = (encoder.padded(items_BTD, inputs_B, masked_BT, profile=other) != padded_BTD).any(dim=2)
    assert changed_BT[0, :3].all() and not changed_BT[1:].any()
    more = profile._replace(repeats_BD=profile.repeats_BD + 2)
    added_BTD = encoder.padded(items_BTD, inputs_B, masked_BT, profile=more) - padded_BTD
    assert_close(added_BTD, torch.full_like(added_BTD, 2.0))


@pytest.mark.parametrize("name", ["norm-first", "gru", "nextitnet"])
@torch.no_grad()
def test_to_the_blocks_it_is_the_item_before_the_first(name: str):
    """Without positions: what an encoder without profiles gives at the positions behind such an item."""
    options = KINDS[name] | {"positions": "none"}
    encoder, plain = make(options), make(options | {"max_length": LENGTH + 1}, profile=0)
    plain.load_state_dict({name: value for name, value in encoder.state_dict().items() if "profile" not in name})
    items_TD, profile = torch.randn(LENGTH, DIM), random_profile(1)

    def run(of: Encoder, items_TD: Tensor, profile: ReadProfile | None) -> Tensor:
        masked_BT = torch.zeros(1, len(items_TD), dtype=torch.bool)
        return of.padded(items_TD[None], torch.tensor([len(items_TD)]), masked_BT, profile=profile)[0]

    if name == "nextitnet":  # whose dilations follow from the longest session
        plain.blocks[0].dilations, plain.blocks[1].dilations = encoder.blocks[0].dilations, encoder.blocks[1].dilations
    behind_TD = run(plain, torch.cat([profile.token_BD, items_TD]), None)[1:]
    assert_close(run(encoder, items_TD, profile), behind_TD + profile.repeats_BD, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_query_of_no_tracks_reads_the_profile():
    encoder, none = make(KINDS["norm-first"]), torch.zeros(2, 1, DIM)
    profile = random_profile(2)._replace(repeats_BD=torch.zeros(2, DIM))
    queries_BD = encoder.queries(none, torch.zeros(2).long(), torch.zeros(2, 1).bool(), None, profile)
    assert queries_BD.isfinite().all() and (queries_BD[0] - queries_BD[1]).abs().max() > 0.1


def test_weights_begin_as_those_of_an_encoder_without():
    config = EncoderConfig(heads=2, hidden=8)
    encoders = [Encoder(config, 8, 4, True, profile=size) for size in (0, 5)]
    for encoder in encoders:
        encoder.reset_parameters(torch.Generator().manual_seed(3))
    without, with_profile = (dict(encoder.named_parameters()) for encoder in encoders)
    assert all(torch.equal(parameter, with_profile[name]) for name, parameter in without.items())
    assert sum(parameter.numel() for parameter in with_profile.values()) == config.num_weights(8, 4, True, 5)
