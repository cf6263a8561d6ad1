"""The options of `prepare` that name tracks: which columns say what a track is called."""

from dataclasses import dataclass
from pathlib import Path

LONGEST_NAME = 512
"""Characters of a name; longer ones are cut."""
MOST_NAMES = 32
"""Columns of a track that a dataset may have."""
TAKEN = (
    *("track_id", "row", "count", "embedding", "scale", "bias"),
    *("session_id", "track", "tracks", "score", "scores", "kept", "title", "artist"),
)
"""Names that other columns of a vocabulary, an export or an answer have."""


def is_name(role: str) -> bool:
    """Whether a column of this role is one of the track."""
    return role in ("title", "artist") or role.startswith("kept_")


@dataclass(frozen=True, kw_only=True)
class NameOptions:
    """What is kept once a track, for people to read: no model sees it."""

    title: str | None = None
    """Column of the track's title. Where rows say different ones for a track, the most frequent is kept."""
    artist: str | None = None
    """Column of the track's artist, likewise."""
    keep_track: tuple[str, ...] = ()
    """Other columns that belong to the track, such as its album, likewise."""
    tracks: Path | None = None
    """A table beside the log that has these columns, and the track id in `--track`'s column or in `track_id`; ids that
    the log lacks are ignored."""
    tracks_columns: tuple[str, ...] = ()
    """Names for the columns of a --tracks table without a header line, in order."""

    @property
    def names(self) -> dict[str, tuple[str, str]]:
        """From the role of each of these columns to its name in the file and the option that names it."""
        given = {"title": (self.title, "--title"), "artist": (self.artist, "--artist")}
        kept = {f"kept_{number}": (name, "--keep-track") for number, name in enumerate(self.keep_track, 1)}
        return {role: (name, option) for role, (name, option) in (given | kept).items() if name is not None}

    @property
    def named_columns(self) -> dict[str, str]:
        """From the role of each of these columns to its name in a dataset."""
        return {role: name if role.startswith("kept_") else role for role, (name, _) in self.names.items()}

    def check_names(self) -> None:
        """Raises `ValueError` for columns that no dataset can have."""
        if self.tracks and not self.names:
            raise ValueError(
                "--tracks needs the columns to take from it: name them with --title, --artist, --keep-track"
            )
        if self.tracks_columns and not self.tracks:
            raise ValueError("--tracks-columns names those of a table beside the log: name it with --tracks")
        if len(self.names) > MOST_NAMES:
            raise ValueError(f"--keep-track names {len(self.keep_track)} columns: name at most {MOST_NAMES - 2}")
        for number, name in enumerate(self.keep_track):
            if name.lower() in map(str.lower, self.keep_track[:number]):
                raise ValueError(f"--keep-track names '{name}' twice: name it once")
            if name.lower() in TAKEN:
                raise ValueError(
                    f"--keep-track {name} is the name of a column that has another meaning: rename it in the log"
                )
