"""In-batch negatives with log-q correction: full softmax, worked numbers, a plain loop, and unlike batches on ranks."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from skipwise.datapipes.batch import FEATURE, SessionBatch
from skipwise.models import pool
from skipwise.models.config import EncoderConfig, LossConfig
from skipwise.models.in_batch import in_batch_pool
from skipwise.models.packed import Packed
from skipwise.models.task import Learner
from tests.ranks import run_on_ranks

DIM, BAGS = 6, 40
LOSS = LossConfig(context="none", alpha=0.0, beta=1.0, in_batch=True)
EXACT = replace(LOSS, log_q="negatives")

Plays = list[list[int]]
"""Sessions as track rows; each track but a session's first is the target of the one before it."""


class Fixed(nn.Module):
    """An encoder that has the predictions [B, T, D] already."""

    def __init__(self, predictions_BTD: Tensor):
        super().__init__()
        self.predictions_BTD, self.config, self.profile, self.compiled = predictions_BTD, EncoderConfig(), None, False

    def forward(self, items_ND: Tensor, places: Packed, *_: Tensor) -> Tensor:
        return places.collect(self.predictions_BTD)


def make_batch(
    sessions: Plays, share: Tensor, uniform: Sequence[int] = (), pool_share: tuple[int, int] = (0, 1)
) -> SessionBatch:
    """`share`: of the training plays, by track; `uniform`: the shared pool, of which a rank has its share."""
    negatives, uniform = len(uniform), uniform[pool_share[0] :: pool_share[1]]
    rows = sorted({row for session in [*sessions, uniform] for row in session})
    bag, width, empty = {row: number for number, row in enumerate(rows)}, max(map(len, sessions)), BAGS - 1
    items, targets = torch.full((2, len(sessions), width), empty)
    for number, session in enumerate(sessions):
        items[number, : len(session)] = torch.tensor([bag[row] for row in session])
        targets[number, : max(len(session) - 1, 0)] = items[number, 1 : len(session)]
    reads_N = torch.tensor(
        [number * width + place for number, session in enumerate(sessions) for place in range(len(session) - 1)],
        dtype=torch.long,
    )
    log_q = torch.zeros(BAGS)
    log_q[: len(rows)] = share[rows].log()
    lengths = torch.tensor([1] * len(rows) + [0] * (BAGS - len(rows)))
    return SessionBatch(
        tracks=KeyedJaggedTensor(keys=[FEATURE], values=torch.tensor(rows, dtype=torch.long), lengths=lengths),
        items_BT=items,
        skipped_BT=torch.zeros_like(items, dtype=torch.bool),
        known_BT=torch.ones_like(items, dtype=torch.bool),
        signals_BTC=torch.zeros(*items.shape, 0, dtype=torch.long),
        inputs_B=torch.tensor([max(len(session) - 1, 0) for session in sessions]),
        masked_BT=torch.zeros_like(items, dtype=torch.bool),
        targets_BT=targets,
        tokens_N=reads_N,
        queries_V=reads_N,
        judged_J=reads_N[:0],
        judged_tracks_J=reads_N[:0],
        judged_kept_J=torch.zeros(0),
        negatives_P=torch.tensor([bag[row] for row in uniform], dtype=torch.long),
        window_B2=torch.tensor([[0, len(uniform)]] * len(sessions)),
        collides_X2=torch.zeros(0, 2, dtype=torch.long),
        collides_Y2=torch.zeros(0, 2, dtype=torch.long),
        skips_of_B=torch.zeros(0, dtype=torch.long),
        log_q_U=log_q,
        entries_E=torch.tensor(
            sorted({*targets.flatten().tolist(), *(bag[row] for row in uniform)} - {BAGS - 1}), dtype=torch.long
        ),
        numbers_UF=torch.zeros(0, 0),
        shares_UC=torch.zeros(0, 0),
        own_U=torch.zeros(0),
        profile_BK=torch.zeros(len(sessions), 0, dtype=torch.long),
        session_B=torch.arange(len(sessions)),
        drawn_from=len(share),
        negatives=negatives,
        epoch=1,
        step=0,
    )


