"""A bias by the time between two plays: its buckets, what it shuts out, and dense attention with it."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from skipwise.common.errors import UserError
from skipwise.components.recipes import named_recipe
from skipwise.datapipes.signals import Signals
from skipwise.models import head_rows
from skipwise.models.attention import attend
from skipwise.models.config import TIMES, EncoderConfig
from skipwise.models.encoder import Encoder
from skipwise.models.head_rows import HeadRows
from skipwise.models.profile import ReadProfile
from skipwise.models.time_bias import NO_PAUSE, TimedMask, time_buckets
from skipwise.training.config_fields import from_mapping

UNKNOWN, FAR = 32, -1e9
LENGTHS, LENGTH, HEADS, WIDTH = [3, 9, 0, 1, 9, 6], 10, 3, 4
REAL_BT = torch.arange(LENGTH) < torch.tensor(LENGTHS)[:, None]
TOKENS_N = REAL_BT.flatten().nonzero().squeeze(1)


def test_buckets_by_hand():
    """Plays at 0, 63, 70, 1093 and, after a pause that is not known, 0 and 3 seconds on; the first pause says
    nothing."""
    pauses = torch.tensor([[500, 63, 7, 1023, NO_PAUSE, 3]])
    found = time_buckets(pauses)
    assert found.dtype == torch.uint8
    assert found[0].tolist() == [
        [0, 6, 6, 10, UNKNOWN, UNKNOWN],  # log2 of 1, 64, 71 and 1094
        [6, 0, 3, 10, UNKNOWN, UNKNOWN],
        [6, 3, 0, 10, UNKNOWN, UNKNOWN],
        [10, 10, 10, 0, UNKNOWN, UNKNOWN],
        [UNKNOWN] * 4 + [0, 2],
        [UNKNOWN] * 4 + [2, 0],
    ]
    assert time_buckets(torch.tensor([[0, 2**40]]))[0, 1].tolist() == [31, 0]
    assert time_buckets(pauses, prepends=True)[0, 1:, 1:].tolist() == found[0].tolist()
    assert {*time_buckets(pauses, prepends=True)[0, 0].tolist()} == {TIMES}, "a token has no time"


def test_a_play_beside_another_has_the_pauses_own_bucket():
    """Whatever `prepare --pause` wrote, and values of other columns say nothing of it."""
    signals = Signals.of(("skips", "pause"), {"pause": [*map(str, range(31))]})
    pauses_M = torch.tensor(signals.pauses())
    assert pauses_M[:6].tolist() == [NO_PAUSE] * 6 and pauses_M[6:10].tolist() == [0, 1, 3, 7]
    for code, seconds in enumerate(pauses_M[6:]):
        assert time_buckets(torch.stack([seconds, seconds])[None])[0, 1, 0] == code
    with pytest.raises(UserError, match="--encoder.times reads pause as `prepare --pause` writes it, and 'long' is no"):
        Signals.of(("pause",), {"pause": ["long"]}).pauses()


def outputs(encoder: Encoder, items_BTD: Tensor, pauses_BT: Tensor, profile: ReadProfile | None = None) -> Tensor:
    batch, length = pauses_BT.shape
    lengths_B, nothing_BT = torch.full((batch,), length), torch.zeros(batch, length, dtype=torch.bool)
    return encoder.padded(items_BTD, lengths_B, nothing_BT, None, profile, pauses_BT)


@torch.no_grad()
def test_a_bias_that_shuts_out_what_was_played_long_before():
    """With one block, a play after a pause of ten minutes is told by no play before it, and by all since."""
    encoder = Encoder(EncoderConfig(max_length=8, times=True, blocks=1, heads=2, hidden=16), 16).eval()
    encoder.reset_parameters(torch.Generator().manual_seed(0))
    assert not encoder.time_bias.any(), "it starts at nothing"
    for parameter in encoder.parameters():
        parameter.copy_(torch.randn(parameter.shape) / 2)
    encoder.time_bias[:, :, :9] = 0
    encoder.time_bias[:, :, 9:] = FAR
    pauses_T = torch.tensor([5, 60, 30, 600, 60, 60])
    items_BTD = torch.randn(1, 6, 16).repeat(2, 1, 1)
    for place, moved in ((0, [0, 1, 2]), (2, [2]), (3, [3, 4, 5])):
        changed_BTD = items_BTD.clone()
        changed_BTD[1, place] = torch.randn(16)
        first, second = outputs(encoder, changed_BTD, pauses_T.expand(2, 6))
        assert ((first - second).abs().amax(dim=1) > 1e-6).nonzero().flatten().tolist() == moved


@pytest.mark.parametrize("most", [1, 60, 1 << 18, None])
@pytest.mark.parametrize(("silu", "shortest"), [(None, 1), (None, 16), (0.1, 16)])
def test_attention_equals_the_dense_computation(most: int | None, silu: float | None, shortest: int, monkeypatch: Any):
    """Gradients too, with parts as in `test_attention`; the bias is looked up pair by pair."""
    monkeypatch.setattr(head_rows, "SCORES", most or 1)
    monkeypatch.setattr(head_rows, "SHORTEST", shortest)
    dim, batch = HEADS * WIDTH, len(LENGTHS)
    pauses_BT = 2 ** torch.randint(0, 14, REAL_BT.shape) - 1
    pauses_BT = pauses_BT.masked_fill(torch.rand(REAL_BT.shape) < 0.1, NO_PAUSE)
    buckets_BTT = time_buckets(pauses_BT)
    projected_ND = torch.randn(len(TOKENS_N), 3 * dim, requires_grad=True)
    bias_HK = torch.randn(HEADS, TIMES, requires_grad=True)
    added_HTT = torch.randn(HEADS, LENGTH, LENGTH, requires_grad=True)
    mask_HTT = added_HTT + torch.full((LENGTH, LENGTH), -torch.inf).triu(1)
    rows = HeadRows.of(TOKENS_N, batch, LENGTH, HEADS, one_group=most is None)
    found = attend(projected_ND, rows, TimedMask(mask_HTT, bias_HK, buckets_BTT), True, None, HEADS, silu)
    wanted = []
    starts = torch.tensor(LENGTHS).cumsum(0) - torch.tensor(LENGTHS)
    for session, length in enumerate(LENGTHS):
        own_TX = projected_ND[starts[session] : starts[session] + length]
        for query in range(length):
            scores_HT = []
            q, k, v = own_TX.view(length, 3, HEADS, WIDTH).unbind(1)
            for key in range(query + 1):
                pauses = pauses_BT[session, key + 1 : query + 1]
                bucket = UNKNOWN if (pauses < 0).any() else round((pauses.sum() + 1).log2().item())
                score_H = (q[query] * k[key]).sum(1) / WIDTH**0.5 + added_HTT[:, query, key] + bias_HK[:, bucket]
                scores_HT.append(score_H)
            scores_HT = torch.stack(scores_HT, dim=1)
            weights_HT = scores_HT.softmax(1) if silu is None else silu * torch.nn.functional.silu(scores_HT)
            wanted.append(torch.einsum("ht,thw->hw", weights_HT, v[: query + 1]).flatten())
    wanted = torch.stack(wanted)
    assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    weights = torch.randn_like(found)
    for ours, theirs in zip(
        *(torch.autograd.grad(one, [projected_ND, bias_HK, added_HTT], weights) for one in (found, wanted)), strict=True
    ):
        assert ours.any()
        assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_without_positions_all_biases_have_gradients():
    """Of a rank whose sessions only fill up the batch: DDP waits for them."""
    rows, projected_NX = HeadRows.of(TOKENS_N[:0], 3, LENGTH, HEADS), torch.randn(0, 3 * HEADS * WIDTH)
    bias_HK, added_HTT = torch.randn(HEADS, TIMES, requires_grad=True), torch.randn(1, 5, 5, requires_grad=True)
    mask_HTT = added_HTT + torch.full((5, 5), -torch.inf).triu(1)
    for mask, biases in ((mask_HTT, [added_HTT]), (TimedMask(mask_HTT, bias_HK, torch.zeros(3, 5, 5)), [bias_HK])):
        attended_ND = attend(projected_NX, rows, mask, True, None, HEADS)
        assert attended_ND.shape == (0, HEADS * WIDTH)
        (gradient,) = torch.autograd.grad(attended_ND.sum(), biases)
        assert torch.equal(gradient, torch.zeros_like(gradient))


@torch.no_grad()
def test_a_masked_play_has_no_time():
    """What happened to it is not read, so that its pause is not either: any other gives the same."""
    config = EncoderConfig("bidirectional", max_length=8, times=True, blocks=1, heads=2, hidden=16)
    encoder = Encoder(config, 16).eval()
    for parameter in encoder.parameters():
        parameter.copy_(torch.randn(parameter.shape) / 2)
    masked_BT = torch.tensor([[False, False, True, False, False]])
    given = torch.randn(1, 5, 16), torch.tensor([5]), masked_BT, None, None
    pauses = torch.tensor([[1, 3, 7, 3, 1]]), torch.tensor([[1, 3, 1023, 3, 1]]), torch.tensor([[1, 3, 7, 1023, 1]])
    found = [encoder.padded(*given, one) for one in pauses]
    assert torch.equal(found[0], found[1]) and not torch.allclose(found[0], found[2])


@torch.no_grad()
def test_a_profiles_token_has_no_bias():
    """Whatever the bias of unknown times, a session of one play reads its profile the same."""
    encoder = Encoder(EncoderConfig(max_length=8, times=True, heads=2, hidden=16), 16, profile=3).eval()
    for parameter in encoder.parameters():
        parameter.copy_(torch.randn(parameter.shape) / 2)
    profile = encoder.profile(torch.randn(1, 3, 16), torch.ones(1, 3, dtype=torch.bool))
    given, found = (torch.randn(1, 1, 16), torch.tensor([[NO_PAUSE]]), profile), []
    for value in (0.0, FAR):
        encoder.time_bias[:, :, 1:] = value  # a play has bucket 0 with itself
        found.append(outputs(encoder, *given))
    assert torch.equal(*found) and found[0].isfinite().all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"encoder": {"times": True}}, "--encoder.times reads the pauses between plays: add pause to --data.inputs"),
        (
            {"encoder": {"times": True, "kind": "gru", "positions": "none"}, "data": {"inputs": ["pause"]}},
            "--encoder.times is a bias of attention, which --encoder.kind gru has not",
        ),
        (
            {
                "encoder": {"times": True, "positions": "learned"},
                "data": {"inputs": ["pause"]},
                "train": {"compile": True, "precision": "bf16"},
            },
            "--train.compile, which is for a GPU, takes no bias of attention: add --encoder.no-times",
        ),
    ],
)
def test_what_it_cannot_be_with(options: dict, sentence: str):
    with pytest.raises((UserError, ValueError), match=sentence):
        from_mapping(named_recipe("best"), options, "options.yaml")
