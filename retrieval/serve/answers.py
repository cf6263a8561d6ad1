"""Answers to many requests at once.

Shape legend: Q requests of a group, K best, P distinct played tracks, D width.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
from starlette.exceptions import HTTPException

from skipwise.common.errors import UserError, shown
from skipwise.datapipes.signals import UNKNOWN
from skipwise.retrieval.recommend.config import RecommendOptions
from skipwise.retrieval.recommend.recommender import Recommended, SessionHistory
from skipwise.retrieval.serve.batching import Answer
from skipwise.retrieval.serve.http_schema import Play, RecommendRequest, SimilarRequest
from skipwise.retrieval.serve.served_export import HotSwap, ServedExport

Exports = dict[str, HotSwap]
"""`main` and perhaps `compare`."""
Request = TypeVar("Request", RecommendRequest, SimilarRequest)


def recommendations(exports: Exports, requests: Sequence[RecommendRequest]) -> list[Answer | Exception]:
    """One search for all requests that differ in session and K alone, of the largest K among them."""

    def search(served: ServedExport, asked: list[Any], k: int, like: RecommendRequest) -> Recommended:
        options = RecommendOptions(
            k=k, exclude=like.exclude, dial=like.dial, filter=like.filter, cool_down=like.cool_down
        )
        history = SessionHistory.of([one.session for one in asked], [one.profile for one in asked])
        return served.recommender.recommend(history, options)

    def tracks(request: RecommendRequest) -> list[str]:
        return [play.track for play in request.session] + request.profile

    def key(request: RecommendRequest) -> Any:
        return request.export, request.exclude, request.dial, request.filter, request.cool_down

    return _grouped(exports, requests, key, tracks, _session, search)


def neighbours(exports: Exports, requests: Sequence[SimilarRequest]) -> list[Answer | Exception]:
    """The tracks nearest to the track of each request."""

    def search(served: ServedExport, rows: list[Any], k: int, like: SimilarRequest) -> Recommended:
        return Recommended(*served.recommender.similar(np.array(rows, dtype=np.int64), k, like.by), None)

    return _grouped(exports, requests, lambda one: (one.export, one.by), lambda one: [one.track], _track, search)


def find_export(exports: Exports, name: str) -> HotSwap:
    """Raises `HTTPException` where the service has no such export."""
    if name not in exports:
        raise HTTPException(404, f"there is no export '{name}' here: start the service with --{name} OUT")
    return exports[name]


def _grouped(
    exports: Exports,
    requests: Sequence[Request],
    key: Callable[[Request], Any],
    tracks_of: Callable[[Request], list[str]],
    read: Callable[[ServedExport, Request, list[int]], tuple[Any, Answer]],
    search: Callable[[ServedExport, list[Any], int, Request], Recommended],
) -> list[Answer | Exception]:
    """Answers to `requests`, in their order; those of the same `key` are searched for together.

    `read` gets the rows of a request's tracks, -1 for unknown ones, which are looked up for all requests together. It
    gives what to search for and what to add to the answer, or raises the answer.
    """
    groups: dict[Any, list[int]] = {}
    for place, request in enumerate(requests):
        groups.setdefault(key(request), []).append(place)
    answers: dict[int, Answer | Exception] = {}
    for places in groups.values():
        like = requests[places[0]]
        served = exports[like.export].current
        export = {"name": like.export} | served.identity()
        asked: dict[int, tuple[Any, Answer]] = {}
        asked_of: list[list[str]] = [tracks_of(requests[place]) for place in places]
        rows: Iterator[int] = iter(served.opened.tracks.rows_of([*chain.from_iterable(asked_of)]))
        for number, place in enumerate(places):
            own: list[int] = list(islice(rows, len(asked_of[number])))
            try:
                asked[place] = read(served, requests[place], own)
            except HTTPException as refusal:
                answers[place] = refusal
        if not asked:
            continue
        k_B = np.array([requests[place].k for place in asked])
        found = search(served, [one for one, _ in asked.values()], int(k_B.max()), like)
        listed_BK = (found.rows_BK >= 0) & (np.arange(found.rows_BK.shape[1]) < k_B[:, None])
        rows_N = found.rows_BK[listed_BK].tolist()
        columns = {"track": served.opened.tracks.texts(rows_N), "score": found.scores_BK[listed_BK].tolist()}
        columns |= {} if found.kept_BK is None else {"kept": found.kept_BK[listed_BK].tolist()}
        ranked = zip(served.opened.tracks.named_rows(rows_N), zip(*columns.values(), strict=True), strict=True)
        ranked_N: Iterator[Answer] = (names | dict(zip(columns, one, strict=True)) for names, one in ranked)
        for row, (place, (one, more)) in enumerate(asked.items()):
            rows_K: np.ndarray = found.rows_BK[row][listed_BK[row]]
            tracks: list[Answer] = [*islice(ranked_N, len(rows_K))]
            if why := getattr(requests[place], "why", 0):
                played = [heard for heard, *_ in one.session]
                nearest = _nearest(served, rows_K, np.array(list(dict.fromkeys(played))), why)
                tracks = [track | {"nearest": near} for track, near in zip(tracks, nearest, strict=True)]
            answers[place] = {"export": export, "tracks": tracks} | more
    return [answers[place] for place in range(len(requests))]


def _nearest(served: ServedExport, rows_K: np.ndarray, played_P: np.ndarray, most: int) -> list[list[Answer]]:
    """Of each track, at most `most` of the others that were played, nearest first, by the cosine of the embeddings."""
    found_KD, played_PD = (served.opened.embeddings.take(rows) for rows in (rows_K, played_P))
    lengths_KP = np.linalg.norm(found_KD, axis=1)[:, None] * np.linalg.norm(played_PD, axis=1)
    cosine_KP = found_KD @ played_PD.T / np.maximum(lengths_KP, np.finfo(np.float32).tiny)
    tracks = served.opened.tracks
    named = zip(tracks.texts(played_P.tolist()), tracks.named_rows(played_P.tolist()), strict=True)
    named_P = [{"track": track} | names for track, names in named]
    return [
        [
            named_P[at] | {"cosine": float(cosine_P[at])}
            for at in np.argsort(-cosine_P, kind="stable")[: most + 1]
            if played_P[at] != row
        ][:most]
        for row, cosine_P in zip(rows_K, cosine_KP, strict=True)
    ]


class _Asked(NamedTuple):
    """What to recommend after."""

    session: list[tuple[int, ...]]
    """Row, strength and context codes of the known tracks."""
    profile: list[int]
    """Rows of the known tracks that the listener kept before."""


def _session(served: ServedExport, request: RecommendRequest, rows: list[int]) -> tuple[_Asked, Answer]:
    """The known tracks, and the unknown ones of session and profile; `rows`: of the session, then of the profile."""
    if request.profile and not served.opened.profile:
        raise HTTPException(422, "this export reads no profile: leave it out, or export a run with --data.profile")
    try:
        served.recommender.dial(request.dial)
        served.recommender.columns.check(request.filter, request.cool_down)
    except UserError as error:
        raise HTTPException(422, str(error)) from None
    session, heard, unknown = [], [], []
    kept, skipped = served.opened.view.strengths(np.array([False, True])).tolist()
    strengths = {None: UNKNOWN, False: kept, True: skipped}
    for play, row in zip(request.session, rows, strict=False):
        if row >= 0:
            session.append((row, strengths[play.skipped], *_codes(served, play)))
            heard.append({"track": play.track})
        elif request.unknown == "drop":
            unknown.append(play.track)
        else:
            raise _not_there(play.track, "leave it out, or send unknown=drop to have it dropped")
    rows_of_profile = rows[len(request.session) :]
    if gone := [track for track, row in zip(request.profile, rows_of_profile, strict=True) if row < 0]:
        if request.unknown != "drop":
            raise _not_there(gone[0], "leave it out of the profile, or send unknown=drop to have it dropped")
        unknown += gone
    if not session:
        raise HTTPException(422, "none of the session's tracks is in the export: send at least one that is")
    asked = _Asked(session, [row for row in rows_of_profile if row >= 0])
    if not served.opened.tracks.names:
        return asked, {"dropped": unknown}
    names = served.opened.tracks.named_rows([row for row, *_ in session])
    return asked, {"dropped": unknown, "session": [track | of for track, of in zip(heard, names, strict=True)]}


def _codes(served: ServedExport, play: Play) -> list[int]:
    """Of each context column that the export reads, 0 where the request does not say it or no training play said so."""
    if not play.context and not served.codes:
        return []
    unread = play.context.keys() - served.codes.keys()
    if unread:
        known = ", ".join(served.codes) or "none"
        raise HTTPException(422, f"{shown(min(unread))} is no context column that this export reads: it reads {known}")
    # As Arrow writes flags and numbers as text.
    said = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in play.context.items()}
    return [codes.get(said[name], 0) if name in said else 0 for name, codes in served.codes.items()]


def _track(_: ServedExport, request: SimilarRequest, rows: list[int]) -> tuple[int, Answer]:
    if rows[0] < 0:
        raise _not_there(request.track, "see /tracks")
    return rows[0], {}


def _not_there(track: str, remedy: str) -> HTTPException:
    quoted = repr(track if len(track) <= 100 else f"{track[:100]}...")
    return HTTPException(404, f"the track {quoted} is not in the export: {remedy}")
