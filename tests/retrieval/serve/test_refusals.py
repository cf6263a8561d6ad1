"""What the service refuses: a 4xx with one sentence, whatever is sent, and never a body held beyond the limit."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from skipwise.retrieval.serve import guard
from skipwise.retrieval.serve.app import make_app
from skipwise.retrieval.serve.config import ServeConfig
from skipwise.retrieval.serve.http_schema import FEW_FIELDS, RecommendRequest
from skipwise.retrieval.serve.service import Service
from tests.retrieval.serve.conftest import NAMES, Asked, asking, sentence

PLAY = {"track": "t_001"}
JSON = {"content-type": "application/json"}


def test_deltas_are_in_a_folder(tmp_path: Path):
    file = tmp_path / "deltas"
    assert ServeConfig(tmp_path, deltas=str(file)).deltas == str(file)  # the run that writes them may come
    file.touch()
    with pytest.raises(ValueError, match=f"--deltas {file} is a file: name the folder that train"):
        ServeConfig(tmp_path, deltas=str(file))
    with pytest.raises(ValueError, match="cannot be a folder .File name too long.: name another"):
        ServeConfig(tmp_path, deltas="a" * 300)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"session": []}, "session"),
        ({"session": [PLAY] * 1001}, "session"),
        ({"session": None}, "session"),
        ({"session": [PLAY, {}]}, "session[1].track"),
        ({"session": [PLAY | {"skipped": "yes"}]}, "session[0].skipped"),
        ({"session": [PLAY | {"skip": True}]}, "session[0].skip"),
        ({"session": [{"track": 7}]}, "session[0].track"),
        ({"session": [{"track": "a\ud800"}]}, "session[0].track"),
        ({"session": [PLAY, {"track": "\udfff"}], "unknown": "drop"}, "session[1].track"),
        ({"session": [PLAY | {str(number): 0 for number in range(101)}]}, "session[0]"),
        ({"session": [PLAY | {"context": {str(number): None for number in range(101)}}]}, "session[0].context"),
        ({"k": 0}, "k"),
        ({"k": 1001}, "k"),
        ({"k": "10"}, "k"),
        ({"k": 1e3}, "k"),
        ({"k": 10**30}, "k"),
        ({"exclude": "all"}, "exclude"),
        ({"dial": -0.1}, "dial"),
        ({"dial": 100.5}, "dial"),
        ({"dial": "most"}, "dial is refused dial 'most' must be auto or lie in 0..100 0 is off"),
        ({"dial": float("nan")}, "dial"),
        ({"dial": float("inf")}, "dial"),
        ({"dial": 0.5}, "dial 0.5 needs a keep head"),
        ({"dial": "auto"}, "dial auto needs a keep head"),
        ({"unknown": "ignore"}, "unknown"),
        ({"export": "third"}, "export"),
        ({"top": 5}, "top"),
        ({"line\nbreak": 5}, "line\\nbreak"),
    ],
)
def test_fields(ask: Asked, changes: dict[str, Any], named: str):
    response = ask("POST", "/recommend", content=json.dumps({"session": [PLAY]} | changes), headers=JSON)
    assert response.status_code == 422
    said = f" {sentence(response)} ".replace(":", "")
    assert f" {named} " in said and "Value error" not in said


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b'"t_001"', b"\xff\xfe{", b"[" * 100_000, b'{"a":' * 100_000, b'{"k":' + b"9" * 9999],
)
def test_bodies(ask: Asked, content: bytes):
    response = ask("POST", "/recommend", content=content, headers=JSON)
    assert 400 <= response.status_code < 500
    sentence(response)


@pytest.mark.parametrize(
    "body",
    [
        {str(number): 0 for number in range(9999)},
        {"session": [PLAY | {str(number): 0 for number in range(9999)}]},
        {"session": [PLAY | {"context": {str(number): None for number in range(9999)}}]},
        {"session": [PLAY | {"context": {str(number): None for number in range(90)}}] * 500},
        {"session": [{"skip": number} for number in range(1000)]},
        {"session": list(range(9999))},
    ],
)
def test_much_that_is_wrong_is_not_listed(ask: Asked, body: dict):
    """Nobody waits while a hundred thousand errors are described."""
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(Annotated[RecommendRequest, FEW_FIELDS]).validate_python(body)
    assert refused.value.error_count() <= 300
    response = ask("POST", "/recommend", content=json.dumps(body), headers=JSON)
    assert response.status_code == 422
    sentence(response)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "nonsense", None])
def test_content_types(ask: Asked, kind: str | None):
    headers = {"content-type": kind} if kind else {}
    response = ask("POST", "/recommend", content=json.dumps({"session": [PLAY]}), headers=headers)
    assert response.status_code == 422 and "application/json" in sentence(response)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/recommend", 405),
        ("DELETE", "/health", 405),
        ("GET", "/nowhere", 404),
        ("GET", "/similar/t_001?k=0", 422),
        ("GET", "/similar/t_001?k=ten", 422),
        ("GET", "/similar/t_001?by=distance", 422),
        ("GET", "/similar/%ff%00", 404),
        ("GET", "/tracks?limit=1001", 422),
        ("GET", "/tracks?export=third", 422),
    ],
)
def test_addresses(ask: Asked, method: str, path: str, status: int):
    response = ask(method, path)
    assert response.status_code == status
    sentence(response)


def test_there_is_no_second_export(export: Path):
    asked = Asked(ServeConfig(export, reload_s=0))
    for response in (
        asked.recommend([("t_001", False)], export="compare"),
        asked("GET", "/similar/t_001?export=compare"),
        asked("GET", "/tracks?export=compare"),
    ):
        assert response.status_code == 404 and "--compare" in sentence(response)
    assert asked("GET", "/exports").json()["compare"] is None
    assert asked("GET", "/health").json()["exports"]["compare"] is None
    asked.close()


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(NAMES[:5]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
known = st.sampled_from(["session", "k", "exclude", "dial", "unknown", "export", "track", "skipped"])
play = st.fixed_dictionaries({"track": st.sampled_from(NAMES)}, optional={"skipped": values, "context": values})
plays = st.lists(play, max_size=4)
right = st.fixed_dictionaries(
    {"session": plays},
    optional={
        "k": st.integers(0, 20) | values,
        "exclude": st.sampled_from(["session", "none"]) | values,
        "dial": st.floats(0, 10) | st.just("auto") | values,
        "unknown": st.sampled_from(["refuse", "drop"]) | values,
        "export": st.sampled_from(["main", "compare"]) | values,
    },
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(right | st.dictionaries(known | st.text(max_size=5), values | plays, max_size=5) | values)
def test_any_json(ask: Asked, body: Any):
    response = ask("POST", "/recommend", content=json.dumps(body), headers=JSON)
    assert response.status_code in (200, 404, 422)
    if response.status_code != 200:
        sentence(response)


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=200))
def test_any_bytes(ask: Asked, body: bytes):
    response = ask("POST", "/recommend", content=body, headers=JSON)
    assert 400 <= response.status_code < 500
    sentence(response)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST:1", "127.0.0.2"])
def test_own_hosts(export: Path, host: str):
    assert with_host(ServeConfig(export, host="127.0.0.2", reload_s=0), host).status_code == 200


@pytest.mark.parametrize("host", ["example.org", "localhost.example.org", "example.org:8000", "", "[::1", "127.0.0.3"])
def test_foreign_hosts(export: Path, host: str):
    response = with_host(ServeConfig(export, host="127.0.0.2", reload_s=0), host)
    assert response.status_code == 400 and "localhost" in sentence(response)


@pytest.mark.parametrize("host", ["example.org", "localhost.example.org", "10.1.2.example.org", "", "[::1"])
def test_foreign_hosts_elsewhere(export: Path, host: str):
    """A page's own name may point at any machine of this network."""
    response = with_host(ServeConfig(export, host="0.0.0.0", reload_s=0), host)
    assert response.status_code == 400 and "--allowed-host" in sentence(response)


