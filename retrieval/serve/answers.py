"""Answers to many requests at once.

Shape legend: Q requests of a group, K best.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import numpy as np

from skipwise.retrieval.recommend.config import RecommendOptions
from skipwise.retrieval.recommend.recommender import SessionHistory
from skipwise.retrieval.serve.batching import Answer
from skipwise.retrieval.serve.http_schema import RecommendRequest, Refusal, SimilarRequest
from skipwise.retrieval.serve.served_export import HotSwap, ServedExport

Exports = dict[str, HotSwap]
"""`main` and perhaps `compare`."""
Request = TypeVar("Request", RecommendRequest, SimilarRequest)


def recommendations(exports: Exports, requests: Sequence[RecommendRequest]) -> list[Answer | Exception]:
    """One search for all requests that differ in session and K alone, of the largest K among them."""
    return _grouped(exports, requests, lambda one: (one.export, one.exclude, one.steer), _recommend)


def neighbours(exports: Exports, requests: Sequence[SimilarRequest]) -> list[Answer | Exception]:
    """The tracks nearest to the track of each request."""
    return _grouped(exports, requests, lambda one: (one.export, one.by), _similar)


def find_export(exports: Exports, name: str) -> HotSwap:
    """Raises `Refusal` where the service has no such export."""
    if name not in exports:
        raise Refusal(404, f"there is no export '{name}' here: start the service with --{name} OUT")
    return exports[name]


def _grouped(
    exports: Exports,
    requests: Sequence[Request],
    key: Callable[[Request], Hashable],
    answer: Callable[[ServedExport, list[Request]], list[Answer | Refusal]],
) -> list[Answer | Exception]:
    """`answer` for each group of requests of the same `key`, in the order of `requests`."""
    groups: dict[Hashable, list[int]] = {}
    for place, request in enumerate(requests):
        groups.setdefault(key(request), []).append(place)
    answers: dict[int, Answer | Exception] = {}
    for places in groups.values():
        group = [requests[place] for place in places]
        served = exports[group[0].export].current
        export = {"name": group[0].export} | served.identity()
        for place, one in zip(places, answer(served, group), strict=True):
            answers[place] = one if isinstance(one, Refusal) else {"export": export} | one
    return [answers[place] for place in range(len(requests))]


def _recommend(served: ServedExport, requests: list[RecommendRequest]) -> list[Answer | Refusal]:
    first = requests[0]
    sessions = [_session(served, request) for request in requests]
    known = [session for session in sessions if not isinstance(session, Refusal)]
    options = RecommendOptions(k=max(one.k for one in requests), exclude=first.exclude, steer=first.steer)
    found = served.recommender.recommend(SessionHistory.of([rows for rows, _ in known]), options)
    ranked = iter(zip(*found, strict=True))
    return [
        session
        if isinstance(session, Refusal)
        else {"tracks": _ranked(served, request.k, *next(ranked)), "dropped": session[1]}
        for request, session in zip(requests, sessions, strict=True)
    ]


def _session(served: ServedExport, request: RecommendRequest) -> tuple[list[tuple[int, bool]], list[str]] | Refusal:
    """(row, skipped) of the session's known tracks, and its unknown tracks."""
    session, unknown = [], []
    for play in request.session:
        row = served.opened.tracks.row(play.track)
        if row is not None:
            session.append((row, play.skipped))
        elif request.unknown == "drop":
            unknown.append(play.track)
        else:
            remedy = "leave it out, or send unknown=drop to have it dropped"
            return Refusal(404, f"the track {_quoted(play.track)} is not in the export: {remedy}")
    if not session:
        return Refusal(422, "none of the session's tracks is in the export: send at least one that is")
    return session, unknown


def _similar(served: ServedExport, requests: list[SimilarRequest]) -> list[Answer | Refusal]:
    rows = [served.opened.tracks.row(request.track) for request in requests]
    rows_Q = np.array([row for row in rows if row is not None], dtype=np.int64)
    found = served.recommender.similar(rows_Q, max(one.k for one in requests), requests[0].by)
    ranked = iter(zip(*found, strict=True))
    return [
        Refusal(404, f"the track {_quoted(request.track)} is not in the export: see /tracks")
        if row is None
        else {"tracks": _ranked(served, request.k, *next(ranked))}
        for request, row in zip(requests, rows, strict=True)
    ]


def _ranked(served: ServedExport, k: int, rows_K: np.ndarray, scores_K: np.ndarray) -> list[dict[str, Any]]:
    """The first `k` of the rows; -1, where there are no more, ends the list."""
    rows_K, scores_K = rows_K[:k], scores_K[:k]
    found_K = rows_K >= 0
    tracks = served.opened.tracks.ids(rows_K[found_K]).to_pylist()
    return [{"track": track, "score": score} for track, score in zip(tracks, scores_K[found_K].tolist(), strict=True)]


def _quoted(track: str) -> str:
    """A track's id in a sentence, at most 100 characters of it."""
    return repr(track if len(track) <= 100 else f"{track[:100]}...")
