"""Who may ask a service that has keys, and what a probe may ask without one."""

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from skipwise.common.errors import UserError
from skipwise.retrieval.serve.api_keys import VARIABLE, ApiKeys
from skipwise.retrieval.serve.config import ServeConfig
from tests.retrieval.serve.conftest import Asked, plays, sentence

FIRST, SECOND, FROM_OUTSIDE = "first-key-0123456789", "second:key-0123456789", "outside-0123456789"


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture(scope="module")
def guarded(export: Path, tmp_path_factory) -> Iterator[Asked]:
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"# of the web player\n{FIRST}\n\n  {SECOND}  \n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, f"{FROM_OUTSIDE} another-0123456789")
        asked = Asked(ServeConfig(export, api_keys=file, reload_s=0))
    asked.file = file
    yield asked
    asked.close()


@pytest.mark.parametrize(
    "header",
    [f"Bearer {FIRST}", f"bearer  {SECOND}", f"Bearer {FROM_OUTSIDE}", basic("", FIRST), basic("anybody", SECOND)],
)
def test_a_key_opens_all(guarded: Asked, header: str):
    headers = {"Authorization": header}
    assert guarded("POST", "/recommend", json={"session": plays([("t_001", False)])}, headers=headers).is_success
    for path in ("/", "/metrics", "/exports", "/similar/t_001"):
        assert guarded("GET", path, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", f"Bearer {FIRST[:-1]}", f"Bearer {FIRST}x", f"Bearer {FIRST},{SECOND}", FIRST]
    + [f"Token {FIRST}", basic(FIRST, ""), "Basic %%%", "Basic /w==", f"Basic {FIRST}", "Bearer ü" + FIRST]
    + ["Bearer # of the web player"],
)
def test_without_one_nothing_is_answered(guarded: Asked, header: str):
    headers = {"Authorization": header.encode()} if header else {}
    for method, path in (("POST", "/recommend"), ("GET", "/"), ("GET", "/metrics"), ("GET", "/health/"), ("PUT", "/x")):
        answer = guarded(method, path, headers=headers)
        assert answer.status_code == 401 and "Authorization: Bearer KEY" in sentence(answer)
        assert answer.headers["www-authenticate"].startswith("Bearer ")


def test_probes_need_none(guarded: Asked):
    assert guarded("GET", "/health").json()["status"] == "ok"
    assert guarded("GET", "/ready").json() == {"status": "ready"}


def test_a_service_without_keys_asks_for_none(ask: Asked):
    assert ask("GET", "/exports", headers={"Authorization": "Bearer wrong"}).status_code == 200


def test_keys_are_replaced_while_the_service_runs(guarded: Asked, capsys: pytest.CaptureFixture[str]):
    """What SIGHUP does. The last test of `guarded`."""
    newer = "newer-key-0123456789"

    def status(key: str) -> int:
        return guarded("GET", "/exports", headers={"Authorization": f"Bearer {key}"}).status_code

    guarded.file.write_text("short\n")
    guarded._runner.run(guarded.service.reload())
    assert status(FIRST) == 200
    guarded.file.write_text(newer)
    guarded._runner.run(guarded.service.reload())
    assert (status(newer), status(FIRST)) == (200, 401)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "no API key"),
        ("# none\n  #of-which-none-is-a-key\n", "no API key"),
        (f"{FIRST}\nshort", "key 2 of"),
        ("with blanks 0123456789", "key 1"),
    ]
    + [("ungültig-0123456789", "key 1")],
)
def test_files_that_are_refused(tmp_path: Path, content: str, named: str):
    (tmp_path / "keys").write_text(content)
    with pytest.raises(UserError, match=named):
        ApiKeys(tmp_path / "keys")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="one API key a line"):
        ApiKeys(tmp_path / "keys")


def test_the_environments_key_is_checked_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, "short")
    with pytest.raises(UserError, match=f"key 1 of {VARIABLE}"):
        ApiKeys(None)


@pytest.mark.parametrize("said", ["", " \n"])
def test_a_variable_without_a_key_does_not_open_the_service(monkeypatch: pytest.MonkeyPatch, said: str):
    """As where a secret of the deployment is missing."""
    monkeypatch.setenv(VARIABLE, said)
    with pytest.raises(UserError, match=f"{VARIABLE} is set and holds no API key"):
        ApiKeys(None)


@pytest.mark.parametrize(("said", "expected"), [({}, "8"), ({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "99"}, "99")])
def test_onednn_keeps_few_kernels_unless_told_otherwise(said: dict[str, str], expected: str):
    """The capacity that torch finds in the environment when `serve` imports it, which it cannot do here."""
    program = """
import os, sys
from skipwise.components.serve import serve
from skipwise.retrieval.serve.config import ServeConfig
sys.modules["torch"] = None
try:
    serve(ServeConfig("export"))
except ImportError:
    print(os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"])
"""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ONEDNN")}
    done = subprocess.run([sys.executable, "-c", program], env=kept | said, capture_output=True, text=True)
    assert done.stdout.strip() == expected, done.stderr
