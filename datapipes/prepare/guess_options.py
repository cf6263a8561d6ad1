"""What the columns of a log seem to mean, by their names and first values: the options that would read it."""

import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from skipwise.datapipes.prepare.column_roles import USER
from skipwise.datapipes.prepare.config import FILE_ORDER, PrepareConfig
from skipwise.datapipes.prepare.log_source import Source
from skipwise.datapipes.prepare.places import guess_format

SESSIONS = ("sessionid", "session")
USERS = (
    *("userid", "user", "uid", "username", "listenerid", "listener", "memberid", "member", "customerid", "visitorid"),
    *("accountid", "profileid", "msno"),
)
IDS = (
    *("trackidclean", "trackid", "trackuri", "spotifytrackuri", "itemid", "songid", "videoid", "movieid"),
    *("recordingmbid", "recordingmsid", "trackmbid", "isrc", "productid", "aid", "sid", "item", "uri"),
)
TITLES = ("trackname", "songname", "songtitle", "title", "mastermetadatatrackname", "track", "song", "name")
ARTISTS = ("artistname", "artist", "mastermetadataalbumartistname", "artists")
TIMES = (
    *("timestamp", "ts", "time", "playedat", "listenedat", "datetime", "eventtime", "createdat", "starttime"),
    *("endtime", "uts", "timems", "utctime", "playedon", "date", "sessionposition", "position", "index"),
)
SKIP_COLUMNS = {
    "skip": ("skipped", "skip", "isskipped", "isskip"),
    "kept": ("completed", "iscompleted", "finished", "isclick", "liked", "islike", "longview", "kept"),
    "rating": ("rating", "stars"),
}
UNITS = {"s": (1e8, 1e11), "ms": (1e11, 1e14), "us": (1e14, 1e17), "ns": (1e17, 1e20)}
"""Units in which a number is a time of the last decades."""
DATE = re.compile(r"\d{4}[-/]\d{1,2}[-/]\d{1,2}.*|.*\d{1,2}:\d{2}.*")
NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")


def guess_columns(names: list[str]) -> dict[str, Any]:
    """Returns the options that name columns, for columns of these names; "track" is missing where none is one."""

    def pick(wanted: tuple[str, ...]) -> str | None:
        short = {re.sub(r"[^a-z0-9]", "", name.rsplit(".", 1)[-1].lower()): name for name in reversed(names)}
        return next((short[one] for one in wanted if one in short), None)

    title, artist = pick(TITLES), pick(ARTISTS)
    # Beside a title and no artist, "track" is an id; beside an artist it may be a place on the album.
    named = None if artist else pick(("track", "song"))
    track = pick(IDS) or ((artist, title) if artist and title else named or title)
    found: dict[str, Any] = {"session": pick(SESSIONS) or pick(USERS), "track": track, "order": pick(TIMES)}
    skip = next(((option, name) for option, of in SKIP_COLUMNS.items() if (name := pick(of))), None)
    found |= dict([skip] if skip else [])
    found |= {"title": title if title != track else None, "artist": artist}
    return {option: name for option, name in found.items() if name is not None}


def names_of(source: Source) -> list[str]:
    """Returns the columns of a source that can be read: lists only where the track seems to be in one too."""
    depth = {name: leaf.lists for name, leaf in source.leaves.items()}
    names = [name for name in source.names if depth.get(name, 0) < 2 and name]
    track = guess_columns(names).get("track")
    track = track[-1] if isinstance(track, tuple) else track
    beside = [name for name in names if depth.get(name, 0) <= depth.get(track or "", 0)]
    return beside + [name for name in source.fixed if name != USER]


def has_no_header(source: Source) -> bool:
    """Whether what should be the names of a text file's columns are values."""
    return source.format == "text" and any(NUMBER.fullmatch(name) or DATE.fullmatch(name) for name in source.names)


def guess_headless(values: list[list[str | None]]) -> tuple[str, ...]:
    """Returns names for columns of these values: times by their values, then in order listener, track and rating."""
    columns = [[value for value in column if value] for column in values]
    names = [f"column_{number}" for number in range(1, len(columns) + 1)]
    time = next((number for number, column in enumerate(columns) if is_time(column)), None)
    left = [number for number in range(len(columns)) if number != time]
    if time is not None:
        names[time] = "time"
    for number, name in zip(left, ("user", "track") if len(left) > 1 else ("track",), strict=False):
        names[number] = name
    rest = left[2:]
    if rest and all(NUMBER.fullmatch(value) and 0 <= float(value) <= 10 for value in columns[rest[0]]):
        names[rest[0]] = "rating"
    return tuple(names)


def is_time(values: list[str]) -> bool:
    """Whether values are dates or times of day, or numbers that count from 1970."""
    return bool(values) and all(DATE.fullmatch(value) or unit_of(value) for value in values)


def unit_of(value: str) -> str | None:
    """Returns the unit in which a number is a time of the last decades, None where there is none."""
    if not NUMBER.fullmatch(value):
        return None
    return next((unit for unit, (least, most) in UNITS.items() if least <= float(value) < most), None)


def alternatives(options: dict[str, Any], given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields guessed options, and then what may read the log where they do not: without skips, or other ones."""
    yield options
    for option in SKIP_COLUMNS.keys() & (options.keys() - given.keys()):
        rest = {name: value for name, value in options.items() if name != option}
        if option == "skip":
            yield rest | {"skip_strength": options[option]}
        yield rest


def guess_rules(columns: dict[str, Any], batch: pa.RecordBatch, config: PrepareConfig) -> dict[str, Any]:
    """Returns the other options, from the first rows: where sessions begin, what times count, what is missing."""
    found: dict[str, Any] = {}
    if "session" not in columns:
        found["user"] = "me"
    listener = "session" not in columns or not str(columns["session"]).lower().count("session")
    orders = [value for value in batch["order"].to_pylist() if value] if "order" in batch.schema.names else []
    if not orders:
        found["order"] = FILE_ORDER
    elif listener and is_time(orders):
        found["gap"] = "30m"
        unit = unit_of(orders[len(orders) // 2])
        found |= {"time_unit": unit} if unit not in (None, "s") else {}
    else:
        found["sort"] = True
    if orders and config.time_format is None and (pattern := guess_format(orders, config)):
        found["time_format"] = pattern
    if batch["track"].null_count and "track" in columns:
        found["on_missing_track"] = "skip"
    return found
