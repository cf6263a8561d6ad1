"""What is asked of an export, and the answers, for many questions at once.

Shape legend: Q questions asked together, K best, X rows to leave out.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from skipwise.components.similar import Likeness
from skipwise.retrieval.recommend.recommender import Exclude, SessionHistory
from skipwise.retrieval.recommend.similar_tracks import nearest
from skipwise.retrieval.serve.batching import Answer
from skipwise.retrieval.serve.hot_swap import Slot
from skipwise.retrieval.serve.served_export import Loaded

Slots = dict[str, Slot]


class Refusal(Exception):
    """A request that cannot be answered: an HTTP status and one sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


@dataclass(frozen=True)
class RecommendQuestion:
    """Of POST /recommend."""

    session: list[tuple[str, bool]]
    """Tracks and whether each was skipped, oldest first."""
    k: int
    exclude: Exclude
    steer: float
    drops: bool
    """Unknown tracks are left out of the session rather than refused."""
    export: str


@dataclass(frozen=True)
class SimilarQuestion:
    """Of GET /similar."""

    track: str
    k: int
    by: Likeness
    export: str


def recommendations(slots: Slots, questions: Sequence[RecommendQuestion]) -> list[Answer | Exception]:
    """One search for all questions that differ in session and K alone; each is cut from the greatest K."""
    return _together(
        questions, lambda one: (one.export, one.exclude, one.steer), lambda group: _recommend(slots, group)
    )


def neighbours(slots: Slots, questions: Sequence[SimilarQuestion]) -> list[Answer | Exception]:
    """The tracks nearest to each question's."""
    return _together(questions, lambda one: (one.export, one.by), lambda group: _similar(slots, group))


def slot_of(slots: Slots, export: str) -> Slot:
    """Raises `Refusal` where the service has no such export."""
    if export not in slots:
        raise Refusal(404, f"there is no export '{export}' here: start the service with --{export} OUT")
    return slots[export]


def _together(questions: Sequence, key: Callable[..., Hashable], work: Callable) -> list[Answer | Exception]:
    groups: dict[Hashable, list[int]] = {}
    for place, question in enumerate(questions):
        groups.setdefault(key(question), []).append(place)
    answers: list[Answer | Exception] = [None] * len(questions)
    for places in groups.values():
        for place, answer in zip(places, work([questions[place] for place in places]), strict=True):
            answers[place] = answer
    return answers


def _recommend(slots: Slots, questions: list[RecommendQuestion]) -> list[Answer | Exception]:
    first = questions[0]
    loaded = slots[first.export].current
    answers, sessions, dropped = [], [], []
    for question in questions:
        try:
            session, unknown = _known(loaded, question)
        except Refusal as refusal:
            answers.append(refusal)
            continue
        answers.append(None)
        sessions.append(session)
        dropped.append(unknown)
    if not sessions:
        return answers
    most = max(question.k for question in questions)
    rows_QK, scores_QK = loaded.recommender.recommend(SessionHistory.of(sessions), most, first.exclude, first.steer)
    export = {"name": first.export} | loaded.identity()
    found = iter(zip(rows_QK, scores_QK, dropped, strict=True))
    for place, question in enumerate(questions):
        if answers[place] is None:
            rows_K, scores_K, unknown = next(found)
            tracks = _ranked(loaded, rows_K[: question.k], scores_K[: question.k])
            answers[place] = {"export": export, "tracks": tracks, "dropped": unknown}
    return answers


def _known(loaded: Loaded, question: RecommendQuestion) -> tuple[list[tuple[int, bool]], list[str]]:
    """The session's rows, and the tracks that have none."""
    session, unknown = [], []
    for track, skipped in question.session:
        row = loaded.opened.tracks.row(track)
        if row is not None:
            session.append((row, skipped))
        elif question.drops:
            unknown.append(track)
        else:
            raise Refusal(
                404,
                f"the track {_named(track)} is not in the export: leave it out, or send "
                "unknown=drop to have it dropped",
            )
    if not session:
        raise Refusal(422, "none of the session's tracks is in the export: send at least one that is")
    return session, unknown


def _similar(slots: Slots, questions: list[SimilarQuestion]) -> list[Answer | Exception]:
    first = questions[0]
    loaded = slots[first.export].current
    rows = [loaded.opened.tracks.row(question.track) for question in questions]
    rows_Q = np.array([row for row in rows if row is not None], dtype=np.int64)
    found = iter(())
    if len(rows_Q):
        most = max(question.k for question in questions)
        rows_QK, scores_QK = nearest(loaded.opened.vectors, rows_Q, most, first.by)
        found = zip(rows_QK, scores_QK, strict=True)
    export = {"name": first.export} | loaded.identity()
    answers: list[Answer | Exception] = []
    for question, row in zip(questions, rows, strict=True):
        if row is None:
            answers.append(Refusal(404, f"the track {_named(question.track)} is not in the export: see /tracks"))
            continue
        rows_K, scores_K = next(found)
        tracks = _ranked(loaded, rows_K[: question.k], scores_K[: question.k])
        answers.append({"export": export, "tracks": tracks})
    return answers


def _ranked(loaded: Loaded, rows_K: np.ndarray, scores_K: np.ndarray) -> list[dict[str, str | float]]:
    found_K = rows_K >= 0
    names = loaded.opened.tracks.ids(rows_K[found_K]).to_pylist()
    return [{"track": name, "score": score} for name, score in zip(names, scores_K[found_K].tolist(), strict=True)]


def _named(track: str) -> str:
    """A track as a sentence names it."""
    return repr(track if len(track) <= 100 else f"{track[:100]}...")
