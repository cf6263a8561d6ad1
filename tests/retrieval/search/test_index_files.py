"""An index of another making under a right hash: refused before FAISS loads a class that `index` does not write."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from skipwise.common.errors import UserError
from skipwise.components.index import index
from skipwise.retrieval.export_manifest import ExportManifest
from skipwise.retrieval.faiss_files import INDEX, PART, read_faiss
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.search.config import IndexConfig
from skipwise.retrieval.search.exact import ExactSearch
from skipwise.retrieval.search.stored import open_search
from tests.retrieval.search.exports import DIM, change_index, norms_matter, put, write_by_hand
from tests.support.exports import change, record

ROWS, LISTS = 700, 17
TABLE, QUERIES = norms_matter(ROWS, 5)


@pytest.fixture(scope="module")
def indexed(sum_encoder: None, tmp_path_factory) -> Path:
    export = write_by_hand(tmp_path_factory.mktemp("indexed") / "export", TABLE, QUERIES)
    index(IndexConfig(export, kinds=("ivfpq",), recall=0.1, threads=1))
    return export


@pytest.fixture
def export(indexed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(indexed, tmp_path / "export"))


def refusal(export: Path, content: bytes) -> str:
    put(export, content)
    with pytest.raises(UserError) as caught:
        open_search(OpenExport.open(export))
    return str(caught.value)


def stored(made: Any) -> bytes:
    return faiss.serialize_index(made).tobytes()


def lists(quantizer: Any = None) -> Any:
    """What `index` writes, unless told otherwise."""
    if quantizer is None:
        quantizer = faiss.IndexFlatIP(DIM)
    made = faiss.IndexIVFPQ(quantizer, DIM, LISTS, DIM // 4, 4, faiss.METRIC_INNER_PRODUCT)
    made.train(TABLE)
    made.add(TABLE)
    return made


def codes() -> Any:
    """What `index` writes of `fastscan`."""
    made = faiss.IndexPQFastScan(DIM, DIM // 2, 4, faiss.METRIC_INNER_PRODUCT)
    made.train(TABLE)
    made.add(TABLE)
    return made


def on_disk(file: Path) -> bytes:
    """Inverted lists that are mapped from `file`, writable."""
    made, mapped = lists(), faiss.OnDiskInvertedLists(LISTS, DIM // 8, str(file))
    for number in range(LISTS):
        size = made.invlists.list_size(number)
        mapped.add_entries(number, size, made.invlists.get_ids(number), made.invlists.get_codes(number))
    made.replace_invlists(mapped, False)
    return stored(made)


@pytest.mark.parametrize("there", [True, False])
def test_lists_outside_the_export_are_not_opened(export: Path, tmp_path: Path, there: bool):
    """FAISS itself would map the file, or say that it is missing."""
    victim = tmp_path / "victim"
    made = on_disk(victim)
    if not there:
        victim.unlink()
    assert "cannot be read ('ilod' where 'ilar' was expected): make it again with index" in refusal(export, made)


def test_lists_outside_the_export_below_a_graph(indexed: Path, tmp_path: Path):
    graph = stored(faiss.IndexHNSWSQ(DIM, faiss.ScalarQuantizer.QT_fp16, 32))
    crafted = graph[: graph.index(b"IxSQ")] + on_disk(tmp_path / "victim")
    (tmp_path / "crafted").write_bytes(crafted)
    with pytest.raises(ValueError, match="'IwPQ' where 'IxSQ' was expected"):
        read_faiss(tmp_path / "crafted", INDEX["hnsw"])


@pytest.mark.parametrize("place", ["metric", "direct map"])
def test_names_where_numbers_belong(export: Path, tmp_path: Path, place: str):
    """A metric beyond 1 and a direct map bring more fields, which could hold the names that are expected."""
    content = bytearray(on_disk(tmp_path / "victim"))
    if place == "metric":
        content[33:37] = b"\2\0\0\0IxFI"
    else:
        content[content.index(b"IxFI") + 45 + LISTS * DIM * 4] = 2
    assert "\\x02" in refusal(export, bytes(content))


def test_a_file_for_the_kind_without_one_is_not_read(export: Path, tmp_path: Path):
    put(export, on_disk(tmp_path / "victim"))
    change_index(export, kind="flat")
    assert type(open_search(OpenExport.open(export))) is ExactSearch


def test_codes_that_look_like_a_name(export: Path):
    """An index of short lists may hold four bytes of codes of any value."""
    made, one = lists(), faiss.ArrayInvertedLists(LISTS, DIM // 8)
    codes = np.frombuffer(b"ilodIxF!" + bytes((ROWS - 4) * 2), dtype=np.uint8)
    for number, (first, end) in enumerate([(0, 2), (2, 4), (4, ROWS)]):
        rows = np.arange(first, end)
        one.add_entries(number, end - first, faiss.swig_ptr(rows), faiss.swig_ptr(codes[2 * first : 2 * end].copy()))
    made.replace_invlists(one, False)
    put(export, stored(made))
    assert open_search(OpenExport.open(export))


OTHERS: dict[str, tuple[Callable[[], Any], str]] = {
    "flat": (lambda: faiss.IndexFlatIP(DIM), "'IxFI' where 'IwPQ'"),
    "graph": (lambda: faiss.IndexHNSWSQ(DIM, faiss.ScalarQuantizer.QT_fp16, 32), "'IHNs' where 'IwPQ'"),
    "lists of vectors": (lambda: faiss.index_factory(DIM, "IVF4,Flat"), "'IwFl' where 'IwPQ'"),
    "another quantizer": (lambda: lists(faiss.IndexHNSWFlat(DIM, 8)), "'IHNf' where 'IxFI'"),
    "rotated": (lambda: faiss.IndexPreTransform(faiss.RandomRotationMatrix(DIM, DIM), lists()), "'IxPT' where 'IwPQ'"),
    "ids of its own": (lambda: faiss.IndexIDMap(faiss.IndexFlatIP(DIM)), "'IxMp' where 'IwPQ'"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_other_classes_are_refused(export: Path, other: str):
    make, words = OTHERS[other]
    assert f"cannot be read ({words} was expected)" in refusal(export, stored(make()))


def shorter_quantizer(made: Any) -> None:
    made.quantizer.ntotal = LISTS - 1
    faiss.downcast_index(made.quantizer).codes.resize((LISTS - 1) * DIM * 4)


def narrower_quantizer(made: Any) -> None:
    made.quantizer.d = DIM // 2
    made.quantizer.ntotal = 2 * LISTS


def other_codes(made: Any) -> None:
    made.pq.M *= 2


def untrained(made: Any) -> None:
    made.is_trained = False


def ids_of(made: Any, row: int) -> None:
    faiss.rev_swig_ptr(made.invlists.get_ids(0), made.invlists.list_size(0))[0] = row


PIECES = {
    "quantizer of fewer lists": shorter_quantizer,
    "quantizer of another width": narrower_quantizer,
    "codes of another size": other_codes,
    "not trained": untrained,
    "row beyond the table": lambda made: ids_of(made, ROWS),
    "row before the table": lambda made: ids_of(made, -1),
    "row twice": lambda made: ids_of(made, int(faiss.rev_swig_ptr(made.invlists.get_ids(1), 1)[0])),
}


@pytest.mark.parametrize("way", PIECES)
def test_pieces_that_do_not_fit_each_other(export: Path, way: str):
    made = lists()
    PIECES[way](made)
    sentence = refusal(export, stored(made))
    assert "make it again with index" in sentence
    if way != "quantizer of another width":  # FAISS itself refuses that
        assert "is not an index that was written by index" in sentence


CODES = {
    "untrained": untrained,
    "other codes": other_codes,
    "blocks of another size": lambda made: setattr(made, "bbs", 64),
    "another way": lambda made: setattr(made, "implem", 100),
    "queries in another order": lambda made: setattr(made, "qbs", 0x9999),
    "fewer rows than it says": lambda made: setattr(made, "ntotal2", 32),
    "wider codes": lambda made: setattr(made, "M2", 2 * made.M2),
    "fewer codes": lambda made: made.codes.resize(8),
}


@pytest.mark.parametrize("way", CODES)
def test_codes_that_do_not_fit_the_table(tmp_path: Path, way: str):
    export = write_by_hand(tmp_path / "export", TABLE, QUERIES)
    index(IndexConfig(export, kinds=("fastscan",), recall=0.1, threads=1))
    assert open_search(OpenExport.open(export))
    made = codes()
    CODES[way](made)
    assert "make it again with index" in refusal(export, stored(made))


def test_what_index_writes_opens(export: Path):
    put(export, stored(lists()))
    assert open_search(OpenExport.open(export))
    alike = lists()
    alike.reset()
    alike.add(np.repeat(TABLE[:1], ROWS, axis=0))  # FAISS stores lists in another way where most are empty
    assert b"sprs" in stored(alike)
    put(export, stored(alike))
    assert open_search(OpenExport.open(export))
    alike.invlists.reset()
    assert "is not an index that was written by index" in refusal(export, stored(alike))


@pytest.mark.parametrize("size", [1 << 37, 1 << 44, (1 << 64) - 1])
def test_a_size_that_is_a_lie(export: Path, size: int):
    """Some FAISS refuses; for others it asks for memory that no machine has."""
    content, of_quantizer = stored(lists()), np.uint64(LISTS * DIM).tobytes()
    put(export, content.replace(of_quantizer, np.uint64(size).tobytes(), 1))
    with pytest.raises(UserError, match="cannot be read .*: make it again with index"):
        open_search(OpenExport.open(export))


def test_a_part_of_other_classes(tmp_path: Path):
    """A part is read by the same rule."""
    folder = write_by_hand(tmp_path / "export", TABLE, QUERIES)
    part, victim = folder / "embeddings/part-00000.faiss", tmp_path / "victim"
    part.write_bytes(on_disk(victim))
    victim.unlink()
    shutil.copytree(folder / "embeddings", folder / "tracks")
    entries = [record(folder, f"tracks/part-0000{number}.parquet") for number in (0, 1)]
    parts = ExportManifest.read(folder).parts
    rows = [{"first_row": one.first_row, "rows": one.rows} for one in parts]
    change(
        folder,
        format="faiss",
        parts=[record(folder, "embeddings/part-00000.faiss") | one for one in rows],
        tracks=[entry | one for entry, one in zip(entries, rows, strict=True)],
    )
    with pytest.raises(UserError, match="cannot be opened .'IwPQ' where 'IxFI' or 'IxSQ' was expected.: export again"):
        OpenExport.open(folder)


@pytest.mark.parametrize("kind", ["fastscan", "ivfpq", "hnsw", "part"])
def test_a_file_that_is_cut_anywhere(tmp_path: Path, kind: str):
    made: dict[str, Callable[[], Any]] = {
        "fastscan": codes,
        "ivfpq": lists,
        "hnsw": lambda: faiss.IndexHNSWSQ(DIM, faiss.ScalarQuantizer.QT_fp16, 8),
        "part": lambda: faiss.IndexFlatIP(DIM),
    }
    content = stored(made[kind]())
    classes, file = {**INDEX, "part": PART}[kind], tmp_path / "file"
    for size in {*range(0, min(len(content), 200), 3), *np.linspace(0, len(content) - 1, 20, dtype=int).tolist()}:
        file.write_bytes(content[:size])
        with pytest.raises((RuntimeError, ValueError)):
            read_faiss(file, classes)
    file.write_bytes(content)
    assert read_faiss(file, classes).d == DIM
