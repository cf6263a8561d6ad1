"""The files that `--input` names: which of a folder's are logs, and their bytes, decompressed."""

import codecs
import io
import lzma
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import pyarrow as pa

from skipwise.common.errors import UserError
from skipwise.common.files import require_regular_file
from skipwise.common.mirrors import local
from skipwise.datapipes.prepare.config import utf8

TEXT = (".csv", ".tsv", ".txt", ".dat", ".inter", ".log", ".data", ".item")
JSON = (".jsonl", ".ndjson", ".json", ".listens")
SUFFIXES = (*TEXT, *JSON, ".parquet")
COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz"}
KNOWN = f"{', '.join(TEXT + JSON)} (each also with {', '.join(COMPRESSED)}) or .parquet"
REMEDIES = {
    "save it as CSV UTF-8": ".xlsx .xls .xlsm .ods .numbers",
    "unpack it, and name the folder": ".zip .tar .tgz .7z .rar",
    "write its table as Parquet or CSV": ".db .sqlite .sqlite3 .duckdb .feather .arrow .avro .orc",
}
MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\0": "xz"}
"""How files begin that are compressed though their names do not say so, as browsers save some."""
MISSING_PARTITION = "__HIVE_DEFAULT_PARTITION__"
UTF_8 = "utf-8"
ESCAPE, TWICE = r'\\(?:(")|(\\))', r"\1\1\2"
"""A quote or a backslash behind a backslash, and what it is in a file that writes a quote inside quotes twice."""
DAMAGED = (OSError, EOFError, lzma.LZMAError)


class LogFile(NamedTuple):
    """One file of a log."""

    path: Path
    partitions: dict[str, str | None]
    """From `name=value` in the names of the folders between it and the folder that --input names."""
    named: bool = False
    """Whether --input names it, and not a folder of it."""
    user: str = ""
    """Its listener with --user file: its name without the suffixes of its format, below the folder that holds all
    files where two have the same name."""


class Bytes(NamedTuple):
    """An open file."""

    stream: pa.NativeFile
    """What it holds, decompressed."""
    tell: Callable[[], int]
    """How many bytes of the file itself were read."""


def open_log(path: Path, encoding: str = UTF_8, escaped: bool = False) -> Bytes:
    """Opens a file, through what its last suffix says it is compressed with; what it holds comes in UTF-8, and where it
    is `escaped` with quotes written twice in place of those behind a backslash."""
    with path.open("rb") as file:
        start = file.read(6)
    codec = COMPRESSED.get(path.suffix.lower()) or next((MAGIC[of] for of in MAGIC if start.startswith(of)), None)
    if codec == "xz":
        raw = path.open("rb")
        stream, tell = pa.PythonFile(lzma.open(raw), mode="r"), raw.tell
    else:
        file = pa.OSFile(str(path))
        stream, tell = pa.CompressedInputStream(file, codec) if codec else file, file.tell
    stream = stream if encoding == UTF_8 else pa.transcoding_input_stream(stream, encoding, "utf-8")
    return Bytes(pa.lib.TransformInputStream(stream, Doubling()) if escaped else stream, tell)


class Doubling:
    """Replaces `ESCAPE` by `TWICE` in a stream of bytes, which ends with an empty piece."""

    _rest = b""

    def __call__(self, piece: pa.Buffer) -> bytes:
        data = self._rest + memoryview(piece)
        cut = len(data) - ((len(data) - len(data.rstrip(b"\\"))) % 2 if len(piece) else 0)
        self._rest = data[cut:]
        return re.sub(ESCAPE.encode(), TWICE.encode(), data[:cut])


def head_of(path: Path, size: int) -> bytes:
    """Returns the first bytes of what a file holds, at most `size`."""
    try:
        with open_log(path).stream as stream:
            return bytes(stream.read(size))
    except DAMAGED:
        raise damaged(path) from None


def encoding_of(head: bytes) -> str:
    """Returns the encoding that the first bytes of a file say."""
    return "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else UTF_8


def reader_of(path: Path, encoding: str, escaped: bool) -> io.TextIOWrapper:
    """Opens what a file holds as text, line breaks as they are, bytes of another encoding as escapes."""
    buffered = io.BufferedReader(open_log(path, encoding, escaped).stream)
    return io.TextIOWrapper(buffered, encoding="utf-8-sig", errors="backslashreplace", newline="")


