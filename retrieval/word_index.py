"""Tracks by words of their titles and artists: an SQLite file with a full-text index, made by `export`.

The index knows words in small letters without accents, and tracks by popularity: of many that match, the most played
come first without a score being computed. Python splits texts into words, for the index and for whoever searches.
"""

import re
import sqlite3
import unicodedata
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

from skipwise.common.errors import brief

MOST_WORDS = 8
"""Of a search; others are not looked at."""
LONGEST = 64
"""Letters of a word, beyond which it is cut."""
CORRECTED = 4
"""Letters from which on a word is looked for with one letter wrong too."""
_ALTERNATIVES = 16
_WORD = re.compile(r"[^\W_]+|[\u2190-\u2bff\U0001f000-\U0001faff]")
"""Letters and digits, or one symbol: arrows, stars, hearts, emoji."""
_SCHEMA = (
    "CREATE TABLE places(place INTEGER PRIMARY KEY, row INTEGER)",
    "CREATE VIRTUAL TABLE words USING "
    "fts5(text, content='', columnsize=0, detail=none, prefix='1 2 3', tokenize=ascii)",
    "CREATE TABLE terms(word TEXT PRIMARY KEY, tracks INTEGER) WITHOUT ROWID",
    "CREATE TABLE endings(size INTEGER, drow TEXT, tracks INTEGER, PRIMARY KEY(size, drow)) WITHOUT ROWID",
)


def words_of(text: str) -> list[str]:
    """The words of a text, as the index has them: "Beyoncé: Don't ♥" is `beyonce dont ♥`."""
    if not text.isascii():
        parts = unicodedata.normalize("NFKD", text.replace("’", "'")).casefold()
        text = "".join(one for one in parts if not unicodedata.combining(one))
    return [word[:LONGEST] for word in _WORD.findall(text.lower().replace("'", ""))]


def write_words(file: Path, tracks: Iterable[tuple[int, str]]) -> int:
    """Writes the index of `tracks`, (row, title and artist), the most played first; returns its number of words."""
    connection = sqlite3.connect(file, isolation_level=None)
    try:
        for line in ("PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF", "PRAGMA cache_size = -65536", *_SCHEMA):
            connection.execute(line)
        connection.execute("INSERT INTO words(words, rank) VALUES ('hashsize', 33554432)")
        connection.execute("BEGIN")
        numbered = enumerate(((row, " ".join(dict.fromkeys(words_of(text)))) for row, text in tracks), start=1)
        while block := list(islice(numbered, 10_000)):
            connection.executemany("INSERT INTO places VALUES (?, ?)", ((place, row) for place, (row, _) in block))
            connection.executemany(
                "INSERT INTO words(rowid, text) VALUES (?, ?)", ((at, text) for at, (_, text) in block)
            )
        connection.execute("INSERT INTO words(words) VALUES ('optimize')")
        connection.execute("CREATE VIRTUAL TABLE temp.counted USING fts5vocab(main, words, row)")
        connection.create_function("backwards", 1, lambda word: word[::-1], deterministic=True)
        connection.execute("INSERT INTO terms SELECT term, doc FROM counted ORDER BY term")
        connection.execute("INSERT INTO endings SELECT length(word), backwards(word), tracks FROM terms ORDER BY 1, 2")
        ((count,),) = connection.execute("SELECT count(*) FROM terms").fetchall()
        connection.execute("COMMIT")
        return int(count)
    finally:
        connection.close()


