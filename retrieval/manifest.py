"""`manifest.json` of an export: what it holds, how to call its encoder, and where it came from."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from datapipes.errors import UserError
from datapipes.manifest import MANIFEST
from training.run import read_json

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ExportManifest:
    """The description of an export directory."""

    rows: int
    """Tracks, over all parts."""
    dim: int
    """Width of an embedding and of a query."""
    dtype: str
    """Type of the numbers of an embedding."""
    vocabulary_hash: str
    """The dataset's: SHA-256, in hex, over the track ids in row order, each followed by a newline."""
    parts: list[dict[str, Any]]
    """In row order: `file`, `first_row`, `rows`, `bytes` and `sha256`."""
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
        if content.get("schema_version") != SCHEMA_VERSION:
            raise UserError(
                f"{path} has schema_version {content.get('schema_version')}, this version reads {SCHEMA_VERSION}: "
                "export again"
            )
        names = {field.name for field in fields(cls)}
        if missing := sorted(names - content.keys()):
            raise UserError(f"{path} has no field '{missing[0]}', so it is no export's: expected what export wrote")
        return cls(**{name: content[name] for name in names})


def is_export(directory: Path) -> bool:
    """Whether `directory` holds an export of this version."""
    try:
        ExportManifest.read(directory)
    except UserError:
        return False
    return True