def damaged(path: Path) -> UserError:
    """Returns the error of a file whose content ends early or does not decode."""
    kind = COMPRESSED.get(path.suffix.lower())
    other = f", or is not the {kind} file its name says" if kind else ""
    return UserError(f"{path} is cut short or damaged{other}: copy it again")


def stem_of(path: Path) -> Path:
    """Returns the path of a file without the suffixes of its format and compression."""
    name = path.stem if path.suffix.lower() in COMPRESSED else path.name
    return path.with_name(name[: len(name) - len(suffix_of(path))] if suffix_of(path) in SUFFIXES else name)


def suffix_of(path: Path) -> str:
    """Returns the suffix that decides the format, in small letters: the last one but that of compression."""
    name = Path(path.stem) if path.suffix.lower() in COMPRESSED else path
    return name.suffix.lower()


def logs_of(paths: Iterable[Path], patterns: tuple[str, ...] = ("*",)) -> list[LogFile]:
    """Returns the files that `paths` name, each once, sorted by name; raises `UserError` for what is no log."""
    try:
        found = sorted(
            (log for path in paths for log in files_of(fetched(path), patterns)),
            key=lambda log: (len(log.partitions), str(log.path), log.named),
        )
        files = {log.path.resolve(): log for log in found}
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): check --input") from None
    logs = sorted(files.values(), key=lambda log: (log.path.name, str(log.path)))
    users = [stem_of(Path(os.path.abspath(log.path))) for log in logs]
    if len({user.name for user in users}) == len(users):
        return [log._replace(user=user.name) for log, user in zip(logs, users, strict=True)]
    above = os.path.commonpath([user.parent for user in users])
    return [log._replace(user=user.relative_to(above).as_posix()) for log, user in zip(logs, users, strict=True)]


def fetched(path: Path) -> Path:
    """Returns where the logs are that `path` names, fetched where that is a URL."""
    return local(path, lambda name: not name or suffix_of(Path(name)) in SUFFIXES)


def files_of(path: Path, patterns: tuple[str, ...] = ("*",)) -> list[LogFile]:
    """Returns `path`, or the logs in it and its folders, at any depth, whose names match one of the `patterns`.

    Hidden files and folders, and folders whose names begin with an underscore, as Spark's own do, are left out.
    """
    if path.is_dir():
        found = [
            LogFile(file, partitions_of(file.relative_to(path)))
            for folder, folders, names in os.walk(path, onerror=refuse)
            for file in visible(Path(folder), folders, names)
            if suffix_of(file) in SUFFIXES and any(map(file.match, patterns))
        ]
        if not found:
            named = "" if patterns == ("*",) else f" named {' or '.join(patterns)}"
            raise UserError(f"{path} holds no file{named} of a known format, at any depth: expected {KNOWN}")
    elif not path.exists():
        raise UserError(f"{path} does not exist: check --input")
    elif suffix_of(path) not in SUFFIXES or (suffix_of(path) == ".parquet" and path.suffix.lower() in COMPRESSED):
        own = {path.suffix.lower(), suffix_of(path)}
        remedy = next((remedy for remedy, kinds in REMEDIES.items() if own & {*kinds.split()}), "")
        raise UserError(f"{path} is of no known format: {remedy or 'convert or rename it'}; expected {KNOWN}")
    else:
        found = [LogFile(path, {}, named=True)]
    for file in (log.path for log in found):
        require_regular_file(file)
        if not utf8(str(file)):
            raise UserError(f"the name of {file} is not UTF-8: rename it")
    return found


def refuse(error: OSError) -> None:
    """Raises what `os.walk` would pass over: a folder that cannot be read."""
    raise error


def visible(folder: Path, folders: list[str], names: list[str]) -> list[Path]:
    """Returns the files of one folder, and takes out of `folders` those that are not to be searched."""
    folders[:] = [name for name in folders if not name.startswith((".", "_"))]
    return [folder / name for name in names if not name.startswith(".")]


def partitions_of(inside: Path) -> dict[str, str | None]:
    """Returns the columns that the folders of a path name in the way of Hive, such as `date=2024-01-01`."""
    pairs = [part.split("=", 1) for part in inside.parts[:-1] if "=" in part]
    return {unquote(name): None if value == MISSING_PARTITION else unquote(value) for name, value in pairs}
