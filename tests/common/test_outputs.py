"""Outputs appear whole or not at all; no message names the scratch directory."""

import os
import signal
from pathlib import Path

import pytest

from skipwise.common.errors import UserError
from skipwise.common.outputs import (
    atomic_output,
    atomic_output_on_all_ranks,
    refuse_existing,
    refuse_url,
    require_directory,
)


def _write(output: Path, overwrite: bool = False, error: Exception | None = None, around=atomic_output) -> None:
    with around(output, overwrite, Path.is_dir) as scratch:
        (scratch / "result").mkdir()
        (scratch / "result" / "new").touch()
        if error:
            raise error


@pytest.mark.parametrize("around", [atomic_output, atomic_output_on_all_ranks])
def test_an_output_appears_whole_or_not_at_all(around, tmp_path):
    output = tmp_path / "a" / "b"
    with pytest.raises(KeyError):
        _write(output, error=KeyError(), around=around)
    assert list(tmp_path.iterdir()) == []
    _write(output, around=around)
    assert [path.name for path in output.parent.rglob("*")] == ["b", "new"]
    with pytest.raises(UserError, match="exists: choose another --output, or replace it with --overwrite"):
        _write(output, around=around)
    (output / "old").touch()
    _write(output, overwrite=True, around=around)
    assert [path.name for path in output.parent.rglob("*")] == ["b", "new"]


@pytest.mark.parametrize("around", [atomic_output, atomic_output_on_all_ranks])
def test_a_sentence_names_the_output_and_not_the_scratch_directory(around, tmp_path):
    output = tmp_path / "new\nline"
    with pytest.raises(UserError) as caught, around(output, False, Path.is_dir) as scratch:
        raise UserError(f"{scratch / 'result' / 'part-0'} cannot be written, nor can {scratch}")
    shown = str(output).replace("\n", "\\n")
    assert str(caught.value) == f"{shown}/part-0 cannot be written, nor can {shown}"


@pytest.mark.parametrize("url", ["ftp://host/data", "file:///data", "ftp:/host"])
def test_a_url_is_refused(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, rest = url.split(":")
    expected = f"^{name}://{rest.strip('/')} is a URL, and only local paths and those of s3://.*: name a local --output"
    for around in (atomic_output, atomic_output_on_all_ranks):
        with pytest.raises(UserError, match=expected):
            _write(Path(url), around=around)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["data", "/data", "a:b", "C:/data", "x/s3://y"])
def test_a_local_path_is_none(path):
    refuse_url(Path(path))


def test_a_directory_is_required(tmp_path):
    for path in (tmp_path, tmp_path / "new"):
        require_directory(path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is a file: name a directory with --output"):
        require_directory(tmp_path / "file")
    with pytest.raises(UserError, match="s3://bucket/runs is a URL.*: name a local --run-dir"):
        refuse_url(Path("s3://bucket/runs"), "--run-dir")


def _start_and_die(output: Path, function: str, calls: int = 1) -> None:
    """A process that is killed while it writes `output`, at the n-th call of a function of `os`."""
    child = os.fork()
    if not child:
        left, real = iter(range(calls - 1)), getattr(os, function)

        def call(*arguments: Path) -> None:
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*arguments)

        setattr(os, function, call)
        try:
            _write(output, overwrite=True)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_one_process_at_a_time_writes_an_output(tmp_path):
    output = tmp_path / "out"
    with atomic_output(output, False, Path.is_dir) as scratch:
        (scratch / "result").mkdir()
        before = _files(tmp_path)
        for around in (atomic_output, atomic_output_on_all_ranks):
            with pytest.raises(
                UserError, match=f"out is in use by process {os.getpid()} on .*or choose another --outp"
            ):
                _write(output, around=around)
        assert _files(tmp_path) == before
        _write(tmp_path / "out.2")
    assert _files(tmp_path) == {"out", "out.2", "out.2/new"}


@pytest.mark.parametrize("exists", [False, True])
def test_the_next_start_removes_what_a_killed_process_left(exists, tmp_path):
    """And the same output's alone: another one's is of a living process, perhaps."""
    output, other = tmp_path / "out", tmp_path / "out.2"
    for path in (output, other):
        if exists:
            path.mkdir()
            (path / "old").touch()
        _start_and_die(path, "rename")
    left = _files(tmp_path)
    assert len([name for name in left if name.endswith((".partial", ".lock"))]) == 4
    with pytest.raises(KeyError):
        _write(output, overwrite=True, error=KeyError())
    assert output.exists() == exists
    removed = left - _files(tmp_path)
    assert {name.split("/")[0].split("-")[0] for name in removed} == {".out"}
    _write(output, overwrite=True)
    _write(other, overwrite=True)
    assert _files(tmp_path) == {"out", "out/new", "out.2", "out.2/new"}


def test_an_output_that_a_killed_process_had_moved_is_restored(tmp_path):
    """It died when the old one was moved away and the new one not yet there."""
    output = tmp_path / "out"
    output.mkdir()
    (output / "old").touch()
    _start_and_die(output, "rename", calls=2)
    assert not output.exists()
    with pytest.raises(UserError, match="out exists"):
        _write(output)
    assert _files(tmp_path) == {"out", "out/old"}


def test_a_killed_takeover_restores_too(tmp_path):
    output = tmp_path / "out"
    _start_and_die(output, "rename")
    _start_and_die(output, "replace")
    _write(output)
    assert _files(tmp_path) == {"out", "out/new"}


def test_an_output_inside_another_is_not_replaced_with_it(tmp_path):
    (tmp_path / "out" / "sub").mkdir(parents=True)
    for place in ("out", "out/sub"):
        (tmp_path / place / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="out holds another output .*out/sub/manifest.json.*, which would go with it"):
        refuse_existing(tmp_path / "out", True, lambda path: True)
    (tmp_path / "out" / "sub" / "manifest.json").unlink()
    refuse_existing(tmp_path / "out", True, lambda path: True)
