"""`manifest.json` of an export: what it holds, how to call its encoder, and where it came from."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePath
from typing import Any, get_origin

from skipwise.common.errors import UserError, shown
from skipwise.common.files import read_json
from skipwise.common.options import problem
from skipwise.datapipes.manifest import MANIFEST
from skipwise.datapipes.manifest_fields import whole
from skipwise.retrieval.formats import Kind

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class ExportManifest:
    """The description of an export directory."""

    rows: int
    """Tracks, over all parts; of a delta, only those that it holds."""
    dim: int
    """Width of an embedding and of a query."""
    format: str
    """Of the parts: parquet, npy or faiss."""
    dtype: str
    """Type of the numbers of an embedding: float32, float16, or int8 with a scale and a bias for each row."""
    vocabulary_hash: str
    """The dataset's: SHA-256, in hex, over the track ids in row order, each followed by a newline."""
    parts: list[dict[str, Any]]
    """In row order: `file`, `first_row` within the export, `rows`, `bytes` and `sha256`."""
    tracks: list[dict[str, Any]]
    """Like `parts`, the track ids of each, where the parts cannot hold them; none for Parquet."""
    encoder: dict[str, Any]
    """The program's `file`, `bytes` and `sha256`, and what its inputs and its output mean."""
    onnx: dict[str, Any]
    """The same program for ONNX, `file`, `bytes`, `sha256` and `opset`; empty without."""
    queries: dict[str, Any]
    """The live model's queries of sessions, to tune an index by: `file`, `rows`, `bytes` and `sha256`."""
    index: dict[str, Any]
    """The index that was built over the parts; empty without."""
    since: dict[str, Any]
    """Of a delta: the `run` it is counted from, that one's `rows_hash`, this table's `table_rows`, how many tracks are
    `changed`, `unchanged`, `new` and `gone`, and the file of the `gone_tracks`. Empty for a whole table."""
    compared: dict[str, Any]
    """How many sessions the program was compared with the live model on, and how far apart the two were."""
    recipe: str
    """The recipe that was trained."""
    config: dict[str, Any]
    """The run's whole config."""
    trained: dict[str, Any]
    """The run's own record: ranks, counts of the data, versions."""
    versions: dict[str, str]
    """The tools that wrote the export."""
    schema_version: int = SCHEMA_VERSION
    """The version of this layout; a reader refuses any other."""

    def write(self, directory: Path) -> None:
        """Writes `manifest.json` into `directory`."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        (directory / MANIFEST).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, directory: Path) -> "ExportManifest":
        """Reads an export's manifest; raises `UserError` where it is missing, broken or another version's."""
        path = Path(directory) / MANIFEST
        content = read_json(path, "an export that export wrote")
        version = content.get("schema_version")
        if type(version) is not int or version != SCHEMA_VERSION:
            raise UserError(
                f"{path} has schema_version {shown(version)}, this version reads {SCHEMA_VERSION}: export again"
            )
        names = {field.name for field in fields(cls)}
        if missing := sorted(names - content.keys()):
            raise UserError(f"{path} has no field '{missing[0]}', so it is no export's: expected what export wrote")
        manifest = cls(**{name: content[name] for name in names})
        if trouble := manifest._trouble():
            raise UserError(f"{path} {trouble}, so it is not what export wrote: export again")
        return manifest

    def _trouble(self) -> str:
        """Where the fields contradict one another or their types; empty where they do not."""
        for field in fields(self):
            kind = get_origin(field.type) or field.type
            if type(getattr(self, field.name)) is not kind:
                return f"has {shown(getattr(self, field.name))} as '{field.name}'"
        if not (kind := Kind(self.format, self.dtype)).possible:
            return f"has format {shown(self.format)} and dtype {shown(self.dtype)}, which is no export's"
        for name in ("parts", "tracks"):
            if trouble := _pieces_trouble(name, getattr(self, name)):
                return trouble
        rows = [[part["rows"] for part in pieces] for pieces in (self.parts, self.tracks)]
        if sum(rows[0]) != self.rows:
            return f"has {sum(rows[0])} rows in its parts and {shown(self.rows)} in all"
        if rows[1] != ([] if kind.holds_tracks else rows[0]):
            return "has other rows in its parts than in the files of their tracks"
        if not _is_file(self.encoder):
            return "names no file of the export as its encoder"
        if not _is_file(self.queries) or not whole(self.queries.get("rows")):
            return "names no file of the export as its queries"
        if self.onnx and not (_is_file(self.onnx) and whole(self.onnx.get("opset"), 1)):
            return "names no file of the export as its encoder for ONNX"
        if "file" in self.index and not _is_file(self.index):
            return "names no file of the export as its index"
        return _since_trouble(self.since, self.rows) if self.since else ""


def _pieces_trouble(name: str, pieces: list[Any]) -> str:
    row = 0
    for number, piece in enumerate(pieces):
        if not isinstance(piece, dict) or not _is_file(piece):
            return f"names no file of the export at {name}[{number}]"
        if type(piece.get("first_row")) is not int or piece["first_row"] != row or not whole(piece.get("rows")):
            return f"has another row than {row} first at {name}[{number}], or no number of rows"
        row += piece["rows"]
    return ""


def _since_trouble(since: dict[str, Any], rows: int) -> str:
    counts = [since.get(name) for name in ("changed", "new", "unchanged", "gone", "table_rows")]
    if not all(isinstance(since.get(name), str) for name in ("run", "rows_hash")) or not all(map(whole, counts)):
        return "does not say in 'since' which run it is counted from"
    changed, new, unchanged, _, table_rows = counts
    if (changed + new, changed + new + unchanged) != (rows, table_rows):
        return f"has {rows} rows and other numbers of changed and new ones in 'since'"
    gone = since.get("gone_tracks")
    return "" if isinstance(gone, dict) and _is_file(gone) else "names no file of the export as gone tracks"


def _is_file(record: dict[str, Any]) -> bool:
    """Whether `file` lies inside the export, with its `bytes` and `sha256`; a reader may open what it names."""
    file, size, digest = record.get("file"), record.get("bytes"), record.get("sha256")
    inside = isinstance(file, str) and not problem(file) and file and not {"..", "/"} & set(PurePath(file).parts)
    return bool(inside) and type(size) is int and size >= 0 and isinstance(digest, str) and len(digest) == 64


def is_export(directory: Path) -> bool:
    """Whether `directory` holds an export of this version."""
    try:
        ExportManifest.read(directory)
    except UserError:
        return False
    return True