class WordIndex:
    """An index in memory. Safe to call from several threads."""

    def __init__(self, content: bytes):
        """`content`: of the file. Raises `ValueError` for anything but an index.

        Whoever made the file decides nothing but what is found: its schema must be the one above, SQLite does not trust
        it, and nothing can be written or loaded by it.
        """
        if not content:
            raise ValueError("it is empty")
        self._lock, self._connection = Lock(), sqlite3.connect(":memory:", check_same_thread=False)
        try:
            self._connection.deserialize(content)
            for pragma in ("trusted_schema = OFF", "query_only = ON", "cell_size_check = ON"):
                self._connection.execute(f"PRAGMA {pragma}")
            schema = self._connection.execute("SELECT name, type, sql FROM sqlite_schema").fetchall()
            shadows = [(name, kind, (sql or "").split("(")[0]) for name, kind, sql in schema if sql not in _SCHEMA]
            if len(schema) - len(shadows) != len(_SCHEMA) or any(
                (kind, start) != ("table", f"CREATE TABLE '{name}'") for name, kind, start in shadows
            ):
                raise ValueError("it has other tables than an index of words")
            self._connection.execute("SELECT rowid FROM words WHERE words MATCH 'a' LIMIT 1").fetchall()
        except sqlite3.Error as error:
            raise ValueError(brief(error)) from error

    def find(self, text: str, limit: int) -> list[int]:
        """Rows of at most `limit` tracks that have all words of `text`, the most played first.

        First those that have the words whole, then those that have one that begins with the last word. Where there are
        none, those that have words that begin with all of these; and where there are none, with one letter changed; and
        then without its symbols.
        """
        words = words_of(text)[:MOST_WORDS]
        whole, starts = [f'"{word}"' for word in words], [f'"{word}"*' for word in words]
        found = dict.fromkeys(self._matching(whole, limit))
        if len(found) < limit:
            found |= dict.fromkeys(self._matching([*whole[:-1], *starts[-1:]], limit))
        if not found and len(words) > 1:
            found = dict.fromkeys(self._matching(starts, limit))
        if not found:
            near = [
                [start, *(f'"{one}"' for one in self.near(word))] for word, start in zip(words, starts, strict=True)
            ]
            found = dict.fromkeys(self._matching([f"({' OR '.join(of)})" for of in near], limit))
        letters = [word for word in words if word[0].isalnum()]
        if not found and 0 < len(letters) < len(words):
            return self.find(" ".join(letters), limit)
        return list(found)[:limit]

    def near(self, word: str) -> list[str]:
        """Words of tracks that differ in one letter, or whose beginning does in its last half: the most frequent.

        One letter leaves the first or the last half of a word as it is, or two are swapped at its middle.
        """
        if len(word) < CORRECTED:
            return []
        half = len(word) // 2
        start, end = word[:half], word[half:][::-1]
        swapped = word[: half - 1] + word[half] + word[half - 1] + word[half + 1 :]
        found: dict[str, int] = {}
        for first in (start, swapped):
            for term, tracks in self._rows(
                "SELECT word, tracks FROM terms WHERE word >= ? AND word < ?", first, _after(first)
            ):
                if not term.startswith(word) and differ_in_one(word, term, whole=False):
                    found[term] = tracks
        for size in range(len(word) - 1, len(word) + 2):
            query = "SELECT drow, tracks FROM endings WHERE size = ? AND drow >= ? AND drow < ?"
            for drow, tracks in self._rows(query, size, end, _after(end)):
                if (term := drow[::-1]) != word and differ_in_one(word, term, whole=True):
                    found[term] = tracks
        return sorted(found, key=lambda term: (-found[term], term))[:_ALTERNATIVES]

    def _matching(self, parts: list[str], limit: int) -> list[int]:
        if not parts:
            return []
        places = "SELECT rowid AS place FROM words WHERE words MATCH ? ORDER BY rowid LIMIT ?"
        found = self._rows(
            f"SELECT row FROM ({places}) JOIN places USING (place) ORDER BY place", " AND ".join(parts), limit
        )
        return [row for (row,) in found]

    def _rows(self, query: str, *values: str | int) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()


def differ_in_one(word: str, term: str, whole: bool) -> bool:
    """Whether `term`, or unless `whole` a beginning of it, is `word` but for one letter or two swapped neighbours.

    The letter may be another one, missing, or one too many.
    """
    same = 0
    while same < len(word) and same < len(term) and word[same] == term[same]:
        same += 1
    word, term = word[same:], term[same:]
    rests = [(word[1:], term[1:]), (word[1:], term), (word, term[1:])]
    if len(word) > 1 and len(term) > 1 and (word[0], word[1]) == (term[1], term[0]):
        rests.append((word[2:], term[2:]))
    return any(rest == of if whole else of.startswith(rest) for rest, of in rests)


def _after(start: str) -> str:
    """What comes after all texts that begin so."""
    return start + "\U0010ffff"
