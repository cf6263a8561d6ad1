"""Deltas in the service: equal to a whole export, at once, of one version, and refused where they do not fit."""

import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from skipwise.common import mirrors
from skipwise.common.distributed import logger, process_group
from skipwise.common.mirrors import publish
from skipwise.common.stores import Place
from skipwise.retrieval import shared_rows
from skipwise.retrieval.export.config import ExportConfig
from skipwise.retrieval.export.exporter import write_export
from skipwise.retrieval.export.row_encoding import encode
from skipwise.retrieval.formats import encode_rows
from skipwise.retrieval.live_export import LiveExport
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.row_delta import Deltas
from skipwise.retrieval.search import exact
from skipwise.retrieval.serve.config import ServeConfig
from skipwise.retrieval.serve.live_rows import Gate
from skipwise.training.config import RunConfig
from tests.retrieval.serve.conftest import Asked
from tests.support.following import TRACKS, base_run, follow_parts, following, write_part
from tests.support.stored import bucket, object_store

__all__ = ["bucket", "object_store"]


def exported(run: str | Path, output: Path, **options) -> Path:
    with process_group():
        write_export(ExportConfig(str(run), output, examples=0, **options))
    return output


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> RunConfig:
    """What goes on from a base run."""
    return base_run(tmp_path_factory.mktemp("live"))


@pytest.fixture(scope="module")
def made(config) -> dict[str, Path]:
    """The export of a base run, the deltas of two parts, the export behind them, and the deltas of one part more."""
    folder = Path(config.init_from).parent
    parts, deltas = folder / "parts", folder / "deltas"
    write_part(parts / "1", 5, seed=1)
    write_part(parts / "2", 66, seed=2)
    wanted = following(config, folder / "followed", parts, deltas=str(deltas), delta_steps=1, evict_after=1)
    follow_parts(wanted)
    made = {"base": exported(folder / "run", folder / "base"), "whole": exported(folder / "followed", folder / "whole")}
    shutil.copytree(deltas, folder / "two-parts")
    write_part(parts / "3", 8, seed=3)
    follow_parts(wanted)
    return made | {"two-parts": folder / "two-parts", "deltas": deltas}


def applied(export: Path, deltas: Path) -> LiveExport:
    live, source, number = LiveExport(OpenExport.open(export)), Deltas(str(deltas)), 0
    while delta := source.read(live.applied.number + 1):
        assert live.follows(delta)
        live.commit(live.prepare(delta))
        number += 1
    assert number
    return live


def same(live: OpenExport, whole: OpenExport) -> None:
    rows = np.arange(whole.manifest.rows)
    assert live.manifest.rows == whole.manifest.rows
    assert live.vectors.take(rows).tobytes() == whole.vectors.take(rows).tobytes()
    assert live.tracks.ids(rows).equals(whole.tracks.ids(rows))
    assert live.tracks.rows(whole.tracks.ids(rows)).tolist() == rows.tolist()
    weights = (dict(one.encoder.state_dict()) for one in (live, whole))
    first, second = weights
    assert all(first[name].equal(second[name]) for name in second) and first.keys() == second.keys()


def test_an_export_with_all_deltas_is_the_whole_export_of_its_run(made):
    live, whole = applied(made["base"], made["two-parts"]).opened, OpenExport.open(made["whole"])
    same(live, whole)
    assert live.manifest.rows == TRACKS + 16 and live.tracks.row(f"t_{TRACKS:05}") is None, "no row was taken away"


def test_rows_that_workers_share_take_deltas_each_by_itself(made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shared_rows, "_folder", tmp_path)
    another = OpenExport.open(made["base"])
    before = another.vectors.take(np.arange(TRACKS)).copy()
    same(applied(made["base"], made["two-parts"]).opened, OpenExport.open(made["whole"]))
    assert another.vectors.take(np.arange(TRACKS)).tobytes() == before.tobytes()


def test_an_export_of_the_run_goes_on_where_it_stands(made):
    whole = OpenExport.open(made["whole"])
    assert whole.manifest.delta.number == 4
    same(applied(made["whole"], made["deltas"]).opened, applied(made["base"], made["deltas"]).opened)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_rows_are_converted_as_export_converts_them(dtype: str):
    rows_RD = torch.randn(5000, 13) * torch.logspace(-12, 4, 5000)[:, None]
    rows_RD[0], rows_RD[1] = 0, 3.5
    assert encode_rows(rows_RD.numpy(), dtype).tobytes() == encode(rows_RD, dtype, np.arange(5000)).tobytes()


