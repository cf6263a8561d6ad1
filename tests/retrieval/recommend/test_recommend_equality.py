"""An export, opened again, asks what the live model asks, of every direction, kind and way to read skips."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product, starmap
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest
import torch

from skipwise.common.distributed import process_group
from skipwise.datapipes.sessions import SessionStore
from skipwise.retrieval.export import exporter
from skipwise.retrieval.export.config import ExportConfig
from skipwise.retrieval.formats import DType, Format, PartFormat
from skipwise.retrieval.hit_rates import measure_hit_rates
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.recommend.config import RecommendOptions
from skipwise.retrieval.recommend.recommender import Recommender, SessionHistory
from skipwise.retrieval.recommend.track_recommender import TrackRecommender
from skipwise.retrieval.search.exact import ExactSearch
from skipwise.training.build import HeldOut, build_model, evaluation_loader
from skipwise.training.checkpoint.checkpoints import load_best
from skipwise.training.evaluation.evaluator import evaluate_run
from skipwise.training.evaluation.records import read_target_ranks
from skipwise.training.run.directory import RunDirectory
from tests.conftest import random_sessions, write_dataset
from tests.retrieval.conftest import LONGEST, TRACKS, save_untrained, small
from tests.support.contexts import add_contexts, words

pytestmark = [pytest.mark.ranks, pytest.mark.usefixtures("group")]
KINDS = [kind for kind in starmap(PartFormat, product(get_args(Format), get_args(DType))) if kind.supported]


@pytest.fixture(scope="module")
def group() -> Iterator[None]:
    """Of one rank, in the test's own process."""
    with process_group():
        yield


@torch.no_grad()
def live_queries(run_path: Path) -> tuple[SessionHistory, torch.Tensor]:
    """All test sessions up to their target, and what `evaluate` asks of each."""
    run = RunDirectory.open(str(run_path))
    store, config = run.open_store(), run.config
    model = build_model(config, store.num_tracks, contexts=run.record.contexts)
    load_best(model, run.path)
    model.eval()
    sessions, queries = [], []
    window = store.read(np.arange(len(store.group_sizes)))
    held_out = HeldOut.of(config.evaluate, store, "test")
    for (batch,) in evaluation_loader(config, held_out, (), "test", 0).epoch(0):
        task = model.module
        rows_UX, signals_MD = task.look_up(batch.sessions)
        found_BD = task.learner.predict(rows_UX, batch.sessions, signals_MD)
        for number, query_D in zip(batch.sessions.session_B.tolist(), found_BD, strict=True):
            if number >= 0:
                plays = range(window.offsets[number], window.offsets[number + 1] - 1)
                sessions.append([(int(window.tracks[play]), int(window.skips[play])) for play in plays])
                queries.append(query_D)
    return SessionHistory.of(sessions), torch.stack(queries)


def made_run(folder: Path, recipe: str, keep: float = 0.0, **data) -> Path:
    sessions = random_sessions(60, TRACKS, LONGEST + 4)
    skipped = [(rows, [2] * len(rows)) for rows, _ in sessions[:30]]  # the first that is compared, too
    write_dataset(folder / "data", [*skipped, *sessions[30:]], TRACKS)
    config = small(recipe, folder)
    loss = replace(config.loss, keep=keep, keep_dim=4)
    save_untrained(replace(config, data=replace(config.data, **data), loss=loss))
    return Path(config.run_dir)


@pytest.mark.parametrize(
    ("read", "keep", "inputs"),
    [("read", 0.0, ()), ("filter", 0.0, ()), ("read", 0.5, ("skips",)), ("read", 0.5, ()), ("read", 0.0, ("skips",))],
)
@pytest.mark.parametrize("recipe", ["best", "bidir"])
def test_queries_are_the_live_models(recipe: str, read: str, keep: float, inputs: tuple, tmp_path: Path):
    """And outputs, with a keep head: q, r and b; an index is tuned by q and r as the dial auto takes them."""
    run_path = made_run(tmp_path, recipe, keep, skipped_tracks=read, skip_up_to=3, inputs=inputs)

    history, live_SD = live_queries(run_path)
    exporter.write_export(ExportConfig(str(run_path), tmp_path / "out"))
    opened = OpenExport.open(tmp_path / "out")
    if read == "filter":
        skipped_BT = opened.view.skipped(history.strengths_BT)
        assert (~skipped_BT & (history.rows_BT >= 0)).sum(axis=1).min() == 0, "no session is left nothing of"
    found_SD = Recommender(opened, ExactSearch(opened.vectors)).outputs(history)
    assert len(live_SD) == len(SessionStore(str(tmp_path / "data"))) == 60
    torch.testing.assert_close(found_SD, live_SD, rtol=1e-5, atol=1e-5)
    if keep:
        head = opened.manifest.keep
        live_SD = torch.cat([live_SD[:, :-5], head.dial * live_SD[:, -5:-1]], dim=1)
    # Those of the validation come first; each half is in another order than the live ones.
    apart_SS = torch.cdist(opened.queries()[60:], live_SD, compute_mode="donot_use_mm_for_euclid_dist")
    assert max(apart_SS.amin(dim=dim).max() for dim in (0, 1)) < 1e-4


