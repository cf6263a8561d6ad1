"""The dial and P(kept) of the service, against NumPy in float64."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from skipwise.datapipes.signals import UNKNOWN
from skipwise.retrieval.serve.config import ServeConfig
from skipwise.retrieval.serve.service import Service
from tests.retrieval.recommend.test_dial import HEAD, IDS, OPTIONS, ROWS, SIGNALS, by_hand
from tests.retrieval.serve.conftest import asking
from tests.support.exports import write_made

STRENGTHS = {True: 2, False: 0, None: UNKNOWN}


@pytest.fixture(scope="module")
def export(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "export"
    return write_made(folder, IDS, ROWS, keep=HEAD, signals_MD=SIGNALS)


def test_requests_of_any_dial_and_flags_at_once(export: Path):
    """Requests that come together and differ in dial, K and flags: each gets its own answer."""
    random = np.random.default_rng(0)
    bodies = [
        {
            "session": [
                {"track": IDS[row]} | ({} if flag is None and row % 2 else {"skipped": flag})
                for row, flag in zip(
                    random.integers(0, len(IDS), 5), random.choice([True, False, None], 5), strict=True
                )
            ],
            "k": int(random.integers(1, 12)),
            "exclude": "none",
            "dial": list(OPTIONS)[number % 3],
        }
        for number in range(30)
    ]

    async def all_at_once() -> list:
        async with asking(Service(ServeConfig(export, max_wait_ms=20, reload_s=0))) as client:
            return await asyncio.gather(*(client.post("/recommend", json=body) for body in bodies))

    for body, response in zip(bodies, asyncio.run(all_at_once()), strict=True):
        assert response.status_code == 200, response.text
        tracks = response.json()["tracks"]
        session = [(IDS.index(play["track"]), STRENGTHS[play.get("skipped")]) for play in body["session"]]
        scores, kept = by_hand(session, OPTIONS[body["dial"]])
        best = np.argsort(-scores)[: body["k"]]
        assert [one["track"] for one in tracks] == [IDS[row] for row in best]
        np.testing.assert_allclose([one["score"] for one in tracks], scores[best], atol=1e-4)
        np.testing.assert_allclose([one["kept"] for one in tracks], kept[best], atol=1e-5)


def test_exports_tell_the_curve(export: Path):
    async def exports() -> dict:
        async with asking(Service(ServeConfig(export, reload_s=0))) as client:
            return (await client.get("/exports")).json()["main"]

    main = asyncio.run(exports())
    head = HEAD | {"curve": [point | {"gain": None} for point in HEAD["curve"]]}
    assert main["keep"] == head and main["reads"] == ["skips"] and main["trained_on_skips"]
