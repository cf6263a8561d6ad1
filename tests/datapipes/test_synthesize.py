"""The structure that is planted can be found again, and the same seed writes the same bytes."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from skipwise.common.errors import UserError
from skipwise.datapipes import synthesize as synthetic
from skipwise.datapipes.manifest import Manifest
from skipwise.datapipes.prepare import PrepareConfig, prepare
from skipwise.datapipes.synthesize import Catalogue, SynthesizeConfig, synthesize


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    synthesize(SynthesizeConfig(output=folder / "log.parquet", sessions=20_000, tracks=2_000, seed=3))
    prepare(PrepareConfig(input=(folder / "log.parquet",), output=folder / "data"))
    return folder


def test_it_is_a_log_that_prepare_reads_without_a_fault(made):
    manifest = Manifest.read(made / "data")
    assert manifest.counts["sessions"] == 20_000
    assert manifest.session_lengths == {"min": 10, "max": 20}
    assert manifest.context_columns == [
        "context_type",
        "hour_of_day",
        "premium",
        "shuffle",
        "reason_start",
        "reason_end",
    ]
    log = pq.read_table(made / "log.parquet")
    lengths = Counter(log["session_id"].to_pylist())
    assert [lengths[session] for session in log["session_id"].to_pylist()] == log["session_length"].to_pylist()


def test_markov_beats_popularity(made):
    sessions = pq.read_table(made / "data" / "sessions", columns=["tracks"])["tracks"].to_pylist()
    tracks = Manifest.read(made / "data").counts["tracks"]
    popularity = np.zeros(tracks)
    following: dict[int, Counter] = defaultdict(Counter)
    for session in sessions:
        np.add.at(popularity, session[:-1], 1)
        for track, successor in zip(session[:-2], session[1:-1], strict=True):
            following[track][successor] += 1
    random = np.random.default_rng(0)
    hits = {"popularity": 0, "markov": 0}
    for session in sessions[:2_000]:
        others = np.setdiff1d(random.permutation(tracks)[:1_100], session)[:1_000]
        seen = following[session[-2]]
        markov = np.array([seen[track] for track in others]) + popularity[others] * 1e-6
        hits["popularity"] += np.count_nonzero(popularity[others] >= popularity[session[-1]]) < 10
        hits["markov"] += np.count_nonzero(markov >= seen[session[-1]] + popularity[session[-1]] * 1e-6) < 10
    assert hits["markov"] > 0.5 * 2_000
    assert hits["markov"] > 3 * hits["popularity"]


def test_skips_tell_of_a_track_out_of_the_listeners_cluster(made):
    config = SynthesizeConfig(output=made / "log.parquet", sessions=20_000, tracks=2_000, seed=3)
    catalogue = Catalogue(config)
    cluster_of = {
        track: cluster
        for cluster, (start, end) in enumerate(zip(catalogue.starts[:-1], catalogue.starts[1:], strict=True))
        for track in catalogue.ids[start:end].to_pylist()
    }
    log = pq.read_table(made / "log.parquet", columns=["session_id", "track_id_clean", "skip_2"]).to_pylist()
    plays = defaultdict(list)
    for row in log[:100_000]:
        plays[row["session_id"]].append((cluster_of[row["track_id_clean"]], row["skip_2"]))
    skipped = {True: [], False: []}
    for session in plays.values():
        ((home, _),) = Counter(cluster for cluster, _ in session).most_common(1)
        for cluster, skip in session:
            skipped[cluster == home].append(skip)
    assert np.mean(skipped[False]) > 0.7
    assert np.mean(skipped[True]) < 0.35


def test_listeners_go_on_from_the_track_that_they_last_kept(made):
    """After a play of their own cluster that they skipped at once, too: the skipped one's successors are rare."""
    catalogue = Catalogue(SynthesizeConfig(output=made / "log.parquet", sessions=20_000, tracks=2_000, seed=3))
    row_of = {track: row for row, track in enumerate(catalogue.ids.to_pylist())}
    cluster_of = np.repeat(np.arange(len(catalogue.sizes)), catalogue.sizes)
    log = pq.read_table(made / "log.parquet", columns=["session_position", "track_id_clean", "skip_2", "skip_3"])
    plays = [list(play.values()) for play in log[:60_000].to_pylist()]
    after_kept, after_skipped = [], []
    for (place, kept, *skips), (_, skipped, at_once, _), (last, following, *_) in zip(
        plays, plays[1:], plays[2:], strict=False
    ):
        kept, skipped, following = row_of[kept], row_of[skipped], row_of[following]
        if last == place + 2 and not any(skips) and at_once and cluster_of[kept] == cluster_of[skipped]:
            after_kept.append(following in catalogue.successors[:, kept])
            after_skipped.append(following in catalogue.successors[:, skipped])
    assert len(after_kept) > 1_000 and np.mean(after_kept) > 0.5 and np.mean(after_skipped) < 0.2


