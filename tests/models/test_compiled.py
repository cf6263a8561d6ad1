"""The encoder's blocks as one compiled graph: what the blocks give one after another, for any number of positions."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from skipwise.components.recipes import named_recipe
from skipwise.models import encoder as encoder_module
from skipwise.models import fused, pool
from skipwise.models.config import EncoderConfig
from skipwise.models.dropout import Dropout
from skipwise.models.encoder import Encoder
from skipwise.models.packed import Packed
from skipwise.training.config import RunConfig

SESSIONS, LENGTH, DIM = 6, 12, 16


def in_one_product(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, *_: object) -> Tensor:
    """Causal attention of all sessions side by side, in place of the GPU's kernel, which this machine lacks."""
    place_N = torch.arange(query.shape[1])
    session_N = torch.searchsorted(starts, place_N, right=True)
    hidden_NN = (session_N[:, None] != session_N) | (place_N[:, None] < place_N)
    scores = torch.einsum("anhw,amhw->ahnm", query, key) / query.shape[-1] ** 0.5
    return torch.einsum("ahnm,amhw->anhw", scores.masked_fill(hidden_NN, -torch.inf).softmax(-1), value)


@pytest.mark.parametrize("kind", ["transformer", pytest.param("ligr", marks=pytest.mark.soak)])
def test_gives_what_the_blocks_give(kind: str, monkeypatch):
    """Traced as a whole, and not again for other lengths; without the making of kernels, which takes a minute."""
    monkeypatch.setattr(fused, "takes", lambda *_: True)
    monkeypatch.setattr(fused, "_kernel", in_one_product)
    monkeypatch.setattr(Dropout, "forward", lambda self, values: values)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    encoder_module._compiled.cache_clear()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    config = EncoderConfig(kind=kind, heads=2, hidden=32, max_length=LENGTH, norm_first=kind == "transformer")
    plain, compiled = (Encoder(config, DIM, compiled=whether).train() for whether in (False, True))
    for encoder in (plain, compiled):
        encoder.reset_parameters(torch.Generator().manual_seed(0))
    for seed in range(3):
        random = torch.Generator().manual_seed(seed)
        lengths_B = torch.randint(1, LENGTH + 1, (SESSIONS,), generator=random)
        tokens_N = (torch.arange(LENGTH) < lengths_B[:, None]).flatten().nonzero().squeeze(1)
        items_ND = torch.randn(len(tokens_N), DIM, generator=random)
        places = Packed(SESSIONS, LENGTH, tokens_N)
        given = items_ND, places, lengths_B, torch.zeros(SESSIONS, LENGTH, dtype=torch.bool)
        found, expected = compiled(*given), plain(*given)
        assert_close(found, expected)
        for encoder, output_ND in ((compiled, found), (plain, expected)):
            encoder.zero_grad()
            output_ND.square().sum().backward()
        for one, other in zip(compiled.parameters(), plain.parameters(), strict=True):
            assert_close(one.grad, other.grad)
    encoder_module._compiled.cache_clear()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_the_head_gives_what_it_gave(monkeypatch):
    """Losses, the targets' gradients, and in the place of the logits theirs; some are left out."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    pool.compiled_softmax_head.cache_clear()
    for rows, places in ((5, 7), (9, 4)):
        target, logits = torch.randn(rows), torch.randn(rows, places)
        logits[1, 2], logits[3] = -torch.inf, -torch.inf
        compiled_logits = logits.clone()
        found = pool.compiled_softmax_head()(target.clone(), compiled_logits)
        expected = pool.softmax_head(target.clone(), logits)
        assert_close((*found, compiled_logits), (*expected, logits))
    pool.compiled_softmax_head.cache_clear()


@pytest.mark.gpu
@pytest.mark.timeout(600)
@pytest.mark.parametrize("profile", [False, True])
def test_gives_what_the_blocks_give_on_a_gpu(profile: bool):
    """In bfloat16, as kernels; and with dropout, finite."""
    config = EncoderConfig(heads=2, hidden=32, max_length=LENGTH, dropout=0.0)
    plain, compiled = (Encoder(config, DIM, profile=3 * profile, compiled=whether).train() for whether in (False, True))
    for encoder in (plain, compiled):
        encoder.reset_parameters(torch.Generator().manual_seed(0))
        encoder.cuda()
    for seed in range(3):
        random = torch.Generator().manual_seed(seed)
        lengths_B = torch.randint(1, LENGTH + 1, (SESSIONS,), generator=random)
        tokens_N = (torch.arange(LENGTH) < lengths_B[:, None]).flatten().nonzero().squeeze(1).cuda()
        items_ND = torch.randn(len(tokens_N), DIM, generator=random).cuda()
        masked_BT = torch.zeros(SESSIONS, LENGTH, dtype=torch.bool, device="cuda")
        rows_BKD = torch.randn(SESSIONS, 3, DIM, generator=random).cuda()
        outputs = []
        for encoder in (compiled, plain):
            encoder.zero_grad()
            with torch.autocast("cuda", torch.bfloat16):
                read = encoder.profile(rows_BKD, torch.ones(SESSIONS, 3, device="cuda").bool()) if profile else None
                places = Packed(SESSIONS, LENGTH, tokens_N)
                output_ND = encoder(items_ND, places, lengths_B.cuda(), masked_BT, None, read)
            output_ND.float().square().sum().backward()
            outputs.append(output_ND.detach().float())
        assert (outputs[0] - outputs[1]).norm() < 0.02 * outputs[1].norm()
        for one, other in zip(compiled.parameters(), plain.parameters(), strict=True):
            assert (one.grad - other.grad).norm() < 0.05 * other.grad.norm() + 1e-3
    compiled.dropout.share = 0.5
    with torch.autocast("cuda", torch.bfloat16):
        assert compiled(items_ND, places, lengths_B.cuda(), masked_BT, None, read).isfinite().all()


def test_is_refused_where_it_would_break_up():
    config = named_recipe("unidir-skip-track")
    train = replace(config.train, precision="bf16", compile=True)
    assert replace(config, train=train).train.compile
    with pytest.raises(ValueError, match="torch sees none here"):
        replace(config, train=train).check_device("cpu")
    plain = replace(RunConfig().encoder, positions="learned", times=False)
    assert replace(RunConfig(), train=train, encoder=plain).train.compile
    for other, remedy in (
        ({"train": replace(train, precision="fp32")}, "set --train.precision bf16 in place of fp32"),
        ({"encoder": replace(plain, kind="hstu")}, "compiles no --encoder.kind hstu: take transformer or ligr"),
        ({"encoder": replace(plain, positions="relative")}, "--encoder.positions learned or none in place of relative"),
        ({"encoder": replace(plain, times=True)}, "add --encoder.no-times"),
        ({"encoder": replace(plain, heads=1)}, "not 1 of 128: change --encoder.heads or --table.dim"),
        ({"encoder": replace(plain, heads=32)}, "not 32 of 4: change"),
    ):
        with pytest.raises(ValueError, match=f"^--train.compile, which is for a GPU, .*{remedy}.*leave .* out$"):
            replace(RunConfig(), **({"train": train, "encoder": plain} | other))
