"""A session as typed on a command line (`t_1:kept,t_2:skip,t_3`), and ranked tracks as lines of a terminal."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from skipwise.common.errors import UserError, printable, shown
from skipwise.retrieval.track_ids import TrackIds

_MARKS = {":skip": True, ":kept": False}
_LONGEST = 50
"""Characters of a title or an artist in a terminal."""
_LIKE_MARKS = (":skipped", ":skips", ":keep", ":unskipped")
_QUOTED = re.compile(r'\s*"((?:[^"]|"")+)"\s*(:skip|:kept)?\s*(?=,|\Z)')
"""An id in quotes, as CSV has them, and its mark."""


class TypedPlay(NamedTuple):
    """One place of `--session`."""

    track: str
    skipped: bool | None
    """None where it is not known."""
    quoted: bool
    """Whether blanks at the ends of `track` are surely a part of it."""


def read_session(text: str, option: str = "--session") -> list[TypedPlay]:
    """In play order. Raises `UserError` for an empty session or an empty place in it."""
    if not text.strip():
        example = "t_1:kept,t_2:skip,t_3" if option == "--session" else "t_1,t_2"
        raise UserError(f'{option} is empty: give track ids in play order, like "{example}"')
    plays: list[TypedPlay] = []
    at = 0
    while at <= len(text):
        if quoted := _QUOTED.match(text, at):
            at, track, mark = quoted.end(), quoted[1].replace('""', '"'), quoted[2]
        else:
            word = text[at:].partition(",")[0]
            at += len(word)
            mark = next((mark for mark in _MARKS if word.rstrip().endswith(mark)), "")
            track = word.rstrip().removesuffix(mark) if mark else word
        if not track.strip() and not quoted:
            raise UserError(f"{option} has no track in place {len(plays) + 1}: give one id between any two commas")
        plays.append(TypedPlay(track, _MARKS.get(mark), quoted is not None))
        at += 1
    return plays


def read_profile(text: str) -> list[TypedPlay]:
    """Of `--profile`, the last one at the end. Raises `UserError` as `read_session`, and for a mark."""
    plays = read_session(text, "--profile")
    if marked := next((play for play in plays if play.skipped is not None), None):
        raise UserError(f"--profile holds tracks that were kept: leave the mark behind {shown(marked.track)} out")
    return plays


def known_row(tracks: TrackIds, track: str, place: str) -> int:
    """The track's row; raises `UserError` that starts with `place` and suggests a track that may have been meant."""
    row = tracks.row(track)
    if row is None:
        near = tracks.near(track)
        meant = f"perhaps {shown(near)} was meant" if near else "give an id of the data it was trained on"
        raise UserError(f"{place} {shown(track)} is not among the {len(tracks):,} tracks of the export: {meant}")
    return row


def known_tracks(tracks: TrackIds, plays: list[TypedPlay], option: str = "--session") -> list[str]:
    """The id of each play; blanks at the ends of one that is not in quotes belong to it where the export has it so.

    Raises `UserError` for an unknown track.
    """
    ids = [play.track if play.quoted or tracks.row(play.track) is not None else play.track.strip() for play in plays]
    for one, other in zip(plays, plays[1:], strict=False):
        if tracks.row(one.track.strip()) is None and tracks.row(whole := f"{one.track},{other.track}") is not None:
            raise UserError(f'{option} cannot tell {shown(whole)}, whose id has a comma: write it in quotes ("a,b")')
    for number, track in enumerate(ids, start=1):
        if track.endswith(_LIKE_MARKS) and tracks.row(track) is None:
            raise UserError(
                f"{option}, place {number}: {shown(track)} is no track: write :skip behind an id that was skipped, "
                ":kept behind one that was kept"
            )
        known_row(tracks, track, f"{option}, place {number}:")
    return ids


def print_ranked(ranked: Mapping[str, Sequence[Any]], names: Sequence[Mapping[str, str]] = ()) -> None:
    """Prints rank and track of each and, where there are any, score, `kept` (P(kept)), title and artist."""
    numbers = {name: head for name, head in (("scores", "score"), ("kept", "P(kept)")) if name in ranked}
    columns = [
        _column("rank", [str(place) for place in range(1, len(ranked["tracks"]) + 1)], 5, right=True),
        _column("track", [_seen(track) for track in ranked["tracks"]]),
        *(_column(head, [f"{one:.4f}" for one in ranked[name]], 9, right=True) for name, head in numbers.items()),
    ]
    for head in ("title", "artist"):
        if any(head in of_track for of_track in names):
            columns.append(_column(head, [_cut(_seen(of_track.get(head, ""))) for of_track in names]))
    for line in zip(*columns, strict=True):
        print("  ".join(line).rstrip())


def _column(head: str, cells: list[str], width: int = 0, right: bool = False) -> list[str]:
    """The cells under their heading, filled to one width."""
    cells = [head, *cells]
    width = max(width, *map(_places, cells))
    return [" " * (width - _places(one)) + one if right else one + " " * (width - _places(one)) for one in cells]


def _seen(text: str) -> str:
    """As a terminal may get it: controls are escaped, but for the joiners of Persian, Hindi and emoji."""
    return "".join(one if one in "\u200c\u200d" else printable(one) for one in text)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _places(text: str) -> int:
    """The places of a terminal's line that a text takes, about."""
    wide = sum(unicodedata.east_asian_width(one) in "WF" for one in text)
    return len(text) + wide - sum(unicodedata.category(one) in ("Mn", "Me", "Cf") for one in text)
