"""Memory and disk against figures worked by hand, and against the memory that a real table takes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from skipwise.common.errors import UserError
from skipwise.models.config import EncoderConfig, TableConfig
from skipwise.training.config import EvaluateConfig, RunConfig
from skipwise.training.guards.memory_check import check_disk, check_machines
from skipwise.training.guards.memory_needs import check_memory, checkpoint_bytes, size, training_needs
from tests.ranks import run_on_ranks

GB = 10**9
TRACKS = 100_000_000


def config(**table) -> RunConfig:
    return replace(RunConfig(), table=TableConfig(**table))


def sizes(config: RunConfig, tracks: int, ranks: int, longest: int = 20) -> dict[str, int]:
    return {need.name: need.bytes for need in training_needs(config, tracks, longest, ranks)}


LESS = "--table.precision fp16 or a smaller --table.dim"
TABLE, STATE, COPY = "table", "its optimizer's state", "a copy of both for checkpoints"


@pytest.mark.parametrize(
    "table, ranks, holders, weight, state",
    [
        (TableConfig(dim=8), 2, 2, 51 * 8 * 4, 51 * 4),  # 101 rows: 51 and 50
        (TableConfig(dim=8, precision="fp16"), 2, 2, 51 * 8 * 2, 51 * 4),
        (TableConfig(dim=8, sharding="planner"), 2, 2, 51 * 8 * 4, 51 * 4),
        (TableConfig(dim=8, sharding="table_wise"), 2, 1, 101 * 8 * 4, 101 * 4),
        (TableConfig(dim=8, sharding="column_wise"), 4, 2, 101 * 4 * 4, 101 * 4),  # blocks of 4 columns at least
        (TableConfig(dim=8, optimizer="adagrad"), 1, 1, 101 * 8 * 4, 101 * 8 * 4),
        (TableConfig(dim=8, optimizer="adagrad", sharding="column_wise"), 2, 2, 101 * 4 * 4, 101 * 4 * 4),
        (TableConfig(dim=8, optimizer="sgd"), 1, 1, 101 * 8 * 4, None),
        (TableConfig(dim=8, optimizer="adam"), 1, 1, 101 * 8 * 4, 101 * 16 * 4),
        (TableConfig(dim=8, optimizer="partial_rowwise_adam"), 1, 1, 101 * 8 * 4, 101 * 9 * 4),
    ],
)
def test_table_and_state_by_hand(table: TableConfig, ranks: int, holders: int, weight: int, state: int | None):
    needs = {need.name: need for need in training_needs(replace(RunConfig(), table=table), 101, 20, ranks)}
    assert needs[TABLE].bytes == weight and needs[TABLE].holders == holders
    assert (needs[STATE].bytes if state else needs.get(STATE)) == state
    assert needs[COPY].bytes == weight + (state or 0)
    assert not needs[COPY].on_device and needs[TABLE].on_device


def test_a_grid_by_hand():
    """4 ranks on 2 nodes: 51 of 101 rows of 4 of 8 columns each, and a state for each of both."""
    config = replace(RunConfig(), table=TableConfig(dim=8, sharding="grid"))
    needs = {need.name: need for need in training_needs(config, 101, 20, 4, num_nodes=2)}
    assert (needs[TABLE].bytes, needs[STATE].bytes, needs[TABLE].holders) == (51 * 4 * 4, 51 * 4, 4)
    row_wise = replace(config, table=replace(config.table, sharding="row_wise"))
    more = checkpoint_bytes(config, 101, 4, num_nodes=2) - checkpoint_bytes(row_wise, 101, 4)
    assert more == 101 * 4


def small(sampling: str, **encoder) -> RunConfig:
    """Global batches of 32, 2 threads that keep 3 each, next to no candidates."""
    base = RunConfig()
    return replace(
        base,
        data=replace(base.data, batch_size=32, negatives=100, sampling=sampling, workers=2, prefetch=3),
        table=TableConfig(dim=8),
        encoder=EncoderConfig(max_length=5, heads=2, blocks=3, hidden=4, **encoder),
        evaluate=EvaluateConfig(batch_size=32, candidates=1),
    )


def in_batch(config: RunConfig) -> RunConfig:
    return replace(config, loss=replace(config.loss, in_batch=True))


# Of one of 2 ranks: 16 sessions of 6 positions, one more than are read, but 5 where the mask token replaces it.
@pytest.mark.parametrize(
    "config, longest, positions, pool, bags",
    [
        (small("shared"), 20, 6, 100, 16 * 6 + 100 + 1),
        (small("shared", direction="bidirectional"), 20, 5, 100, 16 * 5 + 100 + 1),
        (small("shared"), 5, 3, 100, 16 * 5 + 100 + 1),  # two are held out of the longest session
        (in_batch(small("shared")), 20, 6, 50, 16 * 6 + 50 + 1),  # each rank has its share
        (small("per-session"), 20, 6, 100 + 15 * 64 + 20, 16 * 6 + 100 + 15 * 64 + 20 + 1),
    ],
)
def test_batches_and_steps_by_hand(config: RunConfig, longest: int, positions: int, pool: int, bags: int):
    found = sizes(config, 1_000_000, 2, longest)
    assert found["the prefetched batches"] == 6 * (18 * 16 * positions + 8 * pool + 4 * bags)
    rows = 2 * bags * 8 + 2 * (16 * positions + pool) * 8 + (2 * 2 * bags * 8 if config.loss.in_batch else 0)
    scores = 16 * 2 * positions**2
    attention = 3 * (3 * 16 * positions * 8 + scores) + scores
    assert found["a step"] == 4 * (rows + attention) + 16 * dense(config)


def test_what_other_blocks_keep_by_hand():
    """Of 3 sessions of 5 positions, 8 wide, 2 blocks of 2 heads: HSTU's gate is a fourth map; a GRU keeps its input,
    state and three gates, 6 wide; NextItNet two convolutions and their norms."""
    kinds = {"hstu": 2 * (4 * 15 * 8 + 3 * 2 * 25), "gru": 2 * 15 * (8 + 4 * 6), "nextitnet": 2 * 15 * 4 * 8}
    for kind, numbers in kinds.items():
        assert EncoderConfig(kind=kind, heads=2, hidden=6, dropout=0.0).num_activations(3, 5, 8) == numbers


def dense(config: RunConfig) -> int:
    """Weights of `small`'s encoder: 8 wide, 5 positions, 3 blocks of 4 hidden."""
    block = (8 * 24 + 24) + (8 * 8 + 8) + (8 * 4 + 4) + (4 * 8 + 8) + 2 * 16
    return 5 * 8 + 16 + 3 * block + (8 * 8 + 8) + (8 if config.cloze else 0)


