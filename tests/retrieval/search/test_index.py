"""The index command: what it measures and chooses, each kind against brute force, and what it leaves as it was."""

import json
import os
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

from skipwise.common.errors import UserError
from skipwise.common.locks import lock_beside, locked
from skipwise.common.outputs import atomic_output_on_all_ranks
from skipwise.components.index import index
from skipwise.retrieval.export_manifest import ExportManifest, is_export
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.search import choose, stored
from skipwise.retrieval.search.config import IndexConfig
from skipwise.retrieval.search.exact import ExactSearch
from skipwise.retrieval.search.stored import index_folder, open_search

QUICK = {"threads": 1, "recall": 0.5}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(choose, "_PASSES", 1)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def table_of(opened: OpenExport) -> np.ndarray:
    return np.concatenate([block.numpy() for _, block in opened.vectors.blocks()])


def found_by(opened: OpenExport, queries: torch.Tensor, k: int) -> np.ndarray:
    return open_search(opened, "index").search(queries, k, torch.empty(len(queries), 0, dtype=torch.int64))[0].numpy()


def share(found: np.ndarray, best: np.ndarray, k: int) -> float:
    return float(np.mean([len(set(a[:k]) & set(b[:k])) / k for a, b in zip(found, best, strict=True)]))


@pytest.mark.parametrize("kind", ["fastscan", "ivfpq", "hnsw"])
def test_measured_is_what_numpy_finds_and_it_is_no_cosine(by_hand, kind: str, capsys):
    export = by_hand()
    index(IndexConfig(export, kinds=(kind,), **QUICK))
    opened = OpenExport.open(export)
    record, queries = opened.manifest.index, opened.queries()
    table = table_of(opened)
    best = np.argsort(-(queries.numpy() @ table.T), axis=1)
    chosen = next(one for one in record.measured if one.search == record.search)
    found = found_by(opened, queries, 100)
    assert chosen.recall_at_10 == pytest.approx(share(found, best, 10), abs=1e-6) and chosen.recall_at_10 >= 0.5
    assert chosen.recall_at_k == pytest.approx(share(found, best, 100), abs=1e-6)
    widest = max(record.measured, key=lambda one: one.recall_at_10)
    assert widest.recall_at_10 > 0.95
    # The same found by cosine would be other tracks: so much do norms matter here.
    by_cosine = np.argsort(-(queries.numpy() @ (table / np.linalg.norm(table, axis=1, keepdims=True)).T), axis=1)
    by_distance = np.argsort(((queries.numpy()[:, None] - table) ** 2).sum(axis=2), axis=1)
    assert share(by_cosine, best, 10) < 0.5 and share(by_distance, best, 10) < 0.5
    said = capsys.readouterr().out
    assert f"{chosen.recall_at_10:.4f}" in said and said.count("chosen") == 1
    assert record.metric == "inner product" and record.kind == kind and record.queries == len(queries)
    if kind == "ivfpq":
        assert {one.search["shortlist"] for one in record.measured} == {100, 200, 400}
    assert record.queries_a_call == choose.QUERIES_A_CALL and record.threads == 1


@pytest.mark.parametrize("kind", ["fastscan", "ivfpq", "hnsw"])
def test_one_thread_makes_the_same_file(by_hand, kind: str):
    exports = by_hand(), by_hand()
    for export in exports:
        index(IndexConfig(export, kinds=(kind,), **QUICK))
    first, second = (ExportManifest.read(export).index.sha256 for export in exports)
    assert first == second


def test_flat_needs_no_file_and_replaces_one(by_hand):
    export = by_hand()
    index(IndexConfig(export, kinds=("hnsw",), **QUICK))
    assert len(list(export.glob("index-*.faiss"))) == 1
    index(IndexConfig(export, kinds=("flat",), recall=1.0, overwrite=True))
    record = ExportManifest.read(export).index
    assert record.kind == "flat" and record.file is None and not list(export.glob("*.faiss"))
    assert record.measured[0].recall_at_10 == record.measured[0].recall_at_k == 1
    opened = OpenExport.open(export)
    assert all(isinstance(open_search(opened, which), ExactSearch) for which in ("auto", "index", "exact"))


