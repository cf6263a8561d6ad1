"""Outputs appear whole or not at all; no message names the scratch directory."""

from pathlib import Path

import pytest

from skipwise.common.errors import UserError
from skipwise.common.outputs import atomic_output, atomic_output_on_all_ranks, refuse_url, require_directory


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


@pytest.mark.parametrize("url", ["s3://bucket/data", "hdfs:///data", "file:///data", "gs:/bucket"])
def test_a_url_is_refused(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, rest = url.split(":")
    expected = f"^{name}://{rest.strip('/')} is a URL, and only local paths are written: name a local --output"
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