def test_evaluation_batches_count_where_they_are_larger():
    config = replace(small("shared"), evaluate=EvaluateConfig(batch_size=512, candidates=1000))
    assert sizes(config, 10**6, 2)["the prefetched batches"] == 6 * 256 * 1000 * 8
    alone = replace(config, data=replace(config.data, workers=0))
    assert "the prefetched batches" not in sizes(alone, 10**6, 2)


def test_half_precision_halves_attention_alone():
    config = small("shared")
    half = replace(config, train=replace(config.train, precision="bf16"))
    attention = 3 * (3 * 16 * 6 * 8 + 16 * 2 * 36) + 16 * 2 * 36
    assert sizes(config, 10**6, 2)["a step"] - sizes(half, 10**6, 2)["a step"] == 2 * attention


def test_a_checkpoint_by_hand():
    config = small("shared")
    assert checkpoint_bytes(config, 101) == 101 * 8 * 4 + 101 * 4 + 12 * dense(config)
    columns = replace(config, table=TableConfig(dim=8, sharding="column_wise"))
    assert checkpoint_bytes(columns, 101, 2) == 101 * 8 * 4 + 2 * 101 * 4 + 12 * dense(config)
    adam = replace(config, table=TableConfig(dim=8, optimizer="adam"))
    assert checkpoint_bytes(adam, 101, 2) == 101 * 8 * 4 * 3 + 12 * dense(config)


