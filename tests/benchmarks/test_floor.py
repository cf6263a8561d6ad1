"""The floor's formula by hand, and that rates are measured at all."""

import pytest
import torch

from skipwise.benchmarks.harness import floor
from skipwise.benchmarks.harness.floor import Rates, Work, floor_seconds, measure_rates

WORK = Work(
    positions=10,
    pairs=30,
    targets=5,
    negatives=7,
    lookups=22,
    unique=20,
    dim=4,
    hidden=8,
    blocks=2,
    heads=3,
    number_bytes=2,
)


def test_by_hand():
    # Each rate another power of two, so that a term at a wrong rate shows.
    rates = Rates(product=1024, copy=512, cache=64)
    # A position and block: 4 * 4 * 4 + 2 * 4 * 8 = 128 weights; 10 positions, 2 blocks, 2 operations, thrice.
    encoder = 128 * 10 * 2 * 2 * 3
    # 30 pairs of positions, 4 wide, scores and sums, 2 blocks, 2 operations, thrice.
    attention = 30 * 4 * 2 * 2 * 2 * 3
    # 35 logits, 4 wide, 2 operations, thrice.
    logits = 35 * 4 * 2 * 3
    assert (encoder, attention, logits) == (15360, 2880, 840)
    # 16 bytes a row: 2 for each lookup and 8 for each distinct row.
    row_bytes = 16 * (44 + 160)
    # A block: twice 40 numbers with a residual, 6 each; 80 of the activation and 90 of the softmax, 5 each.
    elements = 2 * (2 * 40 * 6 + 80 * 5 + 90 * 5) + 35 * 2
    expected = 19080 / 1024 + row_bytes / 512 + 2 * elements / 64
    assert floor_seconds(WORK, rates) == expected == 18.6328125 + 6.375 + 85.3125


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rates_leave_the_precision_as_it_was(precision: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("skipwise.benchmarks.harness.floor._SECONDS_EACH", 0.0)
    monkeypatch.setattr("skipwise.benchmarks.harness.floor._COPIED_NUMBERS", 1024)
    monkeypatch.setattr("skipwise.benchmarks.harness.floor._SQUARE", 64)
    before = torch.get_float32_matmul_precision()
    assert all(value > 0 for value in vars(measure_rates(WORK, precision, torch.device("cpu"))).values())
    assert torch.get_float32_matmul_precision() == before


def test_the_best_product_counts(monkeypatch: pytest.MonkeyPatch):
    """The rate is that of the best shape, so a step of other shapes cannot pass the floor."""
    seen, precisions = [], set()

    def rate(shape, dtype, device):
        seen.append(shape)
        precisions.add(torch.get_float32_matmul_precision())
        return float(len(seen))

    monkeypatch.setattr("skipwise.benchmarks.harness.floor._SECONDS_EACH", 0.0)
    monkeypatch.setattr("skipwise.benchmarks.harness.floor._product_rate", rate)
    monkeypatch.setattr("skipwise.benchmarks.harness.floor._copy_rate", lambda numbers, device: float(numbers))
    assert measure_rates(WORK, "fp32", torch.device("cpu")) == Rates(5.0, floor._COPIED_NUMBERS, floor._CACHED_NUMBERS)
    assert precisions == {"medium"}
    assert seen == [(2048, 2048, 2048), (10, 4, 12), (5, 4, 7), (5, 7, 4), (7, 5, 4)]
    measure_rates(WORK, "fp32", torch.device("cpu"), "highest")
    assert precisions == {"medium", "highest"}
