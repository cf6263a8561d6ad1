"""What is set, and that nothing stays set beyond an evaluation."""

import torch

from skipwise.common.product_precision import exact_products, set_product_precision


def state() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


def test_cudnn_follows():
    before = torch.backends.cudnn.allow_tf32
    try:
        for precision in ("medium", "high", "highest", "medium"):
            set_product_precision(precision)
            assert state() == (precision, precision != "highest")
        with exact_products():
            assert state() == ("highest", False)
        assert state() == ("medium", True)
    finally:
        torch.backends.cudnn.allow_tf32 = before
