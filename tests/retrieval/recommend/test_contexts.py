"""Context columns of past plays, from an export: in tables, from Python and over HTTP, against the live model."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from skipwise.common.distributed import process_group
from skipwise.common.errors import UserError
from skipwise.retrieval.export.config import ExportConfig
from skipwise.retrieval.export.exporter import write_export
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.recommend.recommender import Recommender
from skipwise.retrieval.recommend.session_columns import SessionColumns
from skipwise.retrieval.recommend.track_recommender import TrackRecommender
from skipwise.retrieval.serve.config import ServeConfig
from skipwise.retrieval.serve.service import Service
from skipwise.training.loop import train
from tests.conftest import random_sessions, write_dataset
from tests.retrieval.conftest import LONGEST, TRACKS, small
from tests.retrieval.recommend.test_recommend_equality import live_queries
from tests.retrieval.serve.conftest import asking
from tests.support.contexts import add_contexts, words

pytestmark = pytest.mark.ranks
COLUMNS = {
    "device": words("phone", "tv", None),
    "hour": words("7", "12", "23"),
    "shuffle": words("true", "false"),
    "pause": words("1", None, "8", "13"),
}
SESSIONS = random_sessions(60, TRACKS, LONGEST)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Iterator[tuple[Path, torch.Tensor, pa.Table]]:
    """A folder with run and export; the live model's outputs after each session but its last play; these as a table."""
    folder = tmp_path_factory.mktemp("contexts")
    write_dataset(folder / "data", SESSIONS, TRACKS)
    texts = add_contexts(folder / "data", COLUMNS)
    config = small("best", folder)
    config = replace(
        config,
        data=replace(config.data, inputs=("device", "skips", "hour", "shuffle", "pause")),
        encoder=replace(config.encoder, times=True),
        loss=replace(config.loss, keep=0.5),
        train=replace(config.train, epochs=1),
    )
    with process_group():
        train(config, "best")
        write_export(ExportConfig(config.run_dir, folder / "export"))
        history, live_SY = live_queries(Path(config.run_dir))
    plays = [
        tuple(zip(*(values[rows >= 0] for values in (rows, strengths)), strict=True))
        for rows, strengths in zip(history.rows_BT, history.strengths_BT, strict=True)
    ]
    live_SY = live_SY[[plays.index(tuple(zip(*(values[:-1] for values in one), strict=True))) for one in SESSIONS]]
    columns = {
        "tracks": [[f"t_{row:05}" for row in rows[:-1]] for rows, _ in SESSIONS],
        "skips": [strengths[:-1] for _, strengths in SESSIONS],
        "device": [values[:-1] for values in texts["device"]],
        "hour": [[int(value) for value in values[:-1]] for values in texts["hour"]],
        "shuffle": [[value == "true" for value in values[:-1]] for values in texts["shuffle"]],
        "pause": [values[:-1] for values in texts["pause"]],
    }
    yield folder, live_SY, pa.table(columns)


def outputs(opened: OpenExport, table: pa.Table) -> torch.Tensor:
    """What the export's encoder gives of each session."""
    columns, recommender = SessionColumns("sessions", table.schema, opened), Recommender(opened, None)
    (sessions,) = columns.read(table.combine_chunks().to_batches(), "refuse")
    found = torch.full((len(table), opened.manifest.dim + 1), torch.nan)
    for chosen_B, history in sessions.batches(16):
        found[chosen_B] = recommender.outputs(history)
    return found


def test_an_export_reads_what_the_live_model_reads(made):
    folder, live_SY, table = made
    opened = OpenExport.open(folder / "export")
    torch.testing.assert_close(outputs(opened, table), live_SY, rtol=1e-5, atol=1e-5)
    for name in COLUMNS:
        assert not torch.allclose(outputs(opened, table.drop_columns([name])), live_SY, atol=1e-3), name


def test_what_training_never_saw_is_not_known(made):
    folder, _, table = made
    opened = OpenExport.open(folder / "export")
    unseen = table.set_column(3, "hour", pa.array([[4] * len(one) for one in table["hour"]]))
    assert torch.equal(outputs(opened, unseen), outputs(opened, table.drop_columns(["hour"])))


@pytest.mark.parametrize("kind", ["arrow", "pandas"])
def test_from_python_and_over_http(made, kind: str):
    folder, _, table = made
    few = table.slice(0, 8)
    recommender = TrackRecommender.load(folder / "export")
    ranked = recommender.recommend(few if kind == "arrow" else few.to_pandas(), k=5)
    wanted = {name: ranked[name].to_pylist() if kind == "arrow" else list(ranked[name]) for name in ("tracks", "kept")}
    bodies = []
    for session in few.to_pylist():
        contexts = [
            {name: session[name][place] for name in COLUMNS if session[name][place] is not None}
            for place in range(len(session["tracks"]))
        ]
        plays = zip(session["tracks"], session["skips"], contexts, strict=True)
        bodies.append([{"track": track, "skipped": strength in (1, 2), "context": of} for track, strength, of in plays])
    # A request has flags, not strengths.
    flags = pa.array([[2 if strength in (1, 2) else 0 for strength in one] for one in few["skips"].to_pylist()])
    told = recommender.recommend(few.set_column(1, "skips", flags), k=5)

    async def asked() -> list[dict]:
        async with asking(Service(ServeConfig(folder / "export", reload_s=0))) as client:
            answers = [await client.post("/recommend", json={"session": body, "k": 5}) for body in bodies]
            wrong = [{"track": "t_00001", "context": {"weather": "rain"}}]
            refused = await client.post("/recommend", json={"session": wrong})
            assert refused.status_code == 422
            assert "'weather' is no context column that this export reads: it reads device, hour" in refused.text
            exports = (await client.get("/exports")).json()
            assert exports["main"]["reads"] == ["device", "skips", "hour", "shuffle", "pause"]
            return [answer.json()["tracks"] for answer in answers]

    for tracks, names, kept in zip(asyncio.run(asked()), told["tracks"], told["kept"], strict=True):
        assert [one["track"] for one in tracks] == names.as_py()
        np.testing.assert_allclose([one["kept"] for one in tracks], kept.as_py(), atol=1e-5)
    assert all(len(set(one)) == 5 for one in wanted["tracks"]) and np.ptp(np.concatenate(wanted["kept"])) > 0


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ([[1.5]], "column 'hour' is list<item: double>: expected lists of words, whole numbers or flags"),
        (["7"], "column 'hour' is string: expected lists of words"),
        ([["7", "8"]], "row 0 .*'hour' has not as many values as 'tracks'"),
    ],
)
def test_refused_columns(made, values: list, named: str):
    with pytest.raises(UserError, match=named):
        TrackRecommender.load(made[0] / "export").recommend(pa.table({"tracks": [["t_00001"]], "hour": values}))