def test_the_fastest_that_reaches_is_chosen(by_hand, monkeypatch: pytest.MonkeyPatch):
    speeds = {"flat": 10.0, "ivfpq": 30.0, "hnsw": 20.0}
    real = choose.measure

    def as_fast_as_told(kind, setting, search, truth):
        return real(kind, setting, search, truth).model_copy(
            update={"queries_per_s": speeds[kind] - setting.get("nprobe", 0) / 1000}
        )

    monkeypatch.setattr("skipwise.retrieval.search.choose.measure", as_fast_as_told)
    export = by_hand()
    every = ("flat", "ivfpq", "hnsw")
    index(IndexConfig(export, kinds=every, recall=0.9, threads=1))
    record = ExportManifest.read(export).index
    reaching = [one for one in record.measured if one.kind == "ivfpq" and one.recall_at_10 >= 0.9]
    assert record.kind == "ivfpq" and record.search["nprobe"] == min(one.search["nprobe"] for one in reaching)
    assert {one.kind for one in record.measured} == {"flat", "ivfpq", "hnsw"}
    index(IndexConfig(export, kinds=every, recall=1.0, threads=1, overwrite=True))
    record = ExportManifest.read(export).index
    assert next(one for one in record.measured if one.search == record.search).recall_at_10 == 1


@pytest.mark.parametrize("rows", [1, 7, 99, 624])
def test_small_tables(by_hand, rows: int, capsys):
    random = np.random.default_rng(0)
    export = by_hand(*(random.standard_normal((count, 16), dtype=np.float32) for count in (rows, 3)))
    index(IndexConfig(export, kinds=("flat", "fastscan", "ivfpq", "hnsw"), **QUICK))
    left_out = "ivfpq is left out: it needs 624 tracks to be trained on, there are"
    assert (left_out in capsys.readouterr().out) == (rows < 624)
    record = ExportManifest.read(export).index
    assert {one.kind for one in record.measured} == {"flat", "hnsw"} | ({"fastscan", "ivfpq"} if rows == 624 else set())
    assert found_by(OpenExport.open(export), torch.randn(2, 16), rows + 5).shape == (2, rows + 5)


def test_few_tracks_are_searched_exactly_unless_kinds_are_named(by_hand, monkeypatch: pytest.MonkeyPatch, capsys):
    export = by_hand()
    index(IndexConfig(export, **QUICK))
    assert "are few: the exact search (flat) is taken" in capsys.readouterr().out
    assert {one.kind for one in ExportManifest.read(export).index.measured} == {"flat"}
    assert IndexConfig(export).kinds_for(99_999) == ("flat",)
    assert IndexConfig(export).kinds_for(100_000) == ("flat", "fastscan", "ivfpq", "hnsw")
    assert IndexConfig(export, kinds=("hnsw",)).kinds_for(7) == ("hnsw",)


def test_too_small_and_not_good_enough(by_hand):
    random = np.random.default_rng(0)
    few = by_hand(*(random.standard_normal((count, 16), dtype=np.float32) for count in (99, 3)))
    with pytest.raises(UserError, match="too few tracks for --kinds ivfpq: add flat"):
        index(IndexConfig(few, kinds=("ivfpq",)))
    export = by_hand()
    with pytest.raises(
        UserError, match=r"none of --kinds ivfpq finds --recall 1.0 of the ten best: ivfpq finds 0\.\d{4}"
    ):
        with patch("skipwise.retrieval.search.choose.search_settings", lambda *_: [{"nprobe": 1, "shortlist": 10}]):
            index(IndexConfig(export, kinds=("ivfpq",), recall=1.0, threads=1))
    assert not ExportManifest.read(export).index


