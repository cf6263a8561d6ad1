"""A newer export takes over when it is whole; a broken one is refused, and the older goes on."""

import asyncio
import gc
import json
import os
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from skipwise.common.errors import UserError
from skipwise.retrieval.serve import server
from skipwise.retrieval.serve.config import ServeConfig
from skipwise.retrieval.serve.prometheus import Metrics
from skipwise.retrieval.serve.served_export import HotSwap, ServedExport
from skipwise.retrieval.serve.server import run
from skipwise.retrieval.serve.service import Service
from tests.retrieval.serve.conftest import TRACKS, Oracle, asking
from tests.support.exports import record

PART = "embeddings/part-00000.parquet"


def change_manifest(folder: Path, **changes: Any) -> None:
    file = folder / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def flip_a_byte(folder: Path) -> None:
    content = bytearray((folder / PART).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / PART).write_bytes(content)


def other_weights(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "encoder.safetensors").write_bytes(b"no weights")
    change_manifest(folder, weights=manifest["weights"] | record(folder, "encoder.safetensors"))


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "hash": (flip_a_byte, "differs from what was written"),
    "missing part": (
        lambda folder: (folder / PART).unlink(),
        PART,
    ),
    "missing manifest": (lambda folder: (folder / "manifest.json").unlink(), "manifest.json"),
    "dimension": (lambda folder: change_manifest(folder, dim=16), "cannot be opened"),
    "rows": (lambda folder: change_manifest(folder, rows=299), "rows"),
    "weights": (other_weights, "is no encoder"),
    "older": (lambda folder: change_manifest(folder, weights={}), "export the run again"),
    "config": (lambda folder: change_manifest(folder, config={"nonsense": 1}), "config.data"),
    "version": (lambda folder: change_manifest(folder, schema_version=1), "schema_version"),
}


@pytest.fixture
def place(export: Path, tmp_path: Path) -> Path:
    """A link to a copy of the export, for a test to change."""
    shutil.copytree(export, tmp_path / "first")
    (tmp_path / "link").symlink_to("first")
    return tmp_path / "link"


def point(link: Path, target: Path) -> None:
    """Turns the link at one blow."""
    link.with_name("aside").symlink_to(target)
    os.replace(link.with_name("aside"), link)


@pytest.mark.parametrize("way", BROKEN)
def test_a_broken_export(export: Path, place: Path, tmp_path: Path, way: str):
    """At the start nothing is served; later the older one goes on."""
    spoil, named = BROKEN[way]
    newer = Path(shutil.copytree(export, tmp_path / "newer"))
    spoil(newer)
    metrics = Metrics()
    swap = HotSwap("main", place, "auto", metrics)
    before = swap.current
    point(place, newer)
    swap.reload()
    assert swap.current is before
    assert named in swap.error and "\n" not in swap.error
    assert metrics.registry.get_sample_value("skipwise_reload_failures_total", {"export": "main"}) == 1
    with pytest.raises(UserError, match=named):
        HotSwap("main", newer, "auto", Metrics())
    point(place, export)
    swap.reload()
    assert swap.error is None and swap.current.generation == 2


def test_a_delta(write_export: Callable[..., Path], tmp_path: Path):
    since = {"run": "runs/before", "rows_hash": "", "changed": TRACKS, "new": 0, "unchanged": 0, "gone": 0}
    since |= {"table_rows": TRACKS, "gone_tracks": {"file": "gone", "bytes": 0, "sha256": "0" * 64, "rows": 0}}
    with pytest.raises(UserError, match="only"):
        ServedExport.open(write_export(tmp_path / "delta", since=since), "auto", 1)