@pytest.mark.parametrize("first_pass", [False, True])
def test_the_service_answers_with_new_tracks_and_says_which_version(
    first_pass: bool, made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if first_pass:
        monkeypatch.setattr(exact, "_FEWEST_ROWS", 1)
        monkeypatch.setattr(exact, "_AFTER_QUERIES", 1)
    deltas = tmp_path / "deltas"
    asked = Asked(ServeConfig(made["base"], made["whole"], search="exact", reload_s=0, deltas=str(deltas)))
    main = asked.service.exports["main"]
    new = OpenExport.open(made["whole"]).tracks.ids(np.array([TRACKS]))[0].as_py()
    session = [("t_00001", False), ("t_00002", True)]
    assert asked.recommend([(new, False)]).status_code == 404
    assert asked.recommend(session).json()["export"]["delta"] == 0
    for number in range(1, 5):
        name = f"{number:08}"
        shutil.copytree(made["two-parts"] / name, deltas / name)
        main.refresh()
        answer = asked.recommend(session, k=70).json()
        assert answer["export"]["delta"] == number and answer["export"]["loaded"] == 1
    other = asked.recommend(session, k=70, export="compare").json()
    assert answer["tracks"] == other["tracks"]
    nearest = [asked("GET", f"/similar/{new}?k=70&export={name}").json()["tracks"] for name in ("main", "compare")]
    assert nearest[0] == nearest[1]
    assert new in [track["track"] for track in answer["tracks"]]
    assert asked.recommend([(new, False)]).status_code == 200
    assert asked("GET", f"/similar/{new}").json()["export"]["delta"] == 4
    metrics = asked("GET", "/metrics").text
    assert 'skipwise_delta{export="main"} 4.0' in metrics and 'skipwise_delta_lag_seconds{export="main"}' in metrics
    assert asked("GET", "/health").json()["exports"]["main"]["delta_error"] is None
    asked.close()


def test_a_folder_without_deltas_is_told_of(made, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch):
    monkeypatch.setattr(logger, "propagate", True)
    asked = Asked(ServeConfig(made["base"], search="exact", reload_s=0, deltas=str(tmp_path / "detlas")))
    assert f"--deltas {tmp_path / 'detlas'} has no delta yet: the rows are those of {made['base']}" in caplog.text
    assert asked.service.exports["main"].health()["delta_error"] is None, "the run may write it still"
    asked.close()


def test_a_delta_that_does_not_fit_is_refused_and_the_service_goes_on(made, tmp_path: Path):
    deltas = tmp_path / "deltas"
    shutil.copytree(made["two-parts"], deltas)
    damaged = next((deltas / "00000002").glob("rows-*"))
    damaged.write_bytes(damaged.read_bytes()[:-4] + b"xxxx")
    asked = Asked(ServeConfig(made["base"], search="exact", reload_s=0, deltas=str(deltas)))
    main = asked.service.exports["main"]
    assert main.current.delta == 1 and "SHA-256" in main.health()["delta_error"]
    shutil.rmtree(deltas / "00000002")
    shutil.copytree(made["two-parts"] / "00000002", deltas / "00000002")
    main.refresh()
    assert main.current.delta == 4 and main.health()["delta_error"] is None

    # Another sequence from the third on: what has been applied of it is gone, and the export is opened again.
    asked.service.exports["main"] = main
    manifest = deltas / "00000004" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"part": "2"', '"part": "other"'))
    main.refresh()
    assert main.current.generation == 2 and main.current.delta == 4
    asked.close()

    wrong = Asked(ServeConfig(made["whole"], search="exact", reload_s=0, deltas=str(deltas)))
    assert "export the run that follows" in wrong.service.exports["main"].health()["delta_error"]
    generation = wrong.service.exports["main"].current.generation
    wrong.service.exports["main"].refresh()
    assert wrong.service.exports["main"].current.generation == generation, "opened again and again"
    wrong.close()


def test_deltas_of_another_run_are_refused(made):
    live = LiveExport(replace(OpenExport.open(made["base"])))
    live.opened = replace(live.opened, manifest=live.opened.manifest.model_copy(update={"trained": {"other": 1}}))
    with pytest.raises(Exception, match="is no export of the run that the deltas go on from"):
        live.follows(Deltas(str(made["deltas"])).read(1))


def test_parts_and_deltas_in_an_object_store(made, config, bucket, object_store, tmp_path, monkeypatch):  # noqa: F811
    """The run takes parts that land in a bucket, writes deltas there, and a service follows them: to the same bits."""
    stream = {"deltas": f"{bucket}/deltas", "delta_steps": 1, "evict_after": 1}
    wanted = following(config, tmp_path / "run", f"{bucket}/parts", **stream)

    def land(*names: str) -> None:
        for name in names:
            part = shutil.copytree(Path(config.init_from).parent / "parts" / name, tmp_path / name)
            publish(part, Place.of(f"{bucket}/parts/{name}"))
        follow_parts(wanted)

    land("1", "2")
    asked = Asked(ServeConfig(made["base"], search="exact", reload_s=0, deltas=f"{bucket}/deltas"))
    main = asked.service.exports["main"]
    same(main.current.opened, OpenExport.open(made["whole"]))
    assert main.current.delta == 4
    land("3")
    object_store.reset()
    monkeypatch.setattr(mirrors, "_FRESH_S", -10.0)  # as if everything had been stored long ago
    main.refresh()
    assert main.current.delta == 6 and main.health()["delta_error"] is None
    same(main.current.opened, applied(made["base"], made["deltas"]).opened)
    assert not [name for name in object_store.asked("GET") if name.startswith("deltas/00000001/")], "is known already"
    looks, files = [], Place.files
    monkeypatch.setattr(Place, "files", lambda place: looks.append(place) or files(place))
    main.refresh()
    assert len(looks) == 1
    asked.close()


def test_nobody_reads_while_a_delta_is_written():
    gate, seen, table = Gate(), [], np.zeros(1 << 16)
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            with gate.reading():
                seen.append((table.min(), table.max()))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(100):
        with gate.writing():
            for first in range(0, len(table), 1 << 12):
                table[first : first + (1 << 12)] = number
    done.set()
    for reader in readers:
        reader.join()
    assert seen and all(least == most for least, most in seen)