def run(
    table: Tensor, predictions_BTD: Tensor, batch: SessionBatch, config: LossConfig = LOSS, heard: bool = False
) -> tuple[Tensor, Tensor]:
    """The loss to run backward on and the global mean."""
    looked_up = table[batch.tracks.values()]
    rows_UD = torch.cat([looked_up, torch.zeros(BAGS - len(looked_up), table.shape[1])])
    loss, parts = Learner(Fixed(predictions_BTD), config, None, len(table), heard)(rows_UD, batch)
    return loss, parts.nll


def test_every_track_once_and_alike_is_the_full_softmax():
    """Sessions (0, 1), (1, 2), ... (19, 0): each track is a target once, and each session's first track is left out."""
    generator = torch.Generator().manual_seed(0)
    table, queries = torch.randn(20, DIM, generator=generator), torch.randn(20, 1, DIM, generator=generator)
    sessions = [[row, (row + 1) % 20] for row in range(20)]
    _, mean = run(table, nn.functional.pad(queries, (0, 0, 0, 1)), make_batch(sessions, torch.full((20,), 1 / 20)))
    logits = queries[:, 0] @ table.T
    logits[torch.arange(20), torch.arange(20)] = -math.inf
    assert_close(mean, nn.functional.cross_entropy(logits, (torch.arange(20) + 1) % 20))


@pytest.mark.parametrize("uniform", [[], [5, 1]])
def test_two_sessions_worked_by_hand(uniform: list[int]):
    """Sessions (0, 1) and (2, 3, 4); of 10 tracks 1 is half of the plays, 3 and 4 a quarter each; all logits 0.

    The three targets 1, 3, 4 are expected 3/2, 3/4 and 3/4 times, so they weigh 2/3, 4/3 and 4/3. The first session
    meets 3 and 4: -log((2/3) / (2/3 + 4/3 + 4/3)) = log 5. The second meets 1 alone, from 3 and from 4: log(3/2).

    With the uniform negatives 5 and 1 each track is expected 2/10 times more: 1.7 for 1, 0.95 for 3 and 4, 0.2 for 5.
    The first session meets 3, 4 and 5, not the 1 it contains; the second meets 5 once and 1 twice.
    """
    share = torch.zeros(10).index_fill(0, torch.tensor([0, 2, 5]), 1e-30)
    share[1], share[3], share[4] = 0.5, 0.25, 0.25
    _, mean = run(torch.ones(10, DIM), torch.zeros(2, 3, DIM), make_batch([[0, 1], [2, 3, 4]], share, uniform))
    expected = [math.log(5), math.log(3 / 2), math.log(3 / 2)]
    if uniform:
        one, three, five = 1 / 1.7, 1 / 0.95, 1 / 0.2
        expected = [-math.log(one / (one + 2 * three + five)), *[-math.log(three / (three + 2 * one + five))] * 2]
    assert_close(mean, torch.tensor(sum(expected) / 3))


def plain_loop(
    table: Tensor,
    predictions_BTD: Tensor,
    sessions: Plays,
    share: Tensor,
    uniform: list[int],
    exact: bool = False,
    heard: bool = False,
) -> Tensor:
    """The mean loss, over the pool entry by entry."""
    targets = [row for session in sessions for row in session[1:]]
    losses = []
    for number, session in enumerate(sessions):
        drawn = len(targets) - (len(session) - 1 if exact else 0)
        log_p = [math.log(max(drawn, 1) * share[row] + len(uniform) / len(table)) for row in range(len(table))]
        for place, target in enumerate(session[1:]):
            entries = [row for row in targets + uniform if row not in session]
            read = sorted({*session[: place + 1]} - {target}) if heard else []
            of_query = predictions_BTD[number, place]
            logits = [of_query @ table[target] - (0 if exact else log_p[target])]
            logits += [of_query @ table[row] for row in read]
            logits += [of_query @ table[row] - log_p[row] for row in entries]
            losses.append(-torch.stack(logits).log_softmax(0)[0])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("uniform", [[], [5, 1]])