@pytest.mark.parametrize("host", ["localhost", "10.1.2.3:8000", "[2001:db8::1]:80", "Tracks.example.org:80", "other"])
def test_own_hosts_elsewhere(export: Path, host: str):
    config = ServeConfig(export, host="0.0.0.0", allowed_host=("tracks.Example.org", "other"), reload_s=0)
    assert with_host(config, host).status_code == 200


def test_a_proxys_host(export: Path):
    config = ServeConfig(export, allowed_host=("tracks.example.org",), reload_s=0)
    assert with_host(config, "tracks.example.org").status_code == 200
    assert with_host(config, "10.1.2.3").status_code == 400


@pytest.mark.parametrize("name", ["http://a", "a:80", "a/b", "", "[::1]"])
def test_names_that_are_none(name: str):
    with pytest.raises(ValueError, match="--allowed-host"):
        ServeConfig(Path("export"), allowed_host=(name,))


def test_two_hosts(export: Path):
    assert with_host(ServeConfig(export, reload_s=0), "localhost", "localhost").status_code == 400


def with_host(config: ServeConfig, *hosts: str) -> httpx.Response:
    asked = Asked(config)
    response = asked("GET", "/health", headers=[("Host", host) for host in hosts])
    asked.close()
    return response


def stream(config: ServeConfig, headers: list[tuple[bytes, bytes]], piece: Callable[[int], dict]) -> tuple[int, int]:
    """The status, and how many pieces of a body were taken before the answer."""

    async def ask() -> tuple[int, int]:
        taken, answered, status = 0, None, 0

        async def receive() -> dict:
            nonlocal taken
            taken += 1
            return piece(taken)

        async def send(message: dict) -> None:
            nonlocal answered, status
            if message["type"] == "http.response.start":
                status, answered = message["status"], taken

        service = Service(config)
        scope = {"type": "http", "method": "POST", "path": "/recommend", "query_string": b"", "http_version": "1.1"}
        scope |= {"headers": [(b"host", b"localhost"), (b"content-type", b"application/json"), *headers]}
        async with service.running():
            await make_app(service)(scope, receive, send)
        return status, answered

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("headers", "most"), [([], 11), ([(b"content-length", b"5")], 11), ([(b"content-length", b"9" * 30)], 0)]
)
def test_a_body_without_end(export: Path, headers: list[tuple[bytes, bytes]], most: int):
    """Refused at the limit, whatever its head says of its length."""
    config = ServeConfig(export, reload_s=0, max_body=10_000)
    status, taken = stream(config, headers, lambda _: {"type": "http.request", "body": b"x" * 1000, "more_body": True})
    assert (status, taken) == (413, most)


def test_a_body_of_just_the_limit(export: Path):
    asked = Asked(ServeConfig(export, reload_s=0, max_body=100))
    body = json.dumps({"session": [PLAY]})
    assert asked("POST", "/recommend", content=body.ljust(100), headers=JSON).status_code == 200
    response = asked("POST", "/recommend", content=body.ljust(101), headers=JSON)
    asked.close()
    assert response.status_code == 413 and "100 bytes" in sentence(response)


def test_a_body_that_does_not_come(export: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guard, "BODY_S", 0.1)

    async def ask() -> httpx.Response:
        async def nothing():
            yield b"{"
            await asyncio.sleep(60)

        async with asking(Service(ServeConfig(export, reload_s=0))) as client:
            return await client.post("/recommend", content=nothing(), headers=JSON)

    response = asyncio.run(ask())
    assert response.status_code == 408
    sentence(response)
