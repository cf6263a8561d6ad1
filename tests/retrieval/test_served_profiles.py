"""What a listener kept before, from a run to its export, commands, files and the service."""

import asyncio
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from skipwise.common.distributed import process_group
from skipwise.common.errors import UserError
from skipwise.components.recommend import recommend
from skipwise.retrieval.export.config import ExportConfig
from skipwise.retrieval.export.exporter import write_export
from skipwise.retrieval.hit_rates import measure_hit_rates
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.recommend.config import RecommendConfig
from skipwise.retrieval.recommend.track_recommender import TrackRecommender
from skipwise.retrieval.search.stored import open_search
from skipwise.retrieval.serve.config import ServeConfig
from skipwise.retrieval.serve.service import Service
from skipwise.training.build import HeldOut
from skipwise.training.evaluation.evaluator import evaluate_run
from skipwise.training.loop import train
from skipwise.training.run.directory import RunDirectory
from tests.retrieval.serve.conftest import asking
from tests.support.exports import write_made
from tests.training.test_profile_runs import dataset, reading

SESSION = ["t_00003", "t_00004"]
PROFILE = [f"t_{row:05}" for row in (50, 60, 7, 60, 99, 12, 31)]
"""One more than is read."""


@pytest.fixture(scope="module")
def export(tmp_path_factory) -> Path:
    """Of a run that reads skips and profiles of up to 6 tracks."""
    folder = tmp_path_factory.mktemp("profiles")
    with process_group():
        config = reading(dataset(folder / "data"), folder / "run", epochs=1)
        faster = replace(config, optimizer=replace(config.optimizer, learning_rate=0.03, warmup_steps=0))
        train(faster, "best")
        write_export(ExportConfig(str(folder / "run"), folder / "export"))
    return folder / "export"


def test_an_export_hits_what_its_run_hits(export: Path):
    run = RunDirectory.open(str(export.parent / "run"))
    opened = OpenExport.open(export)
    assert opened.profile == 6 and list(opened.manifest.encoder.inputs)[-2:] == ["profile_BKD", "profile_lengths_B"]
    with process_group():
        own = evaluate_run(run, ("served",)).metrics["served"]["test"]
        held_out = HeldOut.of(run.config.evaluate, run.open_store(), "test")
        found = measure_hit_rates(run.config, held_out, opened, open_search(opened, "exact"), "test")
    assert [found[name] for name in ("hr@10", "ndcg@10")] == pytest.approx([own["hr@10"], own["ndcg@10"]], abs=1e-9)


