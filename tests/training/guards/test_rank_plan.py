"""What ranks send: by hand, and as torch's profiler sees their collectives; the lines of a plan."""

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from torch.profiler import ProfilerActivity, profile

from skipwise.common.distributed import rank, world_size
from skipwise.components.recipes import RECIPES
from skipwise.datapipes.sessions import SessionStore
from skipwise.models.config import TableConfig
from skipwise.training.build import build_model, train_loader
from skipwise.training.config import RunConfig
from skipwise.training.guards.memory_needs import bags_of, dense_weights
from skipwise.training.guards.rank_plan import Ranks, lookup_bytes, plan_lines, traffic
from skipwise.training.trainer import Trainer
from tests.conftest import random_sessions
from tests.ranks import run_on_ranks

TRACKS = 203
TWO_NODES = Ranks(4, 2, 80.0)


def small(sharding: str, path: Path = Path("data"), **table) -> RunConfig:
    """More negatives than tracks: a rank's batch has a bag for each track, and the empty one."""
    config = RECIPES["unidir-skip-track"]()
    return replace(
        config,
        data=replace(config.data, path=str(path), batch_size=24, lanes=4, negatives=TRACKS, workers=0),
        table=TableConfig(dim=16, optimizer="sgd", sharding=sharding, **table),
        encoder=replace(config.encoder, heads=2, hidden=16, max_length=12),
    )


def test_traffic_by_hand():
    """204 bags of 16 numbers on 4 ranks, 2 on a node."""
    row, dense = 204 * 16 * 4, 2 * 4 * dense_weights(small("grid")) / 4
    ids, rows, gradients, sums = traffic(small("row_wise"), TRACKS, TWO_NODES)
    assert (ids.inside, ids.between) == (4 * 204 + 51 * 4, 2 * (4 * 204 + 51 * 4))
    assert (rows.inside, rows.between) == (gradients.inside, gradients.between) == (row, 2 * row)
    assert (sums.inside, sums.between) == (dense, 2 * dense)
    ids, rows, _, _ = traffic(small("grid"), TRACKS, TWO_NODES)
    assert (ids.inside, ids.between) == (4 * 204 + 102 * 4, 2 * (4 * 204 + 102 * 4))
    assert (rows.inside, rows.between) == (row, row / 2)
    _, rows, _, _ = traffic(small("grid", exchange="half"), TRACKS, TWO_NODES)
    assert (rows.inside, rows.between) == (row / 2, row / 4)
    assert lookup_bytes(small("row_wise"), TRACKS, TWO_NODES) == 2 * 4 * row
    assert lookup_bytes(small("grid"), TRACKS, TWO_NODES) == 2 * 2 * row


def collectives(config: RunConfig) -> list[tuple[str, list[list[int]]]]:
    """The collectives of the second step, and the shapes of what they are given."""
    if config.table.sharding == "grid":
        local = world_size() // 2
        os.environ |= {"LOCAL_WORLD_SIZE": str(local), "LOCAL_RANK": str(rank() % local)}
    store = SessionStore(config.data.path)
    trainer = Trainer(config, build_model(config, store.num_tracks), 20)
    steps = trainer.steps(train_loader(config, store).epoch(1))
    next(steps)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        next(steps)
    return [(event.name, event.input_shapes) for event in seen.events() if event.name.startswith("c10d::")]


@pytest.mark.soak
@pytest.mark.ranks
def test_the_plan_is_what_is_sent(make_dataset, tmp_path: Path):
    data = make_dataset(random_sessions(115, TRACKS), TRACKS)
    bags, dim = bags_of(small("grid"), TRACKS, 12, 4), 16
    (row_wise, *_), (grid, *_) = (
        run_on_ranks(tmp_path, 4, collectives, small(sharding, data)) for sharding in ("row_wise", "grid")
    )
    lookup = "c10d::_reduce_scatter_base_", [[bags, dim], [4 * bags, dim]]
    back = "c10d::_allgather_base_", [[4 * bags, dim], [bags, dim]]
    lengths = "c10d::alltoall_base_", [[4 * bags], [4 * bags]]
    for name, shapes in (lookup, back, lengths):
        assert any((name, shapes) == (seen, given[:2]) for seen, given in row_wise), row_wise
    lookup = "c10d::_reduce_scatter_base_", [[2 * bags, dim // 2], [4 * bags, dim // 2]]
    back = "c10d::_allgather_base_", [[4 * bags, dim // 2], [2 * bags, dim // 2]]
    between = "c10d::alltoall_base_", [[2 * bags * dim // 2], [2 * bags * dim // 2]]
    for name, shapes in (lookup, back, lengths, between):
        assert any((name, shapes) == (seen, given[:2]) for seen, given in grid), grid


def test_measured_rates_are_told_from_assumed_ones():
    """The times of the default rates, scaled."""

    def times(**given: float) -> tuple[float, float, float, str]:
        lines, _ = plan_lines(small("row_wise"), 10**8, replace(TWO_NODES, **given))
        number = r"([0-9.]+)"
        told = rf"communication of a step: {number} ms \({number} within the node, {number} between nodes\)\n *(.*)"
        found = re.search(told, "\n".join(lines))
        assert found
        return float(found[1]), float(found[2]), float(found[3]), found[4]

    _, inside, between, _ = times(inside_gb_s=0.002, between_gb_s=0.00025)
    found = times(inside_gb_s=0.001, between_gb_s=0.00025)
    assert found[1:3] == (pytest.approx(2 * inside, abs=0.2), between) and found[0] == pytest.approx(
        sum(found[1:3]), abs=0.2
    )
    assert found[3] == "rates of a rank: 0.001 GB/s (given) within its node, 0.00025 GB/s (given) to other nodes"
    assert (
        "0.001 GB/s (given) within its node, 25 GB/s (assumed, not measured: --between)" in times(inside_gb_s=0.001)[3]
    )


def test_the_lines_of_a_plan():
    lines, problems = plan_lines(small("row_wise"), 10**8, replace(TWO_NODES, step_ms=7.0))
    assert not problems
    text = "\n".join(lines)
    assert "--table.sharding row_wise: 4 ranks, 2 on a node, 100,000,000 tracks x 16 fp32" in text
    assert "--table.sharding grid: 4 ranks" in text and "with the 7 given for a rank alone" in text
    assumed = (
        "200 GB/s (assumed, not measured: --inside) within its node, 25 GB/s (assumed, not measured: --between) to"
    )
    assert text.count(f"    rates of a rank: {assumed} other nodes") == 2
    (problem,) = plan_lines(small("row_wise"), 10**8, replace(TWO_NODES, gpu_gb=1.0))[1]
    assert problem.startswith("4 ranks need 1.6 GB of memory on each device, of 1 GB: use more --ranks")
    lines, _ = plan_lines(small("row_wise"), 10**8, replace(TWO_NODES, world_size=24))
    wider = "a grid over 12 nodes needs rows of a multiple of 48 numbers, not 16: it would be with --dimension 48"
    assert wider in lines and "--table.sharding grid: 24 ranks, 2 on a node, 100,000,000 tracks x 48 fp32" in lines
    lines, _ = plan_lines(small("row_wise"), 10**8, replace(TWO_NODES, node_ranks=4))
    assert not any("grid" in line for line in lines), "there is one node"
