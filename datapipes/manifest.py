"""`manifest.json`: what a dataset directory holds and how it came to be."""

import hashlib
import json
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from skipwise.common.errors import UserError, shown
from skipwise.common.files import require_regular_file
from skipwise.datapipes.manifest_fields import FIELDS

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
HASH = "manifest_hash"
VOCABULARY = "vocabulary.parquet"
SESSIONS = "sessions"
SESSIONS_PER_ROW_GROUP = 4096


@dataclass(frozen=True)
class Manifest:
    """The description of a dataset directory; equal inputs and options give equal manifests."""

    counts: dict[str, int]
    """How many `sessions`, `plays` and `tracks` the directory holds."""
    session_lengths: dict[str, int]
    """The `min` and `max` number of tracks of a session."""
    skip_share: float
    """Share of the plays that count as skipped: strength 1 or 2."""
    context_columns: list[str]
    """Context columns of the session files, beside `session_id`, `tracks` and `skips`."""
    parts: dict[str, int]
    """Session files in reading order, each with its number of sessions."""
    vocabulary_hash: str
    """SHA-256, in hex, over the track ids in row order, each followed by a newline."""
    sources: list[dict[str, Any]]
    """The files read: `file` (a name, not a whole path) and `bytes`."""
    options: dict[str, Any]
    """The options of `prepare` that decide the contents."""
    dropped_sessions: dict[str, int]
    """Sessions left out, by reason."""
    dropped_rows: dict[str, int]
    """Rows left out because the session they belong to cannot be told, by reason."""
    versions: dict[str, str]
    """The tools that wrote the directory."""
    checksums: dict[str, list[str]] = field(default_factory=dict)
    """Of each session file, `row_group.checksum` of its row groups; empty in a directory older than these."""
    schema_version: int = SCHEMA_VERSION
    """The version of this layout; a reader refuses any other."""

    def write(self, directory: Path) -> None:
        """Writes `manifest.json` into `directory`."""
        content = asdict(self)
        content[HASH] = digest(content)
        text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
        (directory / MANIFEST).write_text(text + "\n", encoding="utf-8", errors="surrogatepass")

    @classmethod
    def read(cls, directory: Path) -> "Manifest":
        """Reads `manifest.json` of a dataset directory; raises `UserError` where it is missing, broken or too new."""
        path = Path(directory) / MANIFEST
        try:
            require_regular_file(path)
            content = json.loads(path.read_text(encoding="utf-8", errors="surrogatepass"))
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}): expected what prepare wrote") from None
        except (ValueError, RecursionError):
            raise UserError(f"{path} is not JSON: prepare the dataset again") from None
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version != SCHEMA_VERSION or not isinstance(version, int) or isinstance(version, bool):
            raise UserError(
                f"{path} has schema_version {shown(version)}, this version reads {SCHEMA_VERSION}: "
                f"prepare the dataset again"
            )
        needed = {one.name for one in fields(cls) if one.default is one.default_factory is MISSING}
        if missing := sorted(needed - content.keys()):
            raise UserError(f"{path} has no field '{missing[0]}': prepare the dataset again")
        names = {one.name for one in fields(cls)}
        if unknown := sorted(content.keys() - names - {HASH}):
            raise UserError(f"{path} has an unknown field {shown(unknown[0])}: prepare the dataset again")
        for name, (fits, expected) in FIELDS.items():
            if name in content and not fits(content[name]):
                raise UserError(
                    f"{path}: {name} is {shown(content[name])}: expected {expected}; prepare the dataset again"
                )
        if HASH in content and digest(content) != content[HASH]:
            raise UserError(f"{path} is not as prepare wrote it, by its {HASH}: prepare the dataset again")
        return cls(**{name: content[name] for name in names & content.keys()})


def digest(content: dict[str, Any]) -> str:
    """SHA-256, in hex, over what a manifest says, however it is laid out, its own `manifest_hash` left out."""
    rest = {name: value for name, value in content.items() if name != HASH}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