def test_signals_by_hand():
    """9 rows of 8 numbers with one number of state each, on the first rank; two columns of 8 bytes a position."""
    read = replace(small("shared"), data=replace(small("shared").data, inputs=("skips", "context_type")))
    needs = {need.name: need for need in training_needs(read, 10**6, 20, 2, 9)}
    assert (needs["the signals' table and its state"].bytes, needs["a copy of these"].bytes) == (9 * 9 * 4, 9 * 9 * 4)
    assert needs["the signals' table and its state"].holders == 1 and not needs["a copy of these"].on_device
    assert str(needs["the signals' table and its state"]).endswith("9 x (8 + 1) x 4 = 0.3 kB")
    more = needs["the prefetched batches"].bytes - sizes(small("shared"), 10**6, 2)["the prefetched batches"]
    assert more == 6 * 2 * 8 * 16 * 6
    assert checkpoint_bytes(read, 101, 1, 9) == checkpoint_bytes(read, 101) + 9 * 9 * 4


def test_the_limit_of_a_process_is_a_limit():
    """A process holds its own part alone; the host may have room for all."""
    needs = training_needs(config(), TRACKS, 20, 2)
    own = sum(need.bytes for need in needs)
    check_memory(config(), needs, range(2), host=3 * own, process=own)
    with pytest.raises(UserError) as refused:
        check_memory(config(), needs, range(2), host=3 * own, process=3 * GB, name="box")
    assert str(refused.value).startswith("training needs 51.6 GB of memory on a process of box (table ")
    assert str(refused.value).endswith(
        f" and 3.0 GB are free by its limit (ulimit -v or -d): raise that, or use more ranks or {LESS}"
    )


def refusal(config: RunConfig, ranks: int, here: range, **free: int) -> str | None:
    try:
        check_memory(config, training_needs(config, TRACKS, 20, ranks), here, **free)
    except UserError as error:
        return str(error)
    return None


def test_the_sentence_of_a_full_host():
    sentence = refusal(config(), 2, range(2), host=int(11.2 * GB))
    assert sentence.startswith(
        "training needs 103.2 GB of memory on the 2 ranks of this machine (each: table 100,000,000 x 128 x 4 / 2 = "
        "25.6 GB, its optimizer's state 100,000,000 x 1 x 4 / 2 = 0.2 GB, a copy of both for checkpoints 25.8 GB, the "
        "prefetched batches "
    )
    assert sentence.endswith(f" and 11.2 GB are free: use more machines or {LESS}")


