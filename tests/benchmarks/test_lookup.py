"""The modules that `lookup` compares find the same rows and update them as worked by hand; refusals become rows."""

import json
from pathlib import Path

import pytest
import torch

from skipwise.benchmarks import lookup
from skipwise.benchmarks.__main__ import run
from skipwise.benchmarks.harness.benchmark_report import ReportConfig
from skipwise.benchmarks.lookup import KINDS, MODULES, SHARDINGS, LookupConfig, measure
from skipwise.benchmarks.lookup_modules import Ids, draw_ids, plain_lookup, sharded_lookup
from skipwise.common.distributed import process_group, rank
from skipwise.common.errors import UserError
from tests.ranks import run_on_ranks

TRACKS, DIM = 12, 8
RATE = 0.05


def ids_of(*ids: int) -> Ids:
    ids_L = torch.tensor(ids)
    return Ids(ids_L, *torch.unique(ids_L, return_inverse=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize("module", MODULES)
def test_row_wise_adagrad_as_worked_by_hand(module: str, sharding: str, kind: str):
    """Row 4 has a gradient of 2 at first: 2 / sqrt(4). Then of 1: 1 / sqrt(4 + 1). Row 7: 1, then 1 / sqrt(2)."""
    with process_group():
        step = sharded_lookup(TRACKS, DIM, 3, module, sharding)
        assert torch.equal(step(ids_of(4, 7, 4), kind), torch.zeros(3, DIM))
        expected = torch.tensor([-RATE, 0.0, -RATE])[:, None].expand(3, DIM)
        torch.testing.assert_close(step(ids_of(7, 9, 4), kind), expected)
        first = torch.tensor([-RATE * (1 + 1 / 5**0.5), -RATE * (1 + 1 / 2**0.5), -RATE])
        torch.testing.assert_close(step(ids_of(4, 7, 9), kind), first[:, None].expand(3, DIM))


@pytest.mark.parametrize("kind", KINDS)
def test_plain_updates_the_rows_it_looked_up(kind: str):
    step = plain_lookup(TRACKS, DIM)
    assert torch.equal(step(ids_of(4, 7, 4), kind), torch.zeros(3, DIM))
    expected = torch.tensor([0.0, -RATE, -RATE])[:, None].expand(3, DIM)
    torch.testing.assert_close(step(ids_of(5, 4, 7), kind), expected)


def after_one_step() -> list[torch.Tensor]:
    """Rows 0 to 11 for every case, once rank 0 has asked for 0 and 5 and rank 1 for 5, 11 and 11."""
    found = []
    for module in MODULES:
        for sharding in SHARDINGS:
            for kind in KINDS:
                step = sharded_lookup(TRACKS, DIM, TRACKS, module, sharding)
                step(ids_of(0, 5, 5) if rank() == 0 else ids_of(5, 11, 11), kind)
                found.append(step(ids_of(*range(TRACKS)), kind))
    return found


@pytest.mark.ranks
def test_ranks_share_one_table(tmp_path: Path):
    expected_LD = torch.zeros(TRACKS, DIM)
    expected_LD[[0, 5, 11]] = -RATE
    for found in run_on_ranks(tmp_path, 2, after_one_step):
        assert len(found) == len(MODULES) * len(SHARDINGS) * len(KINDS)
        for rows_LD in found:
            torch.testing.assert_close(rows_LD, expected_LD)


def test_ids_follow_zipf_and_the_distinct_ones_give_them_back():
    sets = draw_ids(1000, 20_000, seed=3)
    ids_L = torch.cat([ids.ids_L for ids in sets])
    harmonic = sum(1 / place for place in range(1, 1001))
    most = torch.bincount(ids_L).sort(descending=True).values[:3] / len(ids_L)
    torch.testing.assert_close(most, torch.tensor([1.0, 1 / 2, 1 / 3]) / harmonic, rtol=0.05, atol=0)
    assert torch.equal(sets[0].distinct_U[sets[0].place_L], sets[0].ids_L)


def test_report_names_what_cannot_be_done(monkeypatch, tmp_path: Path):
    works = lookup.sharded_lookup

    def refuses(tracks: int, dim: int, capacity: int, module: str, sharding: str):
        if sharding == "table_wise":
            raise RuntimeError("no such plan here\nand more")
        step = works(tracks, dim, capacity, module, sharding)

        def fails_once_it_runs(ids: Ids, kind: str) -> torch.Tensor:
            if module == "EmbeddingCollection" and kind == "distinct":
                raise ValueError("not these")
            return step(ids, kind)

        return fails_once_it_runs

    monkeypatch.setattr(lookup, "sharded_lookup", refuses)
    file = tmp_path / "lookup.json"
    report = ReportConfig(output=str(tmp_path), json=str(file))
    measure(LookupConfig(tracks=100, dim=8, lookups=20, rounds=2, warmup=0, report=report))
    content = json.loads(file.read_text())
    refused = content["refused"]
    assert refused["EmbeddingBagCollection table_wise distinct"] == "RuntimeError: no such plan here"
    assert refused["EmbeddingCollection row_wise distinct"] == "ValueError: not these"
    assert len(refused) == 6 and not refused.keys() & content["samples"].keys()
    assert len(content["samples"]) == 6 and {len(values) for values in content["samples"].values()} == {2}
    fast, plain = (
        content["seconds"][name] for name in ("EmbeddingCollection row_wise repeated", "nn.Embedding repeated")
    )
    expected = [slow / quick for quick, slow in zip(fast, plain, strict=True)]
    assert content["samples"]["EmbeddingCollection row_wise repeated"] == pytest.approx(expected)


@pytest.mark.parametrize("options", [["--dim", "6"], ["--lookups", "0"], ["--warmup", "-1"]])
def test_refusals(options: list[str]):
    with pytest.raises(UserError, match=options[0]):
        run(["lookup", *options])