def test_norms_of_zero_and_numbers_that_are_none(by_hand):
    zeros = np.zeros((20, 16), dtype=np.float32)
    export = by_hand(zeros, zeros[:2])
    index(IndexConfig(export, kinds=("hnsw",), **QUICK))  # every row is as good as any other
    assert ExportManifest.read(export).index.measured[0].recall_at_10 == 1
    zeros[3, 3] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        index(IndexConfig(by_hand(zeros, zeros[:2]), kinds=("hnsw",), **QUICK))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("step", ["choose.build", "stored._write", "stored.os.replace"])
def test_interrupted_it_leaves_the_export_as_it_was(by_hand, step: str):
    export = by_hand()
    index(IndexConfig(export, kinds=("hnsw",), **QUICK))
    before = contents(export)
    calls = []

    def interrupted(*arguments):
        calls.append(arguments)
        if step != "stored.os.replace" or len(calls) == 2:  # between the file and the manifest
            raise KeyboardInterrupt
        return Path(arguments[0]).rename(arguments[1])

    with patch(f"skipwise.retrieval.search.{step}", interrupted), pytest.raises(KeyboardInterrupt):
        index(IndexConfig(export, kinds=("ivfpq",), overwrite=True, **QUICK))
    assert calls and contents(export) == before


def test_a_disk_that_is_full_or_wrong(by_hand):
    export = by_hand()
    before = contents(export)
    faiss = stored.import_faiss()
    with patch.object(faiss, "write_index", side_effect=RuntimeError("write error: No space left on device")):
        with pytest.raises(UserError, match="cannot take the index .*No space left.*make room"):
            index(IndexConfig(export, kinds=("hnsw",), **QUICK))
    other = faiss.IndexFlatIP(16)
    with patch.object(faiss, "read_index", lambda _: other):
        with pytest.raises(UserError, match="read back differs"):
            index(IndexConfig(export, kinds=("hnsw",), **QUICK))
    assert contents(export) == before


def test_one_job_at_a_time_writes_an_export(by_hand):
    """`export` and `index` take the same lock."""
    export = by_hand()
    with locked(lock_beside(export), export):
        before = contents(export)
        with pytest.raises(UserError, match=f"export-0 is in use by process {os.getpid()} on .*, or end it$"):
            index(IndexConfig(export, threads=1))
        with pytest.raises(UserError, match=f"export-0 is in use by process {os.getpid()} on .* another --output$"):
            with atomic_output_on_all_ranks(export, True, is_export):
                pass
        assert contents(export) == before
    with index_folder(export), pytest.raises(UserError, match="is in use"):
        index(IndexConfig(export, threads=1))
    assert not list(export.parent.glob(".*"))
    with pytest.raises(UserError, match="manifest.json cannot be read"):
        index(IndexConfig(export.parent, threads=1))


def test_an_index_is_not_replaced_unasked(by_hand):
    export = by_hand()
    index(IndexConfig(export, kinds=("flat",), **QUICK))
    with pytest.raises(UserError, match=r"has an index \(flat\): replace it with --overwrite"):
        index(IndexConfig(export, kinds=("flat",), **QUICK))


def test_without_faiss(by_hand):
    with patch.dict("sys.modules", {"faiss": None}):
        with pytest.raises(UserError, match=r"run make extras"):
            index(IndexConfig(by_hand()))


@pytest.mark.parametrize(("field", "value"), [("recall", 0.0), ("recall", 1.1), ("k", 9), ("threads", -1)])
def test_refused_options_name_their_flag(field: str, value):
    with pytest.raises(ValueError, match=f"--{field}"):
        IndexConfig(Path("x"), **{field: value})


def test_a_manifest_stays_whole(by_hand):
    export = by_hand()
    before = json.loads((export / "manifest.json").read_text())
    index(IndexConfig(export, kinds=("flat",), **QUICK))
    after = json.loads((export / "manifest.json").read_text())
    assert {name: of for name, of in after.items() if name != "index"} == {
        name: of for name, of in before.items() if name != "index"
    }
