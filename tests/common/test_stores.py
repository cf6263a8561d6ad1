import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import ArrowException
from pyarrow.fs import FileInfo, FileType

from skipwise.common import stores
from skipwise.common.errors import UserError
from skipwise.common.stores import Place, is_hidden

NAMES = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1).filter(
    lambda name: name not in (".", "..")
)


@pytest.mark.parametrize(
    ("url", "place", "path"),
    [
        ("s3://bucket/a/b.csv", ("s3", "bucket", "a/b.csv"), "bucket/a/b.csv"),
        ("s3://bucket", ("s3", "bucket", ""), "bucket"),
        ("s3://bucket/a/", ("s3", "bucket", "a"), "bucket/a"),
        ("s3://bucket/a b?c=d#e%20", ("s3", "bucket", "a b?c=d#e%20"), "bucket/a b?c=d#e%20"),
        ("gs://anonymous@bucket/a", ("gs", "anonymous@bucket", "a"), "bucket/a"),
        ("az://container/a", ("az", "container", "a"), "container/a"),
        ("abfs://c@account.dfs.core.windows.net/a", ("abfs", "c@account.dfs.core.windows.net", "a"), "c/a"),
        ("hdfs://name-node:9000/user/a", ("hdfs", "name-node:9000", "user/a"), "/user/a"),
    ],
)
def test_a_url_is_a_place(url: str, place: tuple[str, str, str], path: str):
    for given_as in (url, Path(url)):  # a `Path` drops a slash
        found = Place.of(given_as)
        assert found == place
        assert found._path == path
        assert Place.of(str(found)) == found


@pytest.mark.parametrize("path", ["", "data", "/data", "C:/data", "x/s3://y", "s3", "http://host/x", "file:///x"])
def test_anything_else_is_a_local_path(path: str):
    assert Place.of(path) is None


@pytest.mark.parametrize("url", ["s3://", "s3:", "gs://b/../a", "s3://b/a/./c", "s3://b/a//c"])
def test_no_url_of_a_folder(url: str):
    with pytest.raises(UserError, match="is no URL of a folder or a file: expected .*://bucket/folder"):
        Place.of(url)


def test_a_password_in_a_url_is_not_repeated():
    with pytest.raises(UserError, match="a URL of s3:// has a password in it: leave it out, and set AWS_") as stop:
        Place.of("s3://key:secret@bucket/data")
    assert "secret" not in str(stop.value)


@settings(deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=4))
def test_any_names_come_back(names: list[str]):
    place = Place("s3", "bucket", "/".join(names))
    assert Place.of(str(place)) == place
    assert Place("s3", "bucket", "") / place.key == place


@pytest.mark.parametrize(("name", "hidden"), [("a", False), ("a/b.c", False), (".a", True), ("a/.b/c", True)])
def test_hidden(name: str, hidden: bool):
    assert is_hidden(name) == hidden


@pytest.mark.parametrize("name", ["../b", "a/../../b", "a//b", "a/./b", "a\0b"])
def test_a_name_that_leads_out_of_a_folder(name: str, monkeypatch: pytest.MonkeyPatch):
    """As pyarrow lists the keys of a store in which anybody may write."""
    found = [FileInfo(f"bucket/a/{name}", FileType.File, size=1)]
    infos = iter([FileInfo("bucket/a", FileType.Directory), found])
    listing = SimpleNamespace(get_file_info=lambda of: next(infos))
    monkeypatch.setattr(stores, "_filesystem", lambda scheme, host: listing)
    with pytest.raises(UserError, match="s3://bucket/a holds .*, which cannot be a file here: rename it"):
        Place("s3", "bucket", "a").files()


@pytest.mark.parametrize(
    ("url", "error", "expected"),
    [
        ("s3://b/a", ArrowException("Unknown error"), r"^s3://b/a cannot be read \(Unknown error\): check the URL"),
        (
            "abfs://c@x/a",
            ArrowException("Failed to get token"),
            r"^abfs://c@x/a is refused \(.*\): log in to the account",
        ),
        ("gs://b/a", OSError("HTTP status 401"), "^gs://b/a is refused .*: set GOOGLE_APPLICATION_CREDENTIALS, of"),
        ("az://c/a", ValueError("Bad key"), r"^az://c/a cannot be read \(Bad key\): check the URL and the connection"),
        ("hdfs://h:1/a", OSError("Unable to load libhdfs"), "^hdfs://h:1/a needs the client of Hadoop .*: install it"),
        (
            "s3://b/a",
            OSError("Timeout was reached"),
            r"^s3://b/a cannot be read in 3 tries \(Timeout was reached\): check",
        ),
    ],
)
def test_an_error_is_a_sentence_that_says_what_to_do(
    url: str, error: Exception, expected: str, monkeypatch: pytest.MonkeyPatch
):
    def fail(path: str) -> None:
        raise error

    monkeypatch.setattr(stores, "FIRST_WAIT_S", 0.0)
    monkeypatch.setattr(stores, "_filesystem", lambda scheme, host: SimpleNamespace(get_file_info=fail))
    place = Place.of(url)
    assert place
    with pytest.raises(UserError, match=expected):
        place.files()


def test_local_paths_load_nothing():
    code = (
        "import sys; from skipwise.common.mirrors import local; from skipwise.common.stores import Place\n"
        "assert str(local('runs/a')) == 'runs/a' and not {'pyarrow', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)