def test_what_fits_is_let_pass():
    needs = training_needs(config(), TRACKS, 20, 2)
    total = 2 * sum(need.bytes for need in needs)
    assert refusal(config(), 2, range(2), host=total) is None
    assert refusal(config(), 2, range(2), host=total - 1) is not None
    assert refusal(config(), 2, range(1), host=total // 2) is None  # the other rank is elsewhere
    assert refusal(config(), 2, range(2)) is None  # nobody knows


def test_a_table_on_one_rank_counts_on_its_machine_once():
    whole = config(sharding="table_wise")
    assert refusal(whole, 4, range(2), host=104 * GB) is None  # 51.2 + 0.4 GB, and their copy
    assert refusal(whole, 4, range(2, 4), host=GB) is None
    sentence = refusal(whole, 4, range(2), host=100 * GB)
    assert "table 100,000,000 x 128 x 4 = 51.2 GB on 1 of them" in sentence
    assert f"use --table.sharding row_wise on more machines or {LESS}" in sentence


def test_a_gpu_holds_the_table_and_its_host_the_copy():
    assert refusal(config(), 2, range(2), host=53 * GB, gpu=26 * GB) is None
    sentence = refusal(config(optimizer="adam"), 2, range(2), host=200 * GB, gpu=26 * GB)
    assert sentence.startswith("training needs 76.8 GB of memory on a GPU of this machine (table ")
    assert "copy" not in sentence and "2 x 128 x 4 / 2 = 51.2 GB" in sentence
    assert sentence.endswith(f"use more GPUs or --table.optimizer rowwise_adagrad or {LESS}")
    sentence = refusal(config(), 2, range(2), host=51 * GB, gpu=26 * GB)
    assert "copy of both for checkpoints 25.8 GB" in sentence and "(each: table" not in sentence


def test_only_ways_that_help_are_named():
    base = RunConfig()
    wide = replace(base, data=replace(base.data, batch_size=16_384), encoder=replace(base.encoder, max_length=500))
    needs = training_needs(wide, 1000, 500, 1)
    batch = sum(need.bytes for need in needs if not need.of_table)
    table = sum(need.bytes for need in needs if need.of_table)
    for free, ways in (
        (
            batch,
            f"use more machines or {LESS}, or a smaller --data.batch-size or --encoder.max-length",
        ),
        (batch - 1, "use a smaller --data.batch-size or --encoder.max-length"),
        (
            table - 1,
            f"use more machines or {LESS}, and a smaller --data.batch-size or --encoder.max-length",
        ),
    ):
        with pytest.raises(UserError) as refused:
            check_memory(wide, needs, range(1), host=free)
        assert str(refused.value).endswith(f"free: {ways}")


def test_the_sentence_of_a_full_disk(tmp_path: Path):
    folder = tmp_path / "absent" / "run"
    check_disk(folder, 10, 5, free=50)
    with pytest.raises(UserError) as refused:
        check_disk(folder, 10 * GB, 5, free=39 * GB)
    assert str(refused.value) == (
        f"{folder} needs room for 5 checkpoints (--checkpoint.keep, the best and the next) of 10.0 GB, 50.0 GB in all, "
        "and its disk has 39.0 GB free: lower --checkpoint.keep to 1, or choose a --run-dir on another disk"
    )
    with pytest.raises(UserError, match="29.0 GB free: choose a --run-dir on another disk$"):
        check_disk(folder, 10 * GB, 5, free=29 * GB)
    with pytest.raises(UserError, match="needs room for"):
        check_disk(folder, 1 << 60, 5)
    assert not folder.parent.exists()


def test_sizes_are_told_in_units():
    assert [size(count) for count in (25_600_000_000, 200_000_000, 3_200_000, 99, 0)] == [
        "25.6 GB",
        "0.2 GB",
        "3.2 MB",
        "99 bytes",
        "0 bytes",
    ]


def refused_on_every_rank(folder: Path) -> list[str | None]:
    said = []
    for tracks in (1000, 10**13):
        try:
            said.append(check_machines(RunConfig(), tracks, 20, folder))
        except UserError as error:
            said.append(str(error))
    return said


@pytest.mark.ranks
@pytest.mark.skipif(not os.path.exists("/proc/meminfo"), reason="needs /proc")
def test_all_ranks_refuse_in_the_same_words(tmp_path: Path):
    first, second = run_on_ranks(tmp_path, 2, refused_on_every_rank, tmp_path)
    assert first == second
    assert first[0] is None and first[1].startswith("training needs ")


GROWTH = """
import json
from dataclasses import replace
from skipwise.training.build import build_model
from skipwise.training.config import RunConfig
from skipwise.common.distributed import process_group
from skipwise.training.guards.memory_needs import training_needs

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

base = RunConfig()
config = replace(base, table=replace(base.table, dim=64, optimizer="adagrad"))
with process_group():
    warm = build_model(config, 1000)
    before = resident()
    model = build_model(config, 300_000)
    grown = resident() - before
print(json.dumps([grown, sum(need.bytes for need in training_needs(config, 300_000, 20, 1)[:2])]))
"""


def test_the_arithmetic_needs_neither_torch_nor_torchrec():
    code = "import skipwise.training.guards.memory_needs, skipwise.common.machine, sys; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "False\n"


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
def test_a_table_takes_what_was_worked_out():
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, check=True, text=True)
    grown, worked_out = json.loads(done.stdout.splitlines()[-1])
    assert worked_out == 300_000 * 64 * 4 * 2
    assert grown == pytest.approx(worked_out, rel=0.25)