def test_sessions_of_each_chunk_are_drawn_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "SESSIONS_PER_CHUNK", 1024)
    synthesize(SynthesizeConfig(output=tmp_path / "log.parquet", sessions=3 * 1024, tracks=2_000))
    log = pq.read_table(tmp_path / "log.parquet").to_pandas()
    chunks = log[log.session_position == 1].track_id_clean.to_numpy().reshape(3, 1024)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (chunks[one] == chunks[other]).mean() < 0.1


def test_plays_are_counted_from_1_and_flags_have_their_shares(made):
    log = pq.read_table(made / "log.parquet").to_pandas()
    by_session = log.groupby("session_id")
    assert (by_session.session_position.min() == 1).all()
    assert (by_session.session_position.max() == by_session.size()).all()
    assert by_session.first().premium.mean() == pytest.approx(0.8, abs=0.02)
    assert by_session.first().hist_user_behavior_is_shuffle.mean() == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("zipf", [0.0, 1.0, 2.0])
def test_a_cluster_is_drawn_from_by_zipfs_law(tmp_path, zipf):
    catalogue = Catalogue(SynthesizeConfig(tmp_path / "log.csv", sessions=1, tracks=8, clusters=2, zipf=zipf))
    drawn = catalogue.draw(np.random.default_rng(0), np.repeat([0, 1], 50_000))
    law = 1 / np.arange(1.0, 5) ** zipf
    for cluster, rows in enumerate(np.split(drawn, 2)):
        shares = np.bincount(rows, minlength=8)[4 * cluster : 4 * cluster + 4] / 50_000
        assert np.abs(shares - law / law.sum()).max() < 0.012, "five standard errors"


def test_ids_do_not_tell_popularity(made):
    counts = pq.read_table(made / "data" / "vocabulary.parquet").sort_by("track_id")["count"].to_numpy()
    ranks = counts.argsort().argsort()
    assert abs(np.corrcoef(ranks, np.arange(len(counts)))[0, 1]) < 0.08
    assert np.sort(counts)[-200:].sum() > 2 * 200 * counts.mean()


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    names = ("one.csv", "two.csv", "three.csv", "four.csv.gz", "five.csv.gz")
    for name, seed in zip(names, (1, 1, 2, 1, 1), strict=True):
        synthesize(SynthesizeConfig(output=tmp_path / name, sessions=9_000, tracks=200, seed=seed, clusters=5))
    one, two, three, four, five = ((tmp_path / name).read_bytes() for name in names)
    assert one == two != three
    assert four == five
    assert pyarrow.csv.read_csv(tmp_path / "one.csv").equals(pyarrow.csv.read_csv(tmp_path / "four.csv.gz"))


def test_the_first_chunk_does_not_depend_on_how_many_follow(tmp_path):
    for sessions in (8_192, 10_000):
        synthesize(SynthesizeConfig(output=tmp_path / f"{sessions}.csv", sessions=sessions, tracks=100, seed=4))
    short, long = ((tmp_path / f"{sessions}.csv").read_bytes() for sessions in (8_192, 10_000))
    assert long.startswith(short)


def test_an_output_that_exists_is_kept_unless_told(tmp_path):
    output = tmp_path / "log.csv"
    output.write_text("mine")
    with pytest.raises(UserError, match="exists: choose another --output"):
        synthesize(SynthesizeConfig(output=output, sessions=5, tracks=100))
    assert output.read_text() == "mine"
    synthesize(SynthesizeConfig(output=output, sessions=5, tracks=100, overwrite=True))
    assert output.read_text().startswith("session_id") or output.read_text().startswith('"session_id"')
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sessions": 0}, "--sessions must be at least 1"),
        ({"sessions": -5}, "--sessions must be at least 1"),
        ({"tracks": 99}, "--tracks must be at least twice --clusters, 100, not 99"),
        ({"clusters": 0}, "--clusters must be at least 1"),
        ({"seed": -1}, "--seed must not be negative"),
        ({"zipf": float("nan")}, "--zipf must be from 0 to 5"),
        ({"output": Path("log.xlsx")}, "--output must end in .csv, .csv.gz or .parquet"),
    ],
)
def test_bad_options_are_named(options, says):
    with pytest.raises(ValueError, match=says):
        SynthesizeConfig(**{"output": Path("log.csv"), "sessions": 10, "tracks": 1_000, **options})


def test_one_cluster_has_no_strangers(tmp_path):
    synthesize(SynthesizeConfig(output=tmp_path / "log.parquet", sessions=10, tracks=2, clusters=1, zipf=0))
    assert set(pq.read_table(tmp_path / "log.parquet")["track_id_clean"].to_pylist()) == {"t_0", "t_1"}
