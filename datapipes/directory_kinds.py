"""The three kinds of directories that commands write and read, recognised by their files."""

from pathlib import Path
from typing import Literal

from skipwise.common.errors import UserError

Kind = Literal["dataset", "run", "export"]
_MARKS: dict[Kind, tuple[str, ...]] = {
    "run": ("run.json",),
    "dataset": ("manifest.json", "sessions"),
    "export": ("manifest.json", "embeddings"),
}
_NAMES: dict[Kind, str] = {
    "run": "a run directory, which train writes",
    "dataset": "a dataset directory, which prepare writes",
    "export": "an export, which export writes",
}


def refuse_other_kind(folder: Path, wanted: Kind) -> None:
    """Raises `UserError` for a file, and for a directory of another kind than `wanted`."""
    kinds = [kind for kind, marks in _MARKS.items() if all((folder / mark).exists() for mark in marks)]
    found = "a file" if folder.is_file() else _NAMES[kinds[0]] if kinds else ""
    if found and wanted not in kinds:
        raise UserError(f"{folder} is {found}: name {_NAMES[wanted]}")
