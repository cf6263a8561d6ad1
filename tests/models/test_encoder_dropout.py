"""The encoder drops the share that its config asks for, at each of its places, in training alone."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from skipwise.models.config import EncoderConfig
from skipwise.models.dropout import Dropout
from skipwise.models.encoder import Encoder
from skipwise.models.head_rows import SHORTEST
from skipwise.models.packed import Packed, Padded

SESSIONS, LENGTH, HEADS, DIM, HIDDEN = 50, 5, 2, 16, 20


def expected(encoder: Encoder, items_ND: Tensor, masks: list[Tensor]) -> Tensor:
    """The encoder written out, unidirectional and without padding; takes the masks in the order of their places."""
    next_mask = iter(masks).__next__
    hidden_ND = next_mask() * encoder.norm(items_ND + encoder.positions.repeat(SESSIONS, 1))
    for block in encoder.blocks:

        def attention(values_ND: Tensor, block: torch.nn.Module = block) -> Tensor:
            parts = block.project(values_ND).view(SESSIONS, LENGTH, 3, HEADS, DIM // HEADS).permute(2, 0, 3, 1, 4)
            scores = parts[0] @ parts[1].transpose(2, 3) / (DIM / HEADS) ** 0.5
            weights = (scores + torch.full((LENGTH, LENGTH), -torch.inf).triu(1)).softmax(dim=3)
            weights = weights * next_mask()[..., :LENGTH, :LENGTH]
            return next_mask() * block.merge((weights @ parts[2]).transpose(1, 2).reshape(-1, DIM))

        def feed_forward(values_ND: Tensor, block: torch.nn.Module = block) -> Tensor:
            inner = torch.relu(block.widen(values_ND)) * next_mask()
            return next_mask() * block.narrow(inner)

        if encoder.config.norm_first:
            hidden_ND = hidden_ND + attention(block.attention_norm(hidden_ND))
            hidden_ND = hidden_ND + feed_forward(block.feed_forward_norm(hidden_ND))
        else:
            hidden_ND = block.attention_norm(hidden_ND + attention(hidden_ND))
            hidden_ND = block.feed_forward_norm(hidden_ND + feed_forward(hidden_ND))
    return encoder.prediction(encoder.final_norm(hidden_ND) if encoder.config.norm_first else hidden_ND)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_each_place_is_masked_by_the_share_asked_for(norm_first: bool, packed: bool, monkeypatch):
    """By a plain computation with the masks that were drawn: of the input, then of each block's weights, attention,
    inner layer and output."""
    config = EncoderConfig(max_length=LENGTH, heads=HEADS, hidden=HIDDEN, dropout=0.3, norm_first=norm_first)
    encoder = Encoder(config, DIM)
    encoder.reset_parameters(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            parameter.mul_(1 if "norm" in name else 10)
    masks, draw = [], Dropout.mask

    def noted(self: Dropout, *arguments) -> Tensor | None:
        masks.append(draw(self, *arguments))
        return masks[-1]

    monkeypatch.setattr(Dropout, "mask", noted)
    places = Packed(SESSIONS, LENGTH, torch.arange(SESSIONS * LENGTH)) if packed else Padded(SESSIONS, LENGTH)
    items_ND = torch.randn(SESSIONS * LENGTH, DIM)
    given = items_ND, places, torch.full((SESSIONS,), LENGTH), torch.zeros(SESSIONS, LENGTH, dtype=torch.bool)
    with torch.no_grad():
        found = encoder(*given)
        assert_close(found, expected(encoder, items_ND, masks), rtol=1e-4, atol=1e-5)
        length = SHORTEST if packed else LENGTH
        block = [(SESSIONS, HEADS, length, length), (SESSIONS * LENGTH, DIM), (SESSIONS * LENGTH, HIDDEN)]
        assert [mask.shape for mask in masks] == [block[1], *(block + block[1:2]) * 2]
        for mask in masks:
            tolerance = 4 * (0.3 * 0.7 / mask.numel()) ** 0.5
            assert (mask == 0).float().mean().item() == pytest.approx(0.3, abs=tolerance)
        ones = [torch.ones(1, 1)] * len(masks)
        assert_close(encoder.eval()(*given), expected(encoder, items_ND, ones), rtol=1e-4, atol=1e-5)
