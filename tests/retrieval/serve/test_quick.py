"""`POST /recommend` past FastAPI's layers: to the byte what these answer."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skipwise.retrieval.serve import app
from skipwise.retrieval.serve.batching import Overloaded
from skipwise.retrieval.serve.config import ServeConfig
from tests.retrieval.serve.conftest import Asked, sentence
from tests.retrieval.serve.test_refusals import JSON, PLAY, known, plays, right, values


@pytest.fixture(scope="module")
def layered(export: Path, other: Path) -> Iterator[Asked]:
    """Asks a service without the short way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "quick", lambda app, _: app)
        asked = Asked(ServeConfig(export, other, search="exact", reload_s=0))
    yield asked
    asked.close()


def same(ask: Asked, layered: Asked, method: str = "POST", path: str = "/recommend", **options: Any) -> httpx.Response:
    quick, through = (one(method, path, **options) for one in (ask, layered))
    assert (quick.status_code, quick.content) == (through.status_code, through.content)
    assert quick.headers.multi_items() == through.headers.multi_items()
    return quick


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b'{"session": [{"track": "t_001"}]}', JSON, 200),
        ('{"session": [{"track": "t_001"}]}'.encode("utf-16"), JSON, 200),
        (b'{"session": [{"track": "t_001"}]}', {"content-type": "Application/problem+json; charset=x"}, 200),
        (b'{"session": [{"track": "t_001"}]}', {"content-type": "text/plain"}, 422),
        (b'{"session": [{"track": "t_001"}]}', {}, 422),
        (b'{"session": [{"track": "\\ud800"}]}', JSON, 422),
        (b'{"session": [{"track": "nowhere"}]}', JSON, 404),
        (b'{"session": [{"track": "t_001"}], "dial": NaN}', JSON, 422),
        (b'{"session": [{"track": "t_001"}], "dial": 5}', JSON, 422),
        (b'\xef\xbb\xbf{"session": []}', JSON, None),
        (b"\xff\xfe{", JSON, 400),
        (b"[" * 100_000, JSON, 400),
        (b'{"k":' + b"9" * 9999, JSON, None),
        (b"", JSON, 422),
        (b"{", JSON, 422),
    ],
)
def test_bodies(ask: Asked, layered: Asked, content: bytes, headers: dict[str, str], status: int | None):
    answer = same(ask, layered, content=content, headers=headers)
    assert answer.status_code == status if status else 400 <= answer.status_code < 500


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ('{"session": [{"track": "t_001"}], "k": 3, "k": 5}', "k"),
        ('{"session": [{"track": "t_001", "skipped": true, "skipped": false}]}', "skipped"),
        ('{"session": [{"track": "t_001"}], "filter": {"artist": {"not": "A"}, "artist": {"not": "B"}}}', "artist"),
    ],
)
@pytest.mark.parametrize("headers", [JSON, {"content-type": "application/json; charset=utf-8"}])
def test_a_name_that_stands_twice_is_refused(ask: Asked, content: str, name: str, headers: dict[str, str]):
    """Of two filters of one column the first would be passed over."""
    answer = ask("POST", "/recommend", content=content.encode(), headers=headers)
    assert answer.status_code == 422 and sentence(answer).startswith(f"'{name}' stands twice")


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(right | st.dictionaries(known | st.text(max_size=5), values | plays, max_size=5) | values)
def test_any_json(ask: Asked, layered: Asked, body: Any):
    same(ask, layered, content=json.dumps(body), headers=JSON)


def test_other_requests(ask: Asked, layered: Asked):
    for method, path in (("GET", "/recommend"), ("POST", "/recommend/"), ("HEAD", "/recommend"), ("POST", "/health")):
        same(ask, layered, method, path, json={"session": [PLAY]})
    assert same(ask, layered, "GET", "/openapi.json").status_code == 200


@pytest.mark.parametrize(("error", "status"), [(Overloaded(), 503), (ZeroDivisionError("of one"), 500)])
def test_failures(export: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int):
    """The log hears of those that nobody expects, as it does of FastAPI's."""
    asked = Asked(ServeConfig(export, reload_s=0))

    async def fail(_: Any) -> None:
        raise error

    monkeypatch.setattr(asked.service.recommend, "ask", fail)
    answer = asked.recommend([("t_001", False)])
    asked.close()
    assert answer.status_code == status and answer.headers.get("retry-after") == (None if status == 500 else "1")
    assert sentence(answer) and answer.headers["x-content-type-options"] == "nosniff"
    count = {"path": "/recommend", "code": str(status)}
    assert asked.service.metrics.registry.get_sample_value("skipwise_requests_total", count) == 1
