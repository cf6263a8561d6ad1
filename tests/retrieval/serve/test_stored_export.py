"""An export in an object store is followed there."""

import shutil
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skipwise.common import mirrors
from skipwise.common.errors import UserError
from skipwise.common.mirrors import local, publish
from skipwise.common.stores import Place
from skipwise.retrieval.serve.prometheus import Metrics
from skipwise.retrieval.serve.served_export import HotSwap
from tests.support.object_store import ObjectStore
from tests.support.stored import bucket, object_store

__all__ = ["bucket", "object_store"]


def test_a_newer_one_in_the_store_takes_over(
    bucket: str,  # noqa: F811
    object_store: ObjectStore,  # noqa: F811
    export: Path,
    other: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(mirrors, "_FRESH_S", -10.0)  # as if everything had been stored long ago
    place = Place.of(f"{bucket}/exports/main")
    assert place
    for folder in (export, other):
        shutil.copytree(folder, tmp_path / folder.name)
    publish(tmp_path / export.name, place)
    swap = HotSwap("main", local(str(place)), "auto", Metrics())
    before = swap.current.opened.manifest.vocabulary_hash
    assert not swap.changed()
    time.sleep(1.1)  # stores count in seconds, and both exports have the same sizes
    publish(tmp_path / other.name, place)
    assert not swap.changed()  # is fetched
    assert swap.changed()
    swap.reload()
    assert swap.current.opened.manifest.vocabulary_hash != before
    assert not swap.changed()
    object_store.answer = lambda method, path: 409
    with pytest.raises(UserError, match=f"{place} cannot be read in 3 tries"):
        swap.changed()
    assert swap.current.generation == 2


def test_rights_in_the_store_take_over(
    bucket: str,  # noqa: F811
    object_store: ObjectStore,  # noqa: F811
    export: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(mirrors, "_FRESH_S", -10.0)
    place = Place.of(f"{bucket}/rights.parquet")
    assert place
    for number, column in enumerate(["explicit", "territory"]):
        pq.write_table(pa.table({"track_id": ["t_001"], column: ["x"]}), tmp_path / f"{number}.parquet")
    publish(tmp_path / "0.parquet", place)
    swap = HotSwap("main", export, "auto", Metrics(), tracks=local(str(place)))
    assert swap.current.about()["columns"] == ["explicit"] and not swap.changed()
    time.sleep(1.1)
    publish(tmp_path / "1.parquet", place)
    assert [swap.changed(), swap.changed()] == [False, True]
    swap.reload()
    assert swap.error is None and swap.current.about()["columns"] == ["territory"]