def test_vectors_that_are_no_numbers(export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    opened = ServedExport.open(export, "exact", 1).opened
    monkeypatch.setattr(type(opened.vectors), "take", lambda self, rows: np.full((len(rows), 8), np.nan, np.float32))
    with pytest.raises(UserError, match="not finite"):
        ServedExport.open(export, "exact", 1)


def test_a_change_is_taken_up_once_it_stands(place: Path, other: Path):
    swap = HotSwap("main", place, "auto", Metrics())
    assert not swap.changed()
    point(place, other)
    assert not swap.changed()  # may still be on its way
    (place.parent / "first" / "unrelated").touch()
    assert swap.changed()
    swap.reload()
    assert not swap.changed()
    place.unlink()  # replaced by two renames, export is nowhere for a moment
    assert not swap.changed()
    place.symlink_to(other)
    assert not swap.changed()


def test_the_older_export_leaves_memory(place: Path, other: Path):
    """Its table above all, once no batch uses it."""
    swap = HotSwap("main", place, "auto", Metrics())
    gc.disable()
    try:
        in_flight = swap.current
        table = weakref.ref(in_flight.opened.vectors)
        point(place, other)
        swap.reload()
        assert table() is not None
        assert len(in_flight.opened.vectors.take(np.arange(3))) == 3
        del in_flight
        gc.collect()
        assert table() is None
    finally:
        gc.enable()


def test_requests_while_exports_change(place: Path, export: Path, other: Path):
    """None fails, and each answer is of one export alone: which one, it says."""
    oracles = {f"{seed:064}": Oracle(path) for seed, path in enumerate((export, other))}
    wanted = {
        seed: [track for track, _ in one.recommend([("t_001", False), ("t_002", True)])]
        for seed, one in oracles.items()
    }
    body = {"session": [{"track": "t_001"}, {"track": "t_002", "skipped": True}]}

    async def ask_on(client: httpx.AsyncClient, until: asyncio.Event) -> list[httpx.Response]:
        responses = []
        while not until.is_set():
            responses.append(await client.post("/recommend", json=body))
        return responses

    async def everything() -> tuple[list[httpx.Response], dict]:
        until, extra, health = asyncio.Event(), [], {"loaded": 1, "reload_error": None}
        async with asking(Service(ServeConfig(place, reload_s=0.02))) as client:
            clients = [asyncio.create_task(ask_on(client, until)) for _ in range(6)]
            for target, loaded in ((other, 2), (place.parent / "none", 2), (export, 3), (other, 4)):
                point(place, target)
                wanted_health = loaded, target.exists()
                while (health["loaded"], health["reload_error"] is None) != wanted_health:
                    await asyncio.sleep(0.01)
                    health = (await client.get("/health")).json()["exports"]["main"]
                extra.append(await client.post("/recommend", json=body))  # one at least from each
            until.set()
            return [response for responses in await asyncio.gather(*clients) for response in responses] + extra, health

    responses, health = asyncio.run(asyncio.wait_for(everything(), 60))
    assert health["reload_error"] is None
    seen = set()
    for response in responses:
        assert response.status_code == 200
        answer = response.json()
        assert [one["track"] for one in answer["tracks"]] == wanted[answer["export"]["vocabulary_hash"]]
        seen.add(answer["export"]["loaded"])
    assert seen == {1, 2, 3, 4}


@pytest.mark.parametrize("way", ["taken", "broken", "report", "host"])
def test_nothing_is_served(export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str):
    """A sentence, and nobody listens."""
    served = []
    monkeypatch.setattr(server.uvicorn.Server, "serve", lambda *_, **__: served.append(True))
    options = {
        "broken": {"export": tmp_path},
        "report": {"report": tmp_path / "report.html"},
        "host": {"host": "no-such-host.invalid"},
    }
    with server.socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1] if way == "taken" else 0
        with pytest.raises(UserError) as refused:
            run(ServeConfig(**{"export": export, "port": port} | options.get(way, {})))
    named = {"taken": f"port {port}", "broken": "manifest.json", "report": "--report", "host": "--host"}
    assert named[way] in str(refused.value) and not served


@pytest.mark.parametrize(
    "options",
    [{"port": -1}, {"port": 65536}, {"max_batch": 0}, {"max_body": 0}, {"threads": 0}, {"reload_s": -1.0}],
)
def test_options(options: dict[str, Any]):
    with pytest.raises(ValueError, match=f"--{next(iter(options)).replace('_', '-')}"):
        ServeConfig(Path("export"), **options)
