"""What the page must show, computed from the service's own answers by other means than the page's."""

import json
from urllib.parse import urlencode
from urllib.request import Request, urlopen

DEPTH = 100
Plays = list[tuple[str, bool | None]]


def ask(url: str, body: dict | None = None) -> dict:
    """The service's JSON."""
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url, data, {"Content-Type": "application/json"}), timeout=10) as answer:
        return json.load(answer)


def recommended(url: str, plays: Plays, exclude: str = "session", dial: float = 0, export: str = "main") -> list[dict]:
    """{track, score, kept}, best first."""
    session = [{"track": track, "skipped": skipped} for track, skipped in plays]
    body = {"session": session, "k": DEPTH, "exclude": exclude, "dial": dial, "export": export}
    return ask(f"{url}/recommend", body)["tracks"]


def unmarked(plays: Plays) -> Plays:
    return [(track, skipped and False) for track, skipped in plays]


def address(url: str, plays: Plays, **parameters) -> str:
    """The page's address for this state."""
    pairs = [({True: "skipped", False: "heard", None: "played"}[skipped], track) for track, skipped in plays]
    return f"{url}/#{urlencode(pairs + list(parameters.items()))}"


def cells(ranked: list[dict], other: list[dict], gone: str, shown: int = 10) -> list[list[str]]:
    """Rank, track, score, P(kept) if any, and arrow of each row of the first column; `gone`: an unknown place."""
    places = [one["track"] for one in other]
    rows = []
    for rank, one in enumerate(ranked[:shown], 1):
        before = places.index(one["track"]) + 1 if one["track"] in places else None
        if before is None or before > shown:
            arrow = f"▲ from {before or gone}"
        elif before == rank:
            arrow = "="
        else:
            arrow = f"▲ {before - rank}" if before > rank else f"▼ {rank - before}"
        kept = [] if one.get("kept") is None else [f"P(kept) {100 * one['kept']:.0f} %"]
        rows.append([str(rank), one["track"], f"Score {one['score']:.3f}", *kept, arrow])
    return rows


def counts(after: list[dict], before: list[dict], shown: int = 10) -> str:
    """The summary's figures."""
    now = {one["track"]: rank for rank, one in enumerate(after[:shown])}
    then = {one["track"]: rank for rank, one in enumerate(before[:shown])}
    both = now.keys() & then.keys()
    rose = sum(now[track] < then[track] for track in both)
    fell = sum(now[track] > then[track] for track in both)
    return f"{rose} rose, {fell} fell, {len(now) - len(both)} entered, {len(then) - len(both)} left."
