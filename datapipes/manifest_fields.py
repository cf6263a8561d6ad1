"""What each field of a dataset's manifest may hold, for a file that anything may have happened to."""

import math
import re
from collections.abc import Callable
from typing import Any

MOST_TRACKS = 2**31 - 1
"""Rows of the vocabulary are int32."""


def whole(value: Any, least: int = 0) -> bool:
    """Whether a value is a whole number, of at least `least`, that fits in int64."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**63


def texts(value: Any) -> bool:
    """Whether a value is a list of texts."""
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def numbered(value: Any) -> bool:
    """Whether a value maps texts to whole numbers."""
    return isinstance(value, dict) and all(map(whole, value.values()))


def _counts(value: Any) -> bool:
    named = isinstance(value, dict) and value.keys() >= {"sessions", "plays", "tracks"}
    return named and all(whole(count, 1) for count in value.values()) and value["tracks"] <= MOST_TRACKS


def _lengths(value: Any) -> bool:
    named = isinstance(value, dict) and value.keys() >= {"min", "max"}
    return named and whole(value["min"], 1) and whole(value["max"], value["min"])


def _share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1


def _parts(value: Any) -> bool:
    # A plain name: a path could lead out of the directory.
    return numbered(value) and all(re.fullmatch(r"\w[\w.-]{0,200}", name, re.ASCII) for name in value)


def _checksums(value: Any) -> bool:
    lists = isinstance(value, dict) and all(map(texts, value.values()))
    return lists and all(re.fullmatch("[0-9a-f]{8}", text) for part in value.values() for text in part)


def _sources(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(source, dict) for source in value)


def _versions(value: Any) -> bool:
    return isinstance(value, dict) and texts(list(value.values()))


FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "counts": (_counts, f"whole numbers of sessions, plays and tracks, from 1, and tracks up to {MOST_TRACKS}"),
    "session_lengths": (_lengths, "whole numbers min and max, from 1 and min up to max"),
    "skip_share": (_share, "a number from 0 to 1"),
    "context_columns": (texts, "a list of names"),
    "parts": (_parts, "plain file names, each with its number of sessions"),
    "vocabulary_hash": (
        lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None,
        "64 hexadecimal digits",
    ),
    "sources": (_sources, "a list of files"),
    "options": (lambda value: isinstance(value, dict), "names and values"),
    "dropped_sessions": (numbered, "reasons, each with a whole number"),
    "dropped_rows": (numbered, "reasons, each with a whole number"),
    "versions": (_versions, "names and versions"),
    "checksums": (_checksums, "file names, each with a list of 8 hexadecimal digits a row group"),
}
"""For each field whether a value will do, and what to say was expected."""
