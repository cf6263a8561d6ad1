"""Files that other processes may have written or may read at the same time: text, JSON, YAML, and records of files.

They are written by one rename, and read with a limit on their size, without waiting on a pipe or executing content.
"""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator

from skipwise.common.errors import UserError, reason
from skipwise.common.options import problem
from skipwise.common.schema import Count, Sha256, StrictModel
from skipwise.common.stores import Place

_LARGEST_JSON = 64 << 20
_MOST_JSON_VALUES = 1 << 22
"""Each takes up to 72 bytes of memory, an empty list one of a few bytes in the file."""


def _inside(file: str) -> str:
    if not file or problem(file) or {"..", "/"} & set(PurePath(file).parts):
        raise ValueError("the path of a file inside the directory")
    return file


class FileRecord(StrictModel):
    """What a manifest says of a file of its directory, so that a copy of the file can be checked."""

    file: Annotated[str, AfterValidator(_inside)]
    """Path inside the directory."""
    bytes: Count
    sha256: Sha256
    """Of the whole file."""

    @classmethod
    def of(cls, folder: Path, name: str) -> "FileRecord":
        """Reads `folder / name` once."""
        with open(folder / name, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return FileRecord(file=name, bytes=os.fstat(file.fileno()).st_size, sha256=digest)

    def problem(self, folder: Path) -> str:
        """Says how the file in `folder` differs, in words that begin with its path; empty where it is unchanged."""
        path = folder / self.file
        try:
            require_regular_file(path)
            if (size := path.stat().st_size) != self.bytes:
                return f"{path} has {size:,} bytes where its index says {self.bytes:,}"
            if FileRecord.of(folder, self.file).sha256 != self.sha256:
                return f"{path} differs from what was written (SHA-256)"
        except OSError as error:
            return f"{path} cannot be read ({reason(error)})"
        return ""


def require_regular_file(path: Path) -> None:
    """Raises `OSError` unless `path` is a regular file: opening a named pipe would wait without end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


class _ConfigLoader(yaml.SafeLoader):
    """Refuses what no config needs: aliases, which may expand without end, and a field given twice."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "an alias: write it out", self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, "a field given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_text(file: Path, expected: str, largest: int) -> str:
    """Reads UTF-8 text of at most `largest` bytes; otherwise raises `UserError` that says what was `expected`."""
    try:
        require_regular_file(file)
        with open(file, "rb") as stream:
            content = stream.read(largest + 1)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({getattr(error, 'strerror', error)}): expected {expected}") from error
    if len(content) > largest:
        raise UserError(f"{file} has more than {largest:,} bytes: expected {expected}")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text: expected {expected}") from error


def read_yaml(file: Path) -> dict[str, Any]:
    """Reads a YAML mapping; raises `UserError` for anything else."""
    if Place.of(file):
        from skipwise.common.mirrors import local

        file = local(file)
    text = read_text(file, "a YAML config", 256 << 10)
    try:
        content = yaml.load(text, _ConfigLoader)
    except Exception as error:  # PyYAML's own, and those of Python's `int`, `date` and others for a wrong scalar
        why = "it is nested too deep" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise UserError(f"{file} is not YAML of a config: {why[:300]}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is not a YAML mapping: expected sections such as 'data:' and 'train:'")
    return content


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yields a path to write to, then renames it to `file`: a reader sees the old file or the new one."""
    partial = file.with_name(f".{file.name}.partial")
    yield partial
    os.replace(partial, file)


def write_text(file: Path, text: str) -> None:
    """Writes `file` by one rename."""
    with replacing(file) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Writes a JSON object by one rename."""
    write_text(file, json.dumps(content, indent=2) + "\n")


def read_json(file: Path, expected: str) -> dict[str, Any]:
    """Reads a JSON object; raises `UserError` that says what was `expected` for anything else."""
    text = read_text(file, expected, _LARGEST_JSON)
    if sum(map(text.count, ",[{")) > _MOST_JSON_VALUES:
        raise UserError(f"{file} has more than {_MOST_JSON_VALUES:,} values: expected {expected}")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON: expected {expected}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is not a JSON object: expected {expected}")
    return content
