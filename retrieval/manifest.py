"""`manifest.json` of an export: what it holds, how to call its encoder, and where it came from."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePath
from typing import Any, get_origin

from datapipes.errors import UserError, shown
from datapipes.manifest import MANIFEST
from datapipes.values import fault
from training.run import read_json

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class ExportManifest:
    """The description of an export directory."""

    rows: int
    """Tracks, over all parts."""
    dim: int
    """Width of an embedding and of a query."""
    dtype: str
    """Type of the numbers of an embedding."""
    format: str
    """Of the parts: parquet, npy or faiss."""
    vocabulary_hash: str
    """The dataset's: SHA-256, in hex, over the track ids in row order, each followed by a newline."""
    parts: list[dict[str, Any]]
    """In row order: `file`, `first_row`, `rows`, `bytes` and `sha256`."""
    tracks: list[dict[str, Any]]
    """Like `parts`: files of ids, where the parts have none."""
    queries: dict[str, Any]
    """The file of the model's queries of the sessions compared, `rows` of them, by which an index is tuned."""
    encoder: dict[str, Any]
    """The program's `file`, `bytes` and `sha256`, and what its inputs and its output mean."""
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
    onnx: dict[str, Any] = field(default_factory=dict)
    """The encoder once more as ONNX: `file`, `bytes`, `sha256` and `opset`; empty where not asked for."""
    index: dict[str, Any] = field(default_factory=dict)
    """The index that `index` chose: `file`, `bytes`, `sha256`, settings and what was measured; empty before."""
    since: dict[str, Any] = field(default_factory=dict)
    """What the rows exported are changes from; empty for a whole table."""
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
        names = {one.name for one in fields(cls)}
        if missing := sorted(names - content.keys()):
            raise UserError(f"{path} has no field '{missing[0]}', so it is no export's: expected what export wrote")
        manifest = cls(**{name: content[name] for name in names})
        if trouble := manifest._trouble():
            raise UserError(f"{path} {trouble}, so it is not what export wrote: export again")
        return manifest

    def _trouble(self) -> str:
        """Where the fields contradict one another or their types; empty where they do not."""
        for one in fields(self):
            kind = get_origin(one.type) or one.type
            if type(getattr(self, one.name)) is not kind:
                return f"has {shown(getattr(self, one.name))} as '{one.name}'"
        row = 0
        for number, part in enumerate(self.parts):
            if not isinstance(part, dict) or not _is_file(part):
                return f"names no file of the export at parts[{number}]"
            if part.get("first_row") != row or type(part.get("rows")) is not int or part["rows"] < 0:
                return f"has another row than {row} first at parts[{number}], or no number of rows"
            row += part["rows"]
        if row != self.rows:
            return f"has {row} rows in its parts and {shown(self.rows)} in all"
        return "" if _is_file(self.encoder) else "names no file of the export as its encoder"


def _is_file(record: dict[str, Any]) -> bool:
    """Whether `file` lies inside the export, with its `bytes` and `sha256`; a reader may open what it names."""
    file, size, digest = record.get("file"), record.get("bytes"), record.get("sha256")
    inside = isinstance(file, str) and not fault(file) and file and not {"..", "/"} & set(PurePath(file).parts)
    return bool(inside) and type(size) is int and size >= 0 and isinstance(digest, str) and len(digest) == 64


def is_export(directory: Path) -> bool:
    """Whether `directory` holds an export of this version."""
    try:
        ExportManifest.read(directory)
    except UserError:
        return False
    return True
