"""The keep head's recurrent state against PyTorch's own, and its gradients against finite differences."""

import pytest
import torch
from torch.testing import assert_close

from skipwise.common.product_precision import products_at
from skipwise.models.recurrence import Recurrence, _States


@pytest.mark.parametrize(("sessions", "length"), [(3, 7), (1, 1), (5, 20), (0, 4)])
def test_states_and_gradients_are_those_of_pytorch(sessions: int, length: int):
    torch.manual_seed(0)
    network = Recurrence(12, 8)
    values, weights = torch.randn(sessions, length, 12, requires_grad=True), torch.randn(sessions, length, 8)
    found = network.states(values)
    expected = network(values)[0]
    assert_close(found, expected)
    inputs = [values, *network.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad((found * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    ):
        assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_gradients_are_finite_differences():
    torch.manual_seed(0)
    network = Recurrence(3, 2).double()
    values = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(_States.apply, (values, *network._flat_weights))


def test_rounded_products_do_not_round_states():
    torch.manual_seed(0)
    network, values = Recurrence(12, 8), torch.randn(3, 7, 12)
    exact = network.states(values)
    with products_at("medium"):
        assert torch.equal(network.states(values), exact)
        assert torch.get_float32_matmul_precision() == "medium"
    with torch.no_grad():
        assert_close(network.states(values), exact)
