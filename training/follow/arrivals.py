"""The parts that a run follows: dataset directories in one folder, and the order in which the run has taken them."""

from pathlib import Path

from skipwise.common.errors import UserError
from skipwise.common.files import read_json, write_json
from skipwise.common.mirrors import UNFINISHED
from skipwise.common.stores import Place
from skipwise.datapipes.manifest import MANIFEST

PARTS = "parts.json"
"""In a run directory: the names of the parts taken, the oldest first, each with its data's hash."""


def check_folder(folder: str) -> None:
    """Raises `UserError` where no part can land."""
    if Place.of(folder) is None and not Path(folder).is_dir():
        raise UserError(f"--follow {folder} is no folder: make it, and let prepare write each part into it")
    if Place.of(folder) is None and (Path(folder) / MANIFEST).exists():
        raise _is_part(folder)


class Arrivals:
    """The parts of a folder, local or in an object store. One rank asks, for all of them."""

    def __init__(self, folder: str, run_path: Path):
        """`folder`: in which each part is a dataset directory; `run_path`: of the run that follows."""
        check_folder(folder)
        self._folder, self._place, self._file = folder, Place.of(folder), run_path / PARTS

    def take(self, number: int) -> str | None:
        """The path of the part of this number, from 1: the one taken before, or the first new one by name.

        None where there is no new one.
        """
        taken = self._taken()
        if number <= len(taken):
            return self._path(taken[number - 1]["name"])
        known = {part["name"] for part in taken}
        return next((self._path(name) for name in self._landed() if name not in known), None)

    def note(self, number: int, path: str, data_hash: str) -> None:
        """Records that the part of this number is the one at `path`; raises `UserError` where it was another one."""
        taken, part = self._taken(), {"name": path.rpartition("/")[2], "data_hash": data_hash}
        if number > len(taken):
            write_json(self._file, {"parts": [*taken, part]})
        elif taken[number - 1] != part:
            raise UserError(
                f"{path} has other sessions than when the run took it as part {number}: put that part back, or start "
                "another run from this one with --init-from"
            )

    def _taken(self) -> list[dict[str, str]]:
        if not self._file.exists():
            return []
        parts = read_json(self._file, "the parts that a run has taken").get("parts")
        if not isinstance(parts, list) or not all(isinstance(one, dict) and {"name"} <= one.keys() for one in parts):
            raise UserError(f"{self._file} does not list the parts that a run has taken: restore the file")
        return parts

    def _landed(self) -> list[str]:
        """The names of all whole parts, in their order."""
        if self._place is None:
            check_folder(self._folder)
            folders = (one for one in Path(self._folder).iterdir() if not one.name.startswith("."))
            return sorted(one.name for one in folders if (one / MANIFEST).is_file())
        files = {tuple(name.split("/")) for name in self._place.files()}
        if (MANIFEST,) in files:
            raise _is_part(self._folder)
        names = sorted(parts[0] for parts in files if len(parts) == 2 and parts[1] == MANIFEST)
        return [name for name in names if (name, UNFINISHED) not in files]

    def _path(self, name: str) -> str:
        return f"{self._folder.rstrip('/')}/{name}"


def _is_part(folder: str) -> UserError:
    return UserError(f"--follow {folder} is one dataset directory: name the folder that it lies in, for all parts")
