"""Files that others may have written or may read meanwhile: text, JSON and YAML.

Written at one rename; read without waiting on a pipe, without a size that has no end, and without running anything.
"""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import yaml

from skipwise.common.errors import UserError


def require_regular_file(path: Path) -> None:
    """Raises `OSError` unless `path` is a regular file: to open a named pipe would wait without end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


_LARGEST_CONFIG = 256 << 10
_BROKEN = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError, RecursionError)
"""What PyYAML raises: its own errors, and what Python's `int`, `date` and the like make of a wrong scalar."""


class _ConfigLoader(yaml.SafeLoader):
    """Refuses what a config has no use for: aliases, which may unfold without end, and a field given twice."""

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
    """UTF-8 text of at most `largest` bytes; raises `UserError` that says what was `expected` for anything else."""
    try:
        mode = file.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a pipe may never end, nor a device
            raise UserError(f"{file} cannot be read (not a file): expected {expected}")
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
    """A YAML mapping from `file`, or a `UserError`."""
    text = read_text(file, "a YAML config", _LARGEST_CONFIG)
    try:
        content = yaml.load(text, _ConfigLoader)
    except _BROKEN as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise UserError(f"{file} is not YAML of a config: {reason[:300]}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is not a YAML mapping: expected sections such as 'data:' and 'train:'")
    return content


def write_text(file: Path, text: str) -> None:
    """Writes aside, then renames: a reader sees the old file or the new one."""
    aside = file.with_name(f".{file.name}.partial")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, file)


def write_json(file: Path, content: dict[str, Any]) -> None:
    """`write_text` of a JSON object."""
    write_text(file, json.dumps(content, indent=2) + "\n")


def read_json(file: Path, expected: str) -> dict[str, Any]:
    """A JSON object from `file`, or a `UserError` that says what was `expected`."""
    text = read_text(file, expected, 64 << 20)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON: expected {expected}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is not a JSON object: expected {expected}")
    return content
