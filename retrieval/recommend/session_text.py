"""A session as one types it: `t_1,t_2:skip,t_3`."""

from skipwise.common.errors import UserError, shown
from skipwise.retrieval.recommend.limits import MOST_PLAYS
from skipwise.retrieval.track_ids import TrackIds

_SKIP = ":skip"


def read_session(text: str) -> list[tuple[str, bool]]:
    """(track, skipped) in play order; raises `UserError` for an empty session or an empty place in it."""
    if not text.strip():
        raise UserError('--session is empty: give track ids in play order, like "t_1,t_2:skip,t_3"')
    plays = []
    for number, word in enumerate(text.split(","), start=1):
        word = word.strip()
        skipped = word.endswith(_SKIP)
        track = word.removesuffix(_SKIP) if skipped else word
        if not track:
            raise UserError(f"--session has no track in place {number}: give one id between any two commas")
        plays.append((track, skipped))
    if len(plays) > MOST_PLAYS:
        raise UserError(f"--session has {len(plays)} tracks: give at most the last {MOST_PLAYS}")
    return plays


def known_row(tracks: TrackIds, track: str, place: str) -> int:
    """The track's row; `UserError` that names `place`, where the track was asked for, and what may have been meant."""
    row = tracks.row(track)
    if row is None:
        near = tracks.near(track)
        meant = f"perhaps {shown(near)} was meant" if near else "give an id of the data it was trained on"
        raise UserError(f"{place} {shown(track)} is not among the {len(tracks):,} tracks of the export: {meant}")
    return row


def known_session(tracks: TrackIds, text: str) -> list[tuple[int, bool]]:
    """(row, skipped) of `read_session`; `UserError` for an unknown track."""
    plays = read_session(text)
    for (one, _), (other, _) in zip(plays, plays[1:], strict=False):
        if tracks.row(one) is None and tracks.row(whole := f"{one},{other}") is not None:
            raise UserError(f"--session cannot hold {shown(whole)}, for its id has a comma: put sessions into --input")
    places = [f"--session, place {number}:" for number in range(1, len(plays) + 1)]
    return [(known_row(tracks, track, place), skipped) for (track, skipped), place in zip(plays, places, strict=True)]
