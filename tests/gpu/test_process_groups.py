"""Which backend the product's groups take, and that ranks on cards exchange what they should."""

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from skipwise.common.distributed import (
    broadcast_object,
    device,
    gather_rows,
    on_all_ranks,
    process_group,
    rank,
    sum_ranks,
    world_size,
)
from tests.gpu.test_same_as_cpu import small, steps_of

pytestmark = pytest.mark.gpu


def test_a_group_of_this_process_alone(group: None):
    assert dist.get_backend() == ("nccl" if device().type == "cuda" else "gloo")
    assert (rank(), world_size()) == (0, 1)
    values = torch.arange(3.0, device=device())
    dist.all_reduce(values)
    assert values.tolist() == [0, 1, 2]


def on_rank(number: int, count: int, port: int, path: Path, folder: Path) -> None:
    """One rank, started as torchrun starts it, but for the store, which rank 0 holds."""
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(count)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with process_group():
        here = device()
        assert dist.get_backend() == ("nccl" if here.type == "cuda" else "gloo")
        assert here.type == "cpu" or here.index == torch.cuda.current_device() == number
        assert sum_ranks(torch.tensor([number + 1.0], device=here)).item() == count * (count + 1) / 2
        rows = gather_rows(torch.full((2, 3), float(number), device=here))
        assert rows[:, 0].tolist() == [float(each) for each in range(count) for _ in range(2)]
        assert broadcast_object({"from": number}) == {"from": 0}
        assert on_all_ranks(lambda: number) == number
        found = steps_of(small("unidir-skip-track", path, optimizer="sgd"))
        torch.save(found["losses"] | found["weights"], folder / f"{number}.pt")


@pytest.mark.ranks
def test_a_rank_for_each_card(group: None, sessions_path: Path, tmp_path: Path):
    """All end with the dense weights and the losses that one process has."""
    count = min(torch.cuda.device_count(), 4) if device().type == "cuda" else 2  # the dataset has 4 lanes
    count = 2 if count == 3 else count
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(on_rank, (count, port, sessions_path, tmp_path), nprocs=count)
    alone = steps_of(small("unidir-skip-track", sessions_path, optimizer="sgd"))
    alone = alone["losses"] | alone["weights"]
    for number in range(count):
        found = torch.load(tmp_path / f"{number}.pt")
        assert found.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)