@torch.no_grad()
def test_the_last_tracks_are_read_in_every_way(export: Path, capsys, tmp_path: Path):
    recommender = TrackRecommender.load(export)
    opened = recommender.opened
    row_of = {track: opened.tracks.row(track) for track in SESSION + PROFILE}
    vectors_6X = torch.from_numpy(opened.vectors.take(np.array([row_of[track] for track in PROFILE[:0:-1]])))
    items_2X = torch.from_numpy(opened.vectors.take(np.array([row_of[track] for track in SESSION])))
    signals_12C = torch.from_numpy(opened.view.signals.rows(np.full((1, 2), -1)))
    profile = {"profile_BKD": vectors_6X[None], "profile_lengths_B": torch.tensor([6])}
    output_1Y = opened.encoder(items_2X[None], torch.tensor([2]), signals_12C, **profile)
    dim = opened.manifest.dim - opened.manifest.keep.dim
    expected_D = output_1Y[0, :dim].numpy()
    query_D = recommender.encode(SESSION, profile=PROFILE)[:dim]
    np.testing.assert_allclose(query_D, expected_D, atol=1e-5)
    without = recommender.encode(SESSION)[:dim]
    assert np.abs(without - query_D).max() > 1e-3
    np.testing.assert_array_equal(recommender.encode(SESSION, profile=[])[:dim], without)
    both = recommender.encode([SESSION, SESSION], profile=[PROFILE, []])[:, :dim]
    np.testing.assert_allclose(both, [query_D, without], atol=1e-5)

    ranked = recommender.recommend(SESSION, profile=PROFILE)
    table = pa.table({"tracks": [SESSION, SESSION], "profile": [[], PROFILE]})
    assert recommender.recommend(table)["tracks"].to_pylist()[1] == [track for track, _ in ranked]
    recommend(RecommendConfig(export=export, session=",".join(SESSION), profile=",".join(PROFILE)))
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]] == [track for track, _ in ranked]

    async def ask(*bodies: dict) -> list:
        async with asking(Service(ServeConfig(export, reload_s=0))) as client:
            session = [{"track": track} for track in SESSION]
            sent = [client.post("/recommend", json={"session": session} | body) for body in bodies]
            return [await client.get("/exports"), *await asyncio.gather(*sent)]

    gone = {"profile": ["x", *PROFILE, "y"]}
    about, with_profile, plain, refused, dropped = asyncio.run(
        ask({"profile": PROFILE}, {}, gone, gone | {"unknown": "drop"})
    )
    assert about.json()["main"]["profile"] == 6
    for answer in (with_profile, dropped):
        assert [one["track"] for one in answer.json()["tracks"]] == [track for track, _ in ranked]
    assert dropped.json()["dropped"] == ["x", "y"]
    assert [one["track"] for one in plain.json()["tracks"]] == [track for track, _ in recommender.recommend(SESSION)]
    assert refused.status_code == 404 and "leave it out of the profile" in refused.json()["detail"]


def test_what_does_not_fit_is_refused(export: Path, tmp_path: Path):
    bare = write_made(tmp_path / "bare", ["t_003", "t_007"], np.eye(2, 8, dtype=np.float32))
    recommender = TrackRecommender.load(export)
    for sessions, profile, says in (
        (SESSION, ["nowhere"], "'profile' holds 'nowhere', which is not in the export"),
        ([SESSION], [PROFILE, PROFILE], "profile has 2 lists where there are 1 sessions"),
        (SESSION, [PROFILE], "profile cannot be read"),
        (pa.table({"tracks": [SESSION], "profile": [PROFILE]}), [PROFILE], "has a column 'profile' too"),
    ):
        with pytest.raises(UserError, match=says):
            recommender.recommend(sessions, profile=profile)
    with pytest.raises(UserError, match="--profile holds tracks that were kept: leave the mark behind 't_00007' out"):
        recommend(RecommendConfig(export=export, session="t_00003", profile="t_00007:kept"))
    with pytest.raises(UserError, match="reads no profile: leave it out, or export a run that was trained with"):
        recommend(RecommendConfig(export=bare, session="t_003", profile="t_007"))
    table = pa.table({"tracks": [["t_003"]], "profile": [["t_007"]], "other": [["is ignored"]]})
    pq.write_table(table, tmp_path / "in.parquet")
    output = tmp_path / "out.parquet"
    for asked in (
        lambda: recommend(RecommendConfig(export=bare, input=tmp_path / "in.parquet", output=output)),
        *(partial(TrackRecommender.load(bare).recommend, one) for one in (table, table.to_pandas())),
    ):
        with pytest.raises(UserError, match="has a column 'profile', and .*bare reads no profile: leave it out, or "):
            asked()
    assert not output.exists()
    with pytest.raises(ValueError, match="--profile goes with --session"):
        RecommendConfig(export=export, input=Path("in"), output=Path("out"), profile="t_00007")

    async def ask() -> tuple[int, str]:
        async with asking(Service(ServeConfig(bare, reload_s=0))) as client:
            body = {"session": [{"track": "t_003"}], "profile": ["t_007"]}
            answer = await client.post("/recommend", json=body)
            return answer.status_code, answer.json()["detail"]

    assert asyncio.run(ask()) == (
        422,
        "this export reads no profile: leave it out, or export a run with --data.profile",
    )
