"""Rows for tracks that the table's vocabulary lacks: who gets one, who loses it, and the record of both.

Rank 0 decides, from the plays of the parts so far and nothing else, so that a run that goes on decides alike.
"""

from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from skipwise.common.errors import UserError, brief
from skipwise.common.files import replacing
from skipwise.common.tables import read_table, write_table
from skipwise.training.follow.config import StreamConfig

ROWS = "rows"
"""In a run directory: the folder with the record of the rows as each part began."""
WAITS = -1
"""The row of a track that has been heard too little, or for which none was free."""


@dataclass
class NewTrack:
    """A track that the vocabulary lacks."""

    row: int = WAITS
    plays: int = 0
    last: int = 0
    """The last part that has it."""
    names: dict[str, str] = field(default_factory=dict)
    """What it is called."""


class SpareRows:
    """The new tracks, those with a row and those that wait for one."""

    def __init__(self, first: int, config: StreamConfig):
        """`first`: the table's first spare row."""
        self.first, self._config = first, config
        self.tracks: dict[str, NewTrack] = {}

    @property
    def num_rows(self) -> int:
        """Rows of the table that are in use: those are all below it."""
        return 1 + max((one.row for one in self.tracks.values()), default=WAITS) if self._used else self.first

    @property
    def _used(self) -> int:
        return sum(one.row != WAITS for one in self.tracks.values())

    def admit(self, part: int, plays: dict[str, int], names: dict[str, dict[str, str]]) -> tuple[dict[int, str], int]:
        """Gives rows to the new tracks of a part, the most played first.

        `plays`: of each track that the vocabulary lacks; `names`: what these are called. Returns the tracks that got a
        row, by it, and how many have been heard enough and found no row free.
        """
        for track, count in plays.items():
            known = self.tracks.setdefault(track, NewTrack())
            known.plays, known.last, known.names = known.plays + count, part, names.get(track, known.names)
        heard = [track for track in plays if self.tracks[track].row == WAITS]
        due = [track for track in heard if self.tracks[track].plays >= self._config.admit_plays]
        due.sort(key=lambda track: (-self.tracks[track].plays, track))
        free = iter(range(self.num_rows, self.first + self._config.spare_rows))
        stale = iter(self._stale(part))
        given: dict[int, str] = {}
        for track in due:
            if (row := next(free, None)) is None:
                if (evicted := next(stale, None)) is None:
                    break
                row = self.tracks.pop(evicted).row
            self.tracks[track].row, given[row] = row, track
        self._forget()
        return given, len(due) - len(given)

    def _stale(self, part: int) -> list[str]:
        """The tracks whose rows may be taken away, in the order in which they go."""
        age = self._config.evict_after
        found = [(one.last, one.plays, one.row, track) for track, one in self.tracks.items() if one.row != WAITS]
        return [track for last, *_, track in sorted(found) if age and part - last >= age]

    def _forget(self) -> None:
        """Of those that wait, as many are kept as there are spare rows: the last heard, of these the most played."""
        waiting = [(one.last, one.plays, track) for track, one in self.tracks.items() if one.row == WAITS]
        for *_, track in sorted(waiting)[: max(len(waiting) - self._config.spare_rows, 0)]:
            del self.tracks[track]

    def write(self, file: Path) -> None:
        """Writes the record by one rename."""
        tracks = sorted(self.tracks.items(), key=lambda item: (item[1].row, item[0]))
        names = sorted({name for _, one in tracks for name in one.names})
        table = pa.table(
            {
                "track_id": pa.array([track for track, _ in tracks], pa.string()),
                "row": pa.array([one.row for _, one in tracks], pa.int32()),
                "count": pa.array([one.plays for _, one in tracks], pa.int64()),
                "last": pa.array([one.last for _, one in tracks], pa.int32()),
                "names": pa.array([[one.names.get(name) for name in names] for _, one in tracks], _NAMES),
            }
        ).replace_schema_metadata({"names": "\n".join(names)})
        file.parent.mkdir(exist_ok=True)
        with replacing(file) as partial:
            write_table(table, partial)

    def read(self, file: Path) -> None:
        """Takes over what `write` has written; raises `UserError` for anything else."""
        try:
            table = read_table(file)
            names = table.schema.metadata[b"names"].decode().split("\n")
            columns = (table[name].to_pylist() for name in ("track_id", "row", "count", "last", "names"))
            self.tracks = {
                track: NewTrack(row, plays, last, {name: one for name, one in zip(names, of, strict=False) if one})
                for track, row, plays, last, of in zip(*columns, strict=True)
            }
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise UserError(
                f"{file} is no record of rows ({brief(error)}): restore the file, or start another run from --init-from"
            ) from error


_NAMES = pa.list_(pa.string())


def record_of_rows(run_path: Path, part: int) -> Path:
    """The record as the part of this number began; 0 for before the first."""
    return run_path / ROWS / f"{part:05}.parquet"


def record_of_plays(run_path: Path, part: int) -> Path:
    """How often each row was played recently, as the part of this number began, where the run corrects by it."""
    return record_of_rows(run_path, part).with_suffix(".npy")
