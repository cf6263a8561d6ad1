"""Sources of logs that are known by name: which of their columns mean what.

Each entry is a form that a source's files have. `where` is its documentation.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import filter as filter_names
from typing import Any

_ONE = {"user": "me", "gap": "30m", "on_missing_track": "skip"}
"""The log of one listener."""
_MANY = {"gap": "30m", "on_missing_track": "skip"}
_NAMES = {"null": ("",)}
"""Ids that are names, in files that leave a missing one empty: None and Null are artists and songs."""
_RATED = ("userId", "movieId", "rating", "timestamp")
_RATINGS = {
    **{"session": "userId", "track": "movieId", "order": "timestamp", "sort": True, "rating": "rating"},
    "title": "title",
}


@dataclass(frozen=True)
class Known:
    """One form of a source."""

    name: str
    options: dict[str, Any]
    """Of `prepare`; those that name a column are left out where the log does not have it."""
    columns: tuple[str, ...] = ()
    """Columns that tell it; without them it has no header line, and as many columns as `options` names."""
    files: tuple[str, ...] = ("*",)
    """Patterns of its files' names, for folders that hold other ones too."""


SOURCES = (
    # where: https://www.aicrowd.com/challenges/spotify-sequential-skip-prediction-challenge
    Known("mssd", {}, ("session_id", "session_position", "track_id_clean"), ("log*",)),
    # where: https://support.spotify.com/article/understanding-my-data/ (extended streaming history)
    Known(
        "spotify-history",
        {
            **_ONE,
            "track": "spotify_track_uri",
            "order": "ts",
            "skip": "skipped",
            "reason": "reason_end",
            "skip_reasons": ("fwdbtn", "backbtn"),
            "keep_reasons": ("trackdone",),
            "played": "ms_played",
            "skip_under": "30s",
            "played_unit": "ms",
            "title": "master_metadata_track_name",
            "artist": "master_metadata_album_artist_name",
        },
        ("ts", "ms_played", "spotify_track_uri"),
        ("Streaming_History_Audio_*", "endsong_*"),
    ),
    # The same page: account data, of the last year.
    Known(
        "spotify-history",
        {
            **_ONE,
            "track": ("artistName", "trackName"),
            "order": "endTime",
            "where": "NOT (artistName = 'Unknown Artist' AND trackName = 'Unknown Track')",
            "played": "msPlayed",
            "skip_under": "30s",
            "played_unit": "ms",
            "title": "trackName",
            "artist": "artistName",
        },
        ("endTime", "artistName", "trackName", "msPlayed"),
        ("StreamingHistory[0-9]*", "StreamingHistory_music_*"),
    ),
    # where: https://mainstream.ghan.nl/export.html
    Known(
        "lastfm",
        {**_ONE, **_NAMES, "track": ("artist", "track"), "order": "uts", "title": "track", "artist": "artist"},
        ("uts", "artist", "track"),
    ),
    # where: https://benjaminbenben.com/lastfm-to-csv/
    Known(
        "lastfm",
        {
            **_ONE,
            **_NAMES,
            "columns": ("artist", "album", "track", "time"),
            "track": ("artist", "track"),
            "order": "time",
            "title": "track",
            "artist": "artist",
        },
    ),
    # where: https://lastfmstats.com; the column of times has the listener in its name
    Known(
        "lastfm",
        {
            **_ONE,
            **_NAMES,
            "track": ("Artist", "Track"),
            "order": "Date#*",
            "time_unit": "ms",
            "title": "Track",
            "artist": "Artist",
        },
        ("Artist", "Track", "Date#*"),
    ),
    # where: http://ocelma.net/MusicRecommendationDataset/lastfm-1K.html
    Known(
        "lastfm-1k",
        {
            **_MANY,
            **_NAMES,
            "columns": ("user", "time", "artist_id", "artist", "track_id", "title"),
            "session": "user",
            "track": ("artist", "title"),
            "order": "time",
            "title": "title",
            "artist": "artist",
        },
        (),
        ("userid-timestamp-*",),
    ),
    # where: https://listenbrainz.readthedocs.io/en/latest/users/json.html; dumps name the listener, exports do not,
    # and earlier dumps have another name for the time
    *(
        Known(
            "listenbrainz",
            {
                **of,
                "track": ("track_metadata.artist_name", "track_metadata.track_name"),
                "order": time,
                "title": "track_metadata.track_name",
                "artist": "track_metadata.artist_name",
            },
            (*told, time, "track_metadata.artist_name", "track_metadata.track_name"),
            ("[0-9]*",),
        )
        for of, told, time in (
            ({**_MANY, "session": "user_name"}, ("user_name",), "listened_at"),
            ({**_MANY, "session": "user_name"}, ("user_name",), "timestamp"),
            (_ONE, (), "listened_at"),
        )
    ),
    # where: https://huggingface.co/datasets/yandex/yambda, and its benchmark: times are seconds from the
    # log's beginning, rounded to 5 s. Flat files and sequential ones; those of many events have a type of event.
    *(
        Known(
            "yambda",
            {
                "session": "uid",
                "track": "item_id",
                "order": "timestamp",
                "time_unit": "s",
                "gap": "30m",
                "rating": "played_ratio_pct",
                "skip_below": 50.0,
                **more,
            },
            ("uid", "item_id", "timestamp", "played_ratio_pct", *told),
            files,
        )
        for more, told, files in (
            ({"where": "event_type = 'listen'"}, ("event_type",), ("multi_event*",)),
            ({}, (), ("listens*",)),
        )
    ),
    # where: https://kuairand.com
    Known(
        "kuairand",
        {
            "session": "user_id",
            "track": "video_id",
            "order": "time_ms",
            "time_unit": "ms",
            "gap": "30m",
            "kept": "long_view",
        },
        ("user_id", "video_id", "time_ms", "long_view"),
        ("log_*",),
    ),
    # where: https://files.grouplens.org/datasets/movielens/ml-32m-README.html, and of ml-1m and ml-100k
    Known("movielens", _RATINGS, _RATED, ("ratings.csv*",)),
    *(
        Known("movielens", {**_RATINGS, "columns": _RATED, "tracks_columns": ("movieId", "title", *more)}, (), (file,))
        for file, more in (
            ("ratings.dat*", ("genres",)),
            ("u.data*", ("date", "video_date", "url", *(f"genre_{number}" for number in range(19)))),
        )
    ),
    # where: https://github.com/otto-de/recsys-dataset; as it is published, and as a table
    Known(
        "otto",
        {"session": "session", "track": "events.aid", "order": "events.ts", "time_unit": "ms", "sort": True},
        ("session", "events.aid", "events.ts", "events.type"),
        ("*train*.jsonl*", "*test.jsonl*"),
    ),
    Known(
        "otto",
        {"session": "session", "track": "aid", "order": "ts", "sort": True},
        ("session", "aid", "ts", "type"),
        ("*.parquet",),
    ),
)


def known_by(names: Iterable[str], forms: Iterable[Known] = SOURCES) -> Known | None:
    """Returns the first form that is told by its columns and has these."""
    plain = [name.removeprefix("hist_user_behavior_") for name in names]
    return next(
        (known for known in forms if known.columns and all(filter_names(plain, one) for one in known.columns)), None
    )
