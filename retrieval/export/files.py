"""Small files of an export, written and read back."""

from pathlib import Path

from skipwise.common.errors import UserError


def write_checked(file: Path, content: bytes) -> None:
    """Raises `UserError` where `file` read back differs from `content`."""
    file.write_bytes(content)
    if file.read_bytes() != content:
        raise UserError(f"{file.name} read back differs from what was written: check the disk, then export again")
