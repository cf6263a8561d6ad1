"""Records of files show any change, and name only files inside their directory."""

import os

import pytest

from skipwise.common.errors import UserError
from skipwise.common.files import FileRecord, read_json, read_text, write_json
from skipwise.common.schema import validate


def test_a_record_shows_any_change(tmp_path):
    (tmp_path / "parts").mkdir()
    file = tmp_path / "parts" / "a"
    file.write_bytes(b"abc")
    record = FileRecord.of(tmp_path, "parts/a")
    assert (record.bytes, record.sha256[:8]) == (3, "ba7816bf")
    assert not record.problem(tmp_path)
    file.write_bytes(b"abd")
    assert record.problem(tmp_path) == f"{file} differs from what was written (SHA-256)"
    file.write_bytes(b"abcd")
    assert record.problem(tmp_path) == f"{file} has 4 bytes where its index says 3"
    file.unlink()
    assert record.problem(tmp_path) == f"{file} cannot be read (No such file or directory)"
    os.mkfifo(file)
    assert record.problem(tmp_path) == f"{file} cannot be read (Invalid argument)"


@pytest.mark.parametrize("file", ["", "/etc/passwd", "../a", "a/../../b", "a\0", "\ud800"])
def test_a_record_of_a_file_outside_is_refused(file, tmp_path):
    content = {"file": file, "bytes": 3, "sha256": "0" * 64}
    with pytest.raises(UserError, match="file is .*: expected the path of a file inside the directory; export again"):
        validate(FileRecord, content, tmp_path, "export again")


def test_json_is_written_by_one_rename(tmp_path):
    file = tmp_path / "metrics.json"
    write_json(file, {"a": 1})
    with pytest.raises(TypeError):
        write_json(file, {"a": {1, 2}})
    assert read_json(file, "metrics") == {"a": 1} and list(tmp_path.iterdir()) == [file]
    for text in ("[1]", "{", "[" * 100_000, '{"a": ' + "1" * 5000 + "}"):
        file.write_text(text)
        with pytest.raises(UserError, match="metrics.json is not .*: expected metrics"):
            read_json(file, "metrics")


def test_json_of_more_values_than_memory_holds_is_refused(tmp_path):
    """63 MB of empty lists took 1.5 GB."""
    file = tmp_path / "checkpoint.json"
    file.write_text('{"a":[' + "[]," * (1 << 21) + "[]]}")
    with pytest.raises(UserError, match="checkpoint.json has more than 4,194,304 values: expected an index"):
        read_json(file, "an index")


def test_a_sparse_file_is_not_read_whole(tmp_path):
    file = tmp_path / "best"
    with open(file, "wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(UserError, match="best has more than 1,000 bytes: expected a name"):
        read_text(file, "a name", 1000)
    with pytest.raises(UserError, match="best has more than 67,108,864 bytes: expected an index"):
        read_json(file, "an index")