@pytest.mark.parametrize(
    ("split", "dial"), [(None, 0.0), ({"test": 20, "train": 20, "validation": 20}, 0.0), (None, 50.0)]
)
@pytest.mark.parametrize("recipe", ["best", "bidir"])
def test_served_is_what_recommend_returns_by_default(recipe: str, split: dict | None, dial: float, tmp_path: Path):
    """Test by test: a target's rank is its place among the tracks recommended, and 0 where it cannot be; with a keep
    head and a context column where the dial is turned."""
    sessions = random_sessions(60, TRACKS, LONGEST + 4)
    for number, (rows, _) in enumerate(sessions):
        if number % 4 == 0:
            rows[-1] = rows[1]  # a repeated target
    data = write_dataset(tmp_path / "data", sessions, TRACKS, split=split)
    texts = add_contexts(data, {"device": words("phone", "tv", None)})["device"]
    config = small(recipe, tmp_path)
    if dial:
        config = replace(
            config,
            data=replace(config.data, inputs=("skips", "device")),
            loss=replace(config.loss, keep=0.5),
            evaluate=replace(config.evaluate, dial=dial),
        )
    save_untrained(config)
    exporter.write_export(ExportConfig(config.run_dir, tmp_path / "out"))
    run = RunDirectory.open(config.run_dir)
    evaluate_run(run, ("served",))
    ranks = read_target_ranks(run.path, "served", "test")
    assert 4 < ranks.repeated.sum() < len(ranks.rank) - 4

    recommender = TrackRecommender.load(tmp_path / "out")
    places = []
    for session, position, target in zip(ranks.session, ranks.position, ranks.target, strict=True):
        rows, strengths = (values[:position] for values in sessions[session])
        columns = {"tracks": [[f"t_{row:05}" for row in rows]], "skips": [strengths]}
        columns["device"] = [texts[session][:position]]
        ids = recommender.recommend(pa.table(columns), k=TRACKS, dial=dial)["tracks"][0].as_py()
        own = f"t_{target:05}"
        places.append(ids.index(own) + 1 if own in ids else 0)
    assert places == ranks.rank.tolist()
    held_out = HeldOut.of(run.config.evaluate, run.open_store(), "test")
    opened = OpenExport.open(tmp_path / "out")
    found = measure_hit_rates(run.config, held_out, opened, ExactSearch(opened.vectors), "test")
    assert found["hr@10"] == pytest.approx(np.mean([0 < place <= 10 for place in places]))


def test_every_kind_is_opened(tmp_path: Path, monkeypatch):
    """The same sessions, the same answers but for what the type rounds off."""
    trace, traced = torch.export.export, []

    def trace_once(*arguments, **options):
        """Tracing takes seconds, and the program is the same for each kind."""
        if not traced:
            traced.append(trace(*arguments, **options))
        return traced[0]

    monkeypatch.setattr(torch.export, "export", trace_once)
    run_path = made_run(tmp_path, "best")
    history, _ = live_queries(run_path)
    answers = {}
    for kind in KINDS:
        output = tmp_path / f"{kind.format}-{kind.dtype}"
        exporter.write_export(ExportConfig(str(run_path), output, False, kind.format, kind.dtype))
        opened = OpenExport.open(output)
        assert opened.tracks.ids(np.array([0, TRACKS - 1])).to_pylist() == ["t_00000", f"t_{TRACKS - 1:05}"]
        answers[kind] = Recommender(opened, ExactSearch(opened.vectors)).recommend(history, RecommendOptions(k=5))
    for kind, (rows_BK, scores_BK, _) in answers.items():
        same = answers[PartFormat("parquet", kind.dtype)]
        assert np.array_equal(rows_BK, same[0]) and np.array_equal(scores_BK, same[1])
        np.testing.assert_allclose(scores_BK, answers[PartFormat()][1], atol=0.05)
