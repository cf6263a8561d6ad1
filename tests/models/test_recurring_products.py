"""Products of a few shapes against products of all rows at once, and how many shapes there are."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from skipwise.models.recurring_products import RowLinear, add_product, add_product_over_rows, product, rounded


@pytest.fixture(params=["medium", "highest"])
def precision(request):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


def _values(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("num_rows", [0, 1, 63, 64, 65, 200])
def test_products_are_those_of_all_rows(precision, num_rows):
    left_NX, right_XY, other_NY = _values(num_rows, 24), _values(24, 40, seed=1), _values(num_rows, 40, seed=2)
    out_NY, sum_XY = torch.empty(num_rows, 40), torch.ones(24, 40)
    product(left_NX, right_XY, out=out_NY)
    add_product_over_rows(sum_XY, left_NX, other_NY)
    added_NY = out_NY.clone()
    add_product(added_NY, left_NX, right_XY)
    error = {"rtol": 0.02, "atol": 0.15} if precision == "medium" else {"rtol": 1e-5, "atol": 1e-4}
    torch.testing.assert_close(product(left_NX, right_XY), (left_NX.double() @ right_XY.double()).float(), **error)
    assert torch.equal(out_NY, product(left_NX, right_XY))
    torch.testing.assert_close(added_NY, 2 * out_NY, **error)
    torch.testing.assert_close(sum_XY, (1 + left_NX.double().T @ other_NY.double()).float(), **error)


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_and_its_gradients_are_linear_layers(precision, bias):
    ours, theirs = RowLinear(24, 40, bias=bias), torch.nn.Linear(24, 40, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    values, losses = [_values(150, 24).requires_grad_() for _ in range(2)], _values(150, 40, seed=3)
    for layer, values_NX in zip((ours, theirs), values, strict=True):
        (layer(values_NX) * losses).sum().backward()
    error = {"rtol": 0.02, "atol": 0.3} if precision == "medium" else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(values[0].grad, values[1].grad, **error)
    for of_ours, of_theirs in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(of_ours.grad, of_theirs.grad, **error)


def test_a_layer_under_autocast():
    layer, values_NX = RowLinear(24, 40), _values(100, 24)
    with torch.autocast("cpu", torch.bfloat16):
        found_NY = layer(values_NX)
    assert found_NY.dtype == torch.bfloat16
    torch.testing.assert_close(
        found_NY.float(), torch.nn.functional.linear(values_NX, layer.weight, layer.bias), rtol=0.02, atol=0.02
    )
    found_NY.float().sum().backward()
    torch.testing.assert_close(layer.weight.grad, values_NX.sum(0).expand(40, 24), rtol=0.02, atol=0.3)


def test_few_shapes_are_multiplied():
    """Of 64 numbers of rows: all rows but those behind the last multiple of 64, and these."""
    shapes = set()

    class Noting(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm_):
                shapes.add(tuple(tuple(value.shape) for value in args if isinstance(value, torch.Tensor)))
            return function(*args, **(kwargs or {}))

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    layer = RowLinear(24, 40)
    try:
        with Noting():
            for num_rows in range(129, 193):
                layer(_values(num_rows, 24).requires_grad_()).sum().backward()
    finally:
        torch.set_float32_matmul_precision(before)
    assert len(shapes) == 3 * 3  # 64, 128 or 192 rows, forward and both gradients


def test_the_next_multiple():
    assert [rounded(number) for number in (0, 1, 64, 65)] == [0, 64, 64, 128]
