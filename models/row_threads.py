"""The rows of a table in parts, one for each of torch's threads: a thread goes through all operations on its own rows.

So no thread waits for the others behind each operation, or reads what another one wrote.

Shape legend: R rows, D width.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

_FEWEST_SCORES = 1 << 19
"""Of a thread; below it, one is not worth starting."""
Of = TypeVar("Of")


def by_threads(
    of_part: Callable[[int, Tensor], Of], num_queries: int, multiple: int, first: int, rows_RD: Tensor
) -> list[Of]:
    """What `of_part` returns for the first row and the rows of each part, in their order; all but the last part have a
    `multiple` of rows. On a GPU, and where there is little to do, all rows are one part, and the calling thread's."""
    threads = min(torch.get_num_threads(), num_queries * len(rows_RD) // _FEWEST_SCORES)
    if rows_RD.is_cuda or threads <= 1:
        return [of_part(first, rows_RD)]
    step = -(-len(rows_RD) // (multiple * threads)) * multiple
    inference, before = torch.is_inference_mode_enabled(), torch.get_num_threads()

    def alone(start: int) -> Of:
        torch.set_num_threads(1)
        with torch.inference_mode(inference), torch.no_grad():
            return of_part(first + start, rows_RD[start : start + step])

    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(alone, range(0, len(rows_RD), step)))
    finally:
        torch.set_num_threads(before)  # what threads that start later begin with, too
