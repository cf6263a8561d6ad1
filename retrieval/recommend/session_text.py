"""A session as typed on a command line (`t_1:kept,t_2:skip,t_3`), and ranked tracks as lines of a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from skipwise.common.errors import UserError, printable, shown
from skipwise.retrieval.track_ids import TrackIds

_MARKS = {":skip": True, ":kept": False}
_LIKE_MARKS = (":skipped", ":skips", ":keep", ":unskipped")


def read_session(text: str) -> list[tuple[str, bool | None]]:
    """(track, skipped) in play order, None where it is not known.

    Raises `UserError` for an empty session or an empty place in it.
    """
    if not text.strip():
        raise UserError('--session is empty: give track ids in play order, like "t_1:kept,t_2:skip,t_3"')
    plays = []
    for number, word in enumerate(text.split(","), start=1):
        word = word.strip()
        mark = next((mark for mark in _MARKS if word.endswith(mark)), "")
        track = word.removesuffix(mark)
        if not track:
            raise UserError(f"--session has no track in place {number}: give one id between any two commas")
        plays.append((track, _MARKS.get(mark)))
    return plays


def known_row(tracks: TrackIds, track: str, place: str) -> int:
    """The track's row; raises `UserError` that starts with `place` and suggests a track that may have been meant."""
    row = tracks.row(track)
    if row is None:
        near = tracks.near(track)
        meant = f"perhaps {shown(near)} was meant" if near else "give an id of the data it was trained on"
        raise UserError(f"{place} {shown(track)} is not among the {len(tracks):,} tracks of the export: {meant}")
    return row


def check_known(tracks: TrackIds, plays: list[tuple[str, bool | None]]) -> None:
    """Raises `UserError` for an unknown track of `read_session`."""
    for (one, _), (other, _) in zip(plays, plays[1:], strict=False):
        if tracks.row(one) is None and tracks.row(whole := f"{one},{other}") is not None:
            raise UserError(f"--session cannot hold {shown(whole)}, whose id has a comma: put sessions into --input")
    for number, (track, _) in enumerate(plays, start=1):
        if track.endswith(_LIKE_MARKS) and tracks.row(track) is None:
            raise UserError(
                f"--session, place {number}: {shown(track)} is no track: write :skip behind an id that was skipped, "
                ":kept behind one that was kept"
            )
        known_row(tracks, track, f"--session, place {number}:")


def print_ranked(ranked: Mapping[str, Sequence[Any]]) -> None:
    """Prints rank, track and score of each, and `kept`, P(kept), if there is one."""
    names = [printable(track) for track in ranked["tracks"]]
    width = max(map(len, ["track", *names]))
    heads = {"scores": "score"} | ({"kept": "P(kept)"} if "kept" in ranked else {})
    print(f"{'rank':>5}  {'track':{width}}" + "".join(f"  {head:>9}" for head in heads.values()))
    for place, name in enumerate(names):
        numbers = "".join(f"  {ranked[column][place]:>9.4f}" for column in heads)
        print(f"{place + 1:>5}  {name:{width}}{numbers}")
