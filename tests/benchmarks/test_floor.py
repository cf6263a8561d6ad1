"""The floor's formula by hand, and that rates are measured at all."""

import torch

from skipwise.benchmarks.harness.floor import Rates, Work, floor_seconds, measure_rates

WORK = Work(
    positions=10,
    squares=30,
    targets=5,
    negatives=7,
    per_session=False,
    lookups=22,
    unique=20,
    dim=4,
    hidden=8,
    blocks=2,
    number_bytes=2,
)


def test_by_hand():
    # Each rate another power of two, so that a term at a wrong rate shows.
    rates = Rates(encoder=1024, logits=8, query_gradient=4, negative_gradient=2, copy=512)
    # A position and block: 4 * 4 * 4 + 2 * 4 * 8 = 128 weights; 10 positions, 2 blocks, 2 operations, thrice.
    encoder = 128 * 10 * 2 * 2 * 3
    # 30 pairs of positions, 4 wide, scores and sums, 2 blocks, 2 operations, thrice.
    attention = 30 * 4 * 2 * 2 * 2 * 3
    assert (encoder, attention) == (15360, 2880)
    one_product = 2 * 5 * 7 * 4
    # 16 bytes a row: 2 for each lookup and 8 for each distinct row; 35 logits of 2 bytes, four times.
    row_bytes, logit_bytes = 16 * (44 + 160), 35 * 2 * 4
    expected = 18240 / 1024 + one_product * (1 / 8 + 1 / 4 + 1 / 2) + (row_bytes + logit_bytes) / 512
    assert floor_seconds(WORK, rates) == expected == 17.8125 + 245 + 6.921875


def test_rates_of_both_kinds_of_negatives_leave_the_precision_as_it_was(monkeypatch):
    monkeypatch.setattr("skipwise.benchmarks.harness.floor._SECONDS_EACH", 0.0)
    monkeypatch.setattr("skipwise.benchmarks.harness.floor._COPIED_NUMBERS", 1024)
    before = torch.get_float32_matmul_precision()
    for precision in ("fp32", "bf16"):
        for per_session in (False, True):
            work = Work(**{**vars(WORK), "per_session": per_session})
            rates = measure_rates(work, 2, precision, torch.device("cpu"))
            assert all(value > 0 for value in vars(rates).values())
    assert torch.get_float32_matmul_precision() == before