def test_exact_targets_worked_by_hand(uniform: list[int]):
    """The same sessions and shares. The first meets two targets of others, so 3 and 4 are expected 2/4 times each and
    weigh 2; its target weighs 1: log(1 + 2 + 2). The second meets one, 1, expected 1/2 times: log(1 + 2).

    With the uniform negatives 5 and 1 each is expected 2/10 times more: .7 for 3, 4 and 1, .2 for 5.
    """
    share = torch.zeros(10).index_fill(0, torch.tensor([0, 2, 5]), 1e-30)
    share[1], share[3], share[4] = 0.5, 0.25, 0.25
    batch = make_batch([[0, 1], [2, 3, 4]], share, uniform)
    _, mean = run(torch.ones(10, DIM), torch.zeros(2, 3, DIM), batch, EXACT)
    expected = [math.log(5), math.log(3), math.log(3)]
    if uniform:
        expected = [math.log(1 + 2 / 0.7 + 1 / 0.2)] * 3
    assert_close(mean, torch.tensor(sum(expected) / 3))


def test_exact_targets_expect_the_sum_over_all_other_tracks():
    """All pairs of targets that two other sessions may have, by their probability: the mean is the full sum."""
    generator = torch.Generator().manual_seed(5)
    share, scores = torch.rand(5, generator=generator).softmax(0), torch.randn(5, generator=generator)
    total = torch.zeros(())
    for one, two in itertools.product(range(5), repeat=2):
        batch = make_batch([[0, 1], [0, one], [0, two]], share)
        rows_UD = torch.zeros(BAGS, 1)
        rows_UD[: len(batch.tracks.values()), 0] = scores[batch.tracks.values()]
        rows_WD, bias_BW, target_U = in_batch_pool(rows_UD, batch, 5, exact_targets=True)
        total += share[one] * share[two] * (rows_WD[:, 0] + bias_BW[0]).exp().sum()
        assert not target_U.any()
    assert_close(total, scores[2:].exp().sum())


def test_more_entries_change_no_sum():
    """As many as recur, of which those without weight are hidden from every session."""
    table, _, share = known()
    batch = make_batch([[0, 1], [2, 3, 4, 3], [7, 5]], share, [8, 1, 9])
    looked_up = table.detach()[batch.tracks.values()]
    rows_UD = torch.cat([looked_up, torch.zeros(BAGS - len(looked_up), table.shape[1])])
    rows_WD, bias_BW, _ = in_batch_pool(rows_UD, batch, 12)
    more_WD, hidden_BW, _ = in_batch_pool(rows_UD, batch, 12, pad=True)
    assert len(rows_WD) < len(more_WD) == BAGS  # fewer than are rounded up to
    assert torch.equal(more_WD[: len(rows_WD)], rows_WD)
    assert torch.equal(hidden_BW[:, : len(rows_WD)], bias_BW)
    assert (hidden_BW[:, len(rows_WD) :] == float("-inf")).all()


def test_exact_targets_have_the_published_gradient():
    """(1 - P) times the gradient of the loss over negatives alone, P the target's share of the estimated sum."""
    table, predictions, share = known()
    sessions, uniform = [[0, 1], [2, 3, 4, 3], [7, 5]], [8, 1, 9]
    predictions = predictions[:3, :4].requires_grad_()
    loss, _ = run(table, predictions, make_batch(sessions, share, uniform), EXACT)
    targets, losses = [row for session in sessions for row in session[1:]], []
    for number, session in enumerate(sessions):
        for place, target in enumerate(session[1:]):
            entries = [row for row in targets + uniform if row not in session]
            others = len(targets) - len(session) + 1
            expected = torch.tensor([others * share[row] + len(uniform) / 12 for row in entries])
            logits = table[entries] @ predictions[number, place] - expected.log()
            of_target = table[target] @ predictions[number, place]
            weight = 1 - (of_target - torch.logaddexp(of_target, logits.logsumexp(0))).exp()
            losses.append(weight.detach() * (logits.logsumexp(0) - of_target))
    wanted = torch.autograd.grad(torch.stack(losses).mean(), [table, predictions])
    for one, other in zip(torch.autograd.grad(loss, [table, predictions]), wanted, strict=True):
        assert_close(one, other, rtol=1e-4, atol=1e-6)


