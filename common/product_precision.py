"""How exact float32 products are: on a GPU, cuDNN's convolutions and recurrent networks as well as matrix products."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager


def set_product_precision(precision: str) -> None:
    """Sets what `torch.set_float32_matmul_precision` does: "highest", "high" or "medium".

    cuDNN has a switch of its own, and takes TF32 unless told otherwise: here it does so below "highest" alone.
    """
    import torch

    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = precision != "highest"


@contextmanager
def products_at(precision: str) -> Iterator[None]:
    """`set_product_precision`, and what was set before at the end."""
    import torch

    before, of_cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    set_product_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.allow_tf32 = of_cudnn


def exact_products() -> AbstractContextManager[None]:
    """Full float32 products, whatever precision training uses."""
    return products_at("highest")
