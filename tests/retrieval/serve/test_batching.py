"""Batches: what they gather, that each question gets its own answer, and what happens when all goes wrong."""

import asyncio
import threading
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest
from prometheus_client import CollectorRegistry, Gauge, Histogram
from starlette.exceptions import HTTPException

from skipwise.retrieval.serve.answers import recommendations
from skipwise.retrieval.serve.batching import Batcher, Overloaded
from skipwise.retrieval.serve.config import ServeConfig
from skipwise.retrieval.serve.http_schema import Play, RecommendRequest
from skipwise.retrieval.serve.service import Service
from skipwise.retrieval.track_ids import TrackIds
from tests.retrieval.serve.conftest import asking, sentence


def batcher(work, most: int = 4, wait_s: float = 0.05, queue: int = 100) -> Batcher:
    registry = CollectorRegistry()
    size, depth = Histogram("size", "", registry=registry), Gauge("depth", "", registry=registry)
    return Batcher(
        work, ServeConfig(Path("export"), max_batch=most, max_wait_ms=wait_s * 1000, max_queue=queue), size, depth
    )


def asked(batches: Batcher, questions: Sequence[int]) -> list[Any]:
    async def run() -> list[Any]:
        task = asyncio.create_task(batches.run())
        answers = await asyncio.gather(*map(batches.ask, questions), return_exceptions=True)
        task.cancel()
        return answers

    return asyncio.run(run())


def test_gathers_up_to_the_most():
    batches = []

    def work(questions: list[int]) -> list[int]:
        batches.append(list(questions))
        return [-question for question in questions]

    assert asked(batcher(work), range(10)) == [-number for number in range(10)]
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_waits_for_others_but_not_for_long():
    sizes = []

    def work(questions: list[int]) -> list[int]:
        sizes.append(len(questions))
        return questions

    async def run() -> float:
        batches = batcher(work, wait_s=0.3)
        task = asyncio.create_task(batches.run())
        first = asyncio.create_task(batches.ask(1))
        await asyncio.sleep(0.05)
        begun = time.perf_counter()
        await asyncio.gather(first, batches.ask(2))
        task.cancel()
        return time.perf_counter() - begun

    assert asyncio.run(run()) < 0.3
    assert sizes == [2]


def test_one_failure_is_nobody_elses():
    def work(questions: list[int]) -> list[Any]:
        if 3 in questions:
            raise ZeroDivisionError("of three")
        return [question if question % 2 else KeyError(question) for question in questions]

    answers = asked(batcher(work, most=8), range(6))
    assert [type(answer) for answer in answers] == [KeyError, int, KeyError, ZeroDivisionError, KeyError, int]


def test_more_than_may_wait():
    release = threading.Event()

    def work(questions: list[int]) -> list[int]:
        release.wait()
        return questions

    async def run() -> list[Any]:
        batches = batcher(work, most=1, wait_s=0, queue=2)
        task = asyncio.create_task(batches.run())
        waiting = [asyncio.create_task(batches.ask(0))]
        await asyncio.sleep(0.05)
        waiting += [asyncio.create_task(batches.ask(number)) for number in (1, 2, 3)]
        await asyncio.wait([waiting[3]])
        release.set()
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        task.cancel()
        return answers

    *answered, refused = asyncio.run(run())
    assert answered == [0, 1, 2] and isinstance(refused, Overloaded)


def test_one_that_gave_up_is_not_answered():
    seen = []

    async def run() -> Any:
        batches = batcher(lambda questions: seen.extend(questions) or questions)
        task = asyncio.create_task(batches.run())
        gone, there = asyncio.create_task(batches.ask(1)), asyncio.create_task(batches.ask(2))
        await asyncio.sleep(0.01)
        gone.cancel()
        answer = await there
        task.cancel()
        return answer

    assert asyncio.run(run()) == 2 and seen == [2]


def test_overload_and_faults_over_http(export: Path):
    service = Service(ServeConfig(export, reload_s=0, max_queue=1, max_batch=1))
    recommend = service.exports["main"].current.recommender.recommend
    release = threading.Event()

    def fails_on_k_13(history, options):
        release.wait(10)
        if options.k == 13:
            raise RuntimeError("a fault of ours")
        return recommend(history, options)

    service.exports["main"].current.recommender.recommend = fails_on_k_13

    async def run() -> list[httpx.Response]:
        async with asking(service) as client:

            def post(k: int) -> Coroutine:
                return client.post("/recommend", json={"session": [{"track": "t_001"}], "k": k})

            tasks = []
            for k in (5, 13, 7):
                tasks.append(asyncio.create_task(post(k)))
                await asyncio.sleep(0.05)
            release.set()
            return await asyncio.gather(*tasks)

    right, wrong, refused = asyncio.run(run())
    assert right.status_code == 200
    assert wrong.status_code == 500 and "a fault of ours" not in sentence(wrong)
    assert refused.status_code == 503 and refused.headers["Retry-After"] == "1"
    sentence(refused)


def test_tracks_of_a_batch_are_looked_up_together(export: Path):
    """One by one, their lookups took a third of a batch's time."""
    exports = Service(ServeConfig(export, reload_s=0)).exports
    sessions = [["t_001", "t_002"], ["t_003", "no"], ["t_004", "t_005", "t_006"], ["t_002"]]
    plays = [[Play(track=one) for one in tracks] for tracks in sessions]
    requests = [RecommendRequest(session=of, exclude=how) for how in ("session", "none") for of in plays]
    with patch.object(TrackIds, "rows_of", autospec=True, side_effect=TrackIds.rows_of) as looked_up:
        together = recommendations(exports, requests)
    assert looked_up.call_count == 2, "once for each way to search"
    for request, answer in zip(requests, together, strict=True):
        (alone,) = recommendations(exports, [request])
        if isinstance(answer, HTTPException):
            assert answer.status_code == alone.status_code == 404 and answer.detail == alone.detail
        else:
            names, scores = zip(*(one.values() for one in answer["tracks"]), strict=True)
            assert names == tuple(one["track"] for one in alone["tracks"])
            assert scores == pytest.approx([one["score"] for one in alone["tracks"]], abs=1e-5)
    assert [isinstance(answer, HTTPException) for answer in together] == 2 * [False, True, False, False]