PLAYS = st.lists(st.lists(st.integers(0, 11), min_size=0, max_size=5), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    sessions=PLAYS.filter(lambda sessions: any(len(session) > 1 for session in sessions)),
    uniform=st.lists(st.integers(0, 11), unique=True, max_size=4),
    chunk=st.sampled_from([1, 3, 256]),
    kind=st.sampled_from([(False, False), (True, False), (True, True)]),
)
def test_loss_and_gradients_equal_a_plain_loop(
    seed: int, sessions: Plays, uniform: list[int], chunk: int, kind: tuple[bool, bool]
):
    """In chunks or at once; repeats in and between sessions, sessions with nothing to predict, one alone included."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(12, DIM, generator=generator, requires_grad=True)
    shape = len(sessions), max(map(len, sessions)), DIM
    predictions = torch.randn(shape, generator=generator, requires_grad=True)
    share = torch.rand(12, generator=generator).softmax(0)
    with patch.object(pool, "_SHARED_ROWS", chunk):
        batch = make_batch(sessions, share, uniform)
        loss, mean = run(table, predictions, batch, EXACT if kind[0] else LOSS, heard=kind[1])
    expected = plain_loop(table, predictions, sessions, share, uniform, *kind)
    assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    assert_close(loss.detach(), mean)
    for found, wanted in zip(
        torch.autograd.grad(loss, [table, predictions]),
        torch.autograd.grad(expected, [table, predictions]),
        strict=True,
    ):
        assert_close(found, wanted, rtol=1e-4, atol=1e-5)


RANKS = [[[0, 1, 2, 3, 1], [4, 1]], [[5, 6], [1, 7]], [[], []]]
"""Sessions by rank: longer on one than on another, one track on two of them, and a rank that only fills up."""


def rank_gradients(uniform: list[int], exact: bool) -> tuple[Tensor, Tensor]:
    """The global mean, and the table's gradient averaged over ranks as TorchRec does it."""
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    sessions = RANKS[rank] if ranks > 1 else sum(RANKS, [])
    table, predictions, share = known()
    places = 2 * rank, max(1, *map(len, sessions))
    batch = make_batch(sessions or [[]], share, uniform, (rank, ranks))
    predictions_BTD = predictions[places[0] : places[0] + len(sessions), : batch.items_BT.shape[1]]
    loss, mean = run(table, predictions_BTD, batch, EXACT if exact else LOSS)
    loss.backward()
    torch.distributed.all_reduce(table.grad)
    return mean, table.grad / ranks


def known() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    table = torch.randn(12, DIM, generator=generator, requires_grad=True)
    predictions = torch.randn(6, 5, DIM, generator=generator)
    return table, predictions, torch.rand(12, generator=generator).softmax(0)


@pytest.mark.ranks
@pytest.mark.parametrize(("uniform", "exact"), [([], False), ([8, 1, 9, 5], True)])
def test_unlike_ranks_make_one_pool(uniform: list[int], exact: bool, tmp_path: Path):
    table, predictions, share = known()
    expected = plain_loop(table, predictions, sum(RANKS, []), share, uniform, exact)
    expected.backward()
    for count in (1, 3):
        for mean, gradient in run_on_ranks(tmp_path, count, rank_gradients, uniform, exact):
            assert_close(mean, expected.detach())
            assert_close(gradient, table.grad, rtol=1e-4, atol=1e-6)
