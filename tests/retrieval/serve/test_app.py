"""Each address of the service, against the export asked directly."""

import asyncio
import shutil
import threading
from pathlib import Path

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from skipwise.common.errors import UserError
from skipwise.retrieval.export_manifest import ExportManifest, IndexEntry
from skipwise.retrieval.serve.config import ServeConfig
from skipwise.retrieval.serve.served_export import ServedExport
from skipwise.retrieval.serve.service import Service
from skipwise.retrieval.word_index import write_words
from tests.retrieval.serve.conftest import DIM, MOST, NAMES, TRACKS, Asked, Oracle, asking, plays, sentence
from tests.support.exports import change, record

SESSION = [("t_004", False), ("t_010", True), ("ü/ü", False), ("t_010", False), ("t_100", True)]


def ranked(response: httpx.Response) -> list[tuple[str, float]]:
    assert response.status_code == 200, response.text
    return [(one["track"], one["score"]) for one in response.json()["tracks"]]


def assert_same(given: list[tuple[str, float]], wanted: list[tuple[str, float]]) -> None:
    assert [track for track, _ in given] == [track for track, _ in wanted]
    np.testing.assert_allclose([score for _, score in given], [score for _, score in wanted], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("exclude", ["session", "kept", "skipped", "none"])
def test_recommend(ask: Asked, oracle: Oracle, exclude: str):
    response = ask.recommend(SESSION, k=25, exclude=exclude)
    assert_same(ranked(response), oracle.recommend(SESSION, 25, exclude=exclude))
    assert response.json()["dropped"] == []


def test_recommend_by_default(ask: Asked, oracle: Oracle):
    response = ask("POST", "/recommend", json={"session": [{"track": "t_001"}, {"track": "t_002"}]})
    assert_same(ranked(response), oracle.recommend([("t_001", False), ("t_002", False)], 10))
    main = {"name": "main", "recipe": "best", "vocabulary_hash": "0" * 64, "loaded": 1, "delta": 0}
    assert response.json()["export"] == main


def test_more_than_there_are(ask: Asked, oracle: Oracle):
    session = [(name, False) for name in NAMES[: MOST + 3]]
    given = ranked(ask.recommend(session, k=1000))
    assert len(given) == TRACKS - len(session)
    assert_same(given, oracle.recommend(session, 1000))


def test_the_other_export(ask: Asked, other: Path):
    response = ask.recommend(SESSION, export="compare")
    assert_same(ranked(response), Oracle(other).recommend(SESSION))
    assert response.json()["export"]["name"] == "compare"


def test_unknown_tracks(ask: Asked, oracle: Oracle):
    session = [("nowhere", True), *SESSION, ("gone", False)]
    refused = ask.recommend(session)
    assert refused.status_code == 404 and "'nowhere'" in sentence(refused)
    dropped = ask.recommend(session, unknown="drop")
    assert dropped.json()["dropped"] == ["nowhere", "gone"]
    assert_same(ranked(dropped), oracle.recommend(SESSION))
    nothing = ask.recommend([("nowhere", False)], unknown="drop")
    assert nothing.status_code == 422 and "none of the session's tracks" in sentence(nothing)


def test_concurrent_requests_share_batches(export: Path, oracle: Oracle):
    """Of any K and exclusion, with refused ones between them: each gets its own answer."""
    random = np.random.default_rng(0)
    asked = [
        (
            [(NAMES[row], bool(row % 2)) for row in random.integers(0, TRACKS, random.integers(1, 9))],
            {"k": int(random.integers(1, 40)), "exclude": ("session", "none")[number % 2]},
        )
        for number in range(60)
    ]

    async def everything() -> tuple[list[httpx.Response], Service]:
        service = Service(ServeConfig(export, reload_s=0, max_wait_ms=50))
        async with asking(service) as client:
            requests = [
                client.post("/recommend", json={"session": plays(session), **options}) for session, options in asked
            ]
            requests[7:7] = [client.post("/recommend", json={"session": plays([("nowhere", False)])})]
            return await asyncio.gather(*requests), service

    responses, service = asyncio.run(everything())
    assert responses.pop(7).status_code == 404
    for response, (session, options) in zip(responses, asked, strict=True):
        assert_same(ranked(response), oracle.recommend(session, **options))
    batches = service.metrics.registry.get_sample_value("skipwise_batch_size_count", {"kind": "recommend"})
    assert batches < 10


@pytest.mark.parametrize("track", ["t_007", "a/b c", "ü/ü", "t_000/x"])
@pytest.mark.parametrize("by", ["cosine", "inner-product"])
def test_similar(ask: Asked, oracle: Oracle, track: str, by: str):
    vectors = oracle.opened.vectors.take(np.arange(TRACKS)).astype(np.float64)
    if by == "cosine":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = vectors @ vectors[NAMES.index(track)]
    wanted = [(NAMES[row], scores[row]) for row in np.argsort(-scores) if NAMES[row] != track][:12]
    assert_same(ranked(ask("GET", f"/similar/{track}", params={"k": 12, "by": by})), wanted)


def test_similar_to_nothing(ask: Asked):
    response = ask("GET", "/similar/no/where")
    assert response.status_code == 404 and "'no/where'" in sentence(response)


def test_tracks(ask: Asked):
    def found(**options) -> list[str]:
        return [one["track"] for one in ask("GET", "/tracks", params=options).json()["tracks"]]

    assert found(q="t_00", limit=4) == ["t_000", "t_000/x", "t_001", "t_002"]
    assert found() == sorted(NAMES)[:20]
    assert found(q="ü", limit=1000) == ["ü/ü"]
    assert found(q="zzz") == []
    assert "prefix is called q now" in sentence(ask("GET", "/tracks", params={"prefix": "t_00"}))


def test_tracks_are_not_looked_up_in_the_loop(ask: Asked, monkeypatch: pytest.MonkeyPatch):
    threads, tracks = [], ask.service.exports["main"].current.opened.tracks
    found = tracks.starting_with
    monkeypatch.setattr(tracks, "starting_with", lambda *words: threads.append(threading.get_ident()) or found(*words))
    assert ask("GET", "/tracks").status_code == 200
    assert threads and threading.get_ident() not in threads


def test_exports(ask: Asked, export: Path):
    exports = ask("GET", "/exports").json()
    main = exports["main"]
    assert (main["rows"], main["dim"], main["dtype"], main["index"]) == (TRACKS, 8, "float32", None)
    assert main["path"] == "main" and str(export.parent) not in str(exports)
    assert main["loss"] == {"context": "track", "alpha": 0.25, "beta": 1.0}
    assert (main["trained_on_skips"], exports["compare"]["trained_on_skips"]) == (True, False)
    assert exports["report"] is False


def test_the_index_is_told(export: Path, tmp_path: Path):
    figures = {"recall_at_k": 0.5, "queries_per_s": 1.0}
    measured = [
        figures | {"kind": "hnsw", "search": {"efSearch": width}, "recall_at_10": width / 100} for width in (32, 97)
    ]
    entry = IndexEntry(
        kind="hnsw",
        metric="inner product",
        built={},
        search={"efSearch": 97},
        wanted={},
        measured=measured,
        queries=1,
        queries_a_call=1,
        threads=1,
        versions={},
        file="index-0123456789ab.faiss",
        bytes=0,
        sha256="0" * 64,
    )
    shutil.copytree(export, tmp_path / "indexed")
    manifest = ExportManifest.read(export)
    manifest.model_copy(update={"index": entry}).write(tmp_path / "indexed")
    about = ServedExport.open(tmp_path / "indexed", "exact", 1).about()
    assert about["index"] == {"kind": "hnsw", "search": {"efSearch": 97}, "recall_at_10": 0.97}


def test_health(ask: Asked):
    health = ask("GET", "/health").json()
    assert health["status"] == "ok"
    assert health["exports"]["main"]["reload_error"] is None and health["exports"]["main"]["loaded"] == 1


def test_metrics(export: Path):
    """As Prometheus' own parser reads them, and of this service alone."""
    asked = Asked(ServeConfig(export, reload_s=0))
    for session in ([("t_001", False)], [("t_002", False)], [("nowhere", False)]):
        asked.recommend(session)
    asked("GET", "/similar/t_003")
    asked("GET", "/nowhere")
    families = text_string_to_metric_families(asked("GET", "/metrics").text)
    values = {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}
    asked.close()
    assert values["skipwise_requests_total", "200", "/recommend"] == 2
    assert values["skipwise_requests_total", "404", "/recommend"] == 1
    assert values["skipwise_requests_total", "200", "/similar/{track}"] == 1
    assert values["skipwise_requests_total", "404", "other"] == 1
    assert values["skipwise_request_seconds_count", "/recommend"] == 3
    assert values["skipwise_batch_size_sum", "recommend"] == 3
    assert values["skipwise_queue_depth", "recommend"] == 0
    assert values["skipwise_export_generation", "main"] == 1
    assert values["skipwise_reload_failures_total", "main"] == 0


def test_description(ask: Asked):
    described = ask("GET", "/openapi.json").json()
    assert {"/recommend", "/similar/{track}", "/tracks", "/exports", "/health", "/metrics"} <= set(described["paths"])
    request = described["components"]["schemas"]["RecommendRequest"]["properties"]
    assert request["session"]["maxItems"] == 1000 and request["k"]["maximum"] == 1000
    assert list(described["paths"]["/metrics"]["get"]["responses"]["200"]["content"]) == ["text/plain"]
    for page in ("/docs", "/redoc"):
        assert ask("GET", page).status_code == 404


def test_headers(ask: Asked):
    for path in ("/health", "/nowhere", "/openapi.json"):
        headers = ask("GET", path).headers
        assert headers["Content-Security-Policy"].startswith("default-src 'self'")
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "no-referrer"
        assert not [name for name in headers if name.startswith("access-control")]


def test_report(ask: Asked, export: Path, tmp_path: Path):
    assert "--report" in sentence(ask("GET", "/report"))
    report = tmp_path / "report.html"
    report.write_text("<title>of a run</title>")
    asked = Asked(ServeConfig(export, report=report, reload_s=0))
    shown = asked("GET", "/report")
    assert asked("GET", "/exports").json()["report"] is True
    assert shown.text == report.read_text() and shown.headers["content-type"].startswith("text/html")
    policy = shown.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src" not in policy and "img-src data:" in policy
    report.unlink()
    gone = asked("GET", "/report")
    asked.close()
    assert gone.status_code == 404 and "gone" in sentence(gone)


def test_names_stand_beside_tracks(tmp_path: Path, write_export, export: Path):
    titles = [f"<b>Song {row}</b>" if row % 2 else None for row in range(TRACKS)]
    named = write_export(tmp_path / "named", names={"title": titles, "year": ["1999"] * TRACKS})

    def known(track: str) -> dict[str, str]:
        title = titles[NAMES.index(track)]
        return {"year": "1999"} | ({"title": title} if title else {})

    async def everything() -> list[dict]:
        async with asking(Service(ServeConfig(named, compare=export, reload_s=0))) as client:
            body = {"session": [{"track": "t_001"}, {"track": "nowhere"}, {"track": "t_002"}], "unknown": "drop"}
            answers = [await client.post("/recommend", json=body | {"export": name}) for name in ("main", "compare")]
            return [one.json() for one in [*answers, await client.get("/similar/t_001?k=5")]]

    recommended, without, similar = asyncio.run(everything())
    assert recommended["session"] == [{"track": one} | known(one) for one in ("t_001", "t_002")]
    assert "session" not in without and without["tracks"][0].keys() == {"track", "score"}
    for one in [*recommended["tracks"], *similar["tracks"]]:
        assert one == {"track": one["track"], "score": one["score"]} | known(one["track"])


def test_tracks_by_words(tmp_path: Path, write_export):
    titles = [f"Song {row}" if row % 2 else None for row in range(TRACKS)]
    named = write_export(tmp_path / "named", names={"title": titles})
    write_words(named / "words.sqlite", ((row, title) for row, title in enumerate(titles) if title))
    change(named, words=record(named, "words.sqlite") | {"rows": 151})

    async def everything() -> list[list[dict]]:
        async with asking(Service(ServeConfig(named, reload_s=0))) as client:
            return [
                (await client.get("/tracks", params={"q": q, "limit": 3})).json()["tracks"]
                for q in ("song 21", "sogn 7", "t_01", "t_021", "nothing")
            ]

    def row(number: int) -> dict[str, str]:
        return {"track": NAMES[number]} | ({"title": titles[number]} if titles[number] else {})

    assert asyncio.run(everything()) == [
        [row(21), row(211), row(213)],
        [row(7), row(71), row(73)],
        [row(10), row(11), row(12)],
        [row(21)],
        [],
    ]
    words = named / "words.sqlite"
    words.write_bytes(words.read_bytes()[:-9])
    with pytest.raises(UserError, match="words.sqlite has .* bytes where its index says"):
        ServedExport.open(named, "exact", 1)
    words.write_bytes(b"x" * 999)
    change(named, words=record(named, "words.sqlite") | {"rows": 151})
    with pytest.raises(UserError, match="words.sqlite is no index of words .*: export again"):
        ServedExport.open(named, "exact", 1)


def test_why_a_track_is_near(ask: Asked):
    """The cosines that NumPy finds of all pairs; a track is not near to itself, and one played twice counts once."""
    played = ["t_003", "t_007", "t_003", "t_011"]
    body = {"session": [{"track": track} for track in played], "k": 20, "exclude": "none"}
    found = ask("POST", "/recommend", json=body | {"why": 2}).json()["tracks"]
    vectors = np.random.default_rng(0).standard_normal((TRACKS, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1)[:, None]
    for one in found:
        cosines = {
            track: vectors[NAMES.index(one["track"])] @ vectors[NAMES.index(track)]
            for track in {*played} - {one["track"]}
        }
        best = sorted(cosines, key=lambda track: -cosines[track])[:2]
        assert [near["track"] for near in one["nearest"]] == best
        assert [near["cosine"] for near in one["nearest"]] == pytest.approx(
            [cosines[track] for track in best], abs=1e-5
        )
    assert {"t_003", "t_007", "t_011"} & {one["track"] for one in found}, "the case says something"
    assert [one.keys() for one in ask("POST", "/recommend", json=body).json()["tracks"]] == [{"track", "score"}] * 20


def test_examples_are_named(ask: Asked, tmp_path: Path, write_export):
    assert ask("GET", "/examples").json() == {"examples": []}
    plays = [{"row": 1, "skipped": True}, {"row": 0, "skipped": None}]
    titles = {"title": ["First", *[None] * (TRACKS - 1)]}
    path = write_export(tmp_path / "named", names=titles, examples=[plays])

    async def answer() -> dict:
        async with asking(Service(ServeConfig(path, reload_s=0))) as client:
            return (await client.get("/examples")).json()

    first, second = {"track": "t_001", "skipped": True}, {"track": "t_000", "title": "First", "skipped": None}
    assert asyncio.run(answer()) == {"examples": [[first, second]]}
    change(path, examples=[[plays[0] | {"row": TRACKS}]])
    with pytest.raises(UserError, match="has examples with other rows than its 300"):
        ExportManifest.read(path)
