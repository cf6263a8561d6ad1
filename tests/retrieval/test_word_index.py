"""The search by words against a plain reading of all texts; and files that are no index."""

import sqlite3
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipwise.retrieval.word_index import WordIndex, differ_in_one, words_of, write_words

TITLES = [
    "The Quiet Rain Amaro",
    "Quiet Raining Amaro",
    "Beyoncé: Don’t Stop",
    "夜に駆ける YOASOBI",
    "Rain",
    "Yesterday The Bells",
    "Straße des Ëlan",
    "<b>Rain</b> & Thunder",
    "مرحبا بالعالم",
    "",
    "Fire🔥 👍🏽♥️",
]


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("words") / "words.sqlite"
    write_words(file, ((100 + row, title) for row, title in enumerate(TITLES)))
    return file


@pytest.fixture(scope="module")
def index(file) -> WordIndex:
    return WordIndex(file.read_bytes())


@pytest.mark.parametrize(
    "text, rows",
    [
        ("rain", [0, 4, 7, 1]),  # whole words first, then beginnings
        ("Quiet RAI", [0, 1]),
        ("rai qui", [0, 1]),
        ("ama rai", [0, 1]),
        ("beyonce dont", [2]),
        ("beyoncé's", [2]),  # one letter too many
        ("don't", [2]),
        ("夜に", [3]),
        ("strasse elan", [6]),
        ("مرحبا", [8]),
        ("yesterdy", [5]),
        ("yseterday", [5]),
        ("yestreday", [5]),
        ("yesteerday", [5]),
        ("yestexd", [5]),
        ("thundxr rain", [7]),
        ("🔥", [10]),
        ("♥👍 fire", [10]),
        ("🔥 rain", [0, 4, 7, 1]),  # no track has both
        ("😀", []),
        ("ran", []),  # three letters are not corrected
        ("quiet thunder", []),
        ('" OR 1 NEAR(', []),
        ("\x00 ''; --", []),
        ("", []),
        ("x" * 10_000, []),
    ],
)
def test_by_hand(text: str, rows: list[int], index: WordIndex):
    assert index.find(text, 10) == [100 + row for row in rows]


def test_no_more_than_asked(index: WordIndex):
    assert index.find("rain", 2) == [100, 104] and index.find("rain", 4) == [100, 104, 107, 101]


WORD = st.text("abc", min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(
    titles=st.lists(st.lists(WORD, max_size=4).map(" ".join), max_size=12),
    wanted=st.lists(WORD, min_size=1, max_size=3),
    limit=st.integers(1, 6),
)
def test_it_finds_what_a_plain_reading_finds(titles, wanted, limit, tmp_path_factory):
    file = tmp_path_factory.mktemp("plain") / "words.sqlite"
    write_words(file, enumerate(titles))
    *others, last = wanted

    def rows(fits) -> list[int]:
        return [row for row, title in enumerate(titles) if fits(title.split())]

    whole = rows(lambda title: set(wanted) <= set(title))
    begun = rows(lambda title: set(others) <= set(title) and any(word.startswith(last) for word in title))
    all_begun = rows(lambda title: all(any(word.startswith(one) for word in title) for one in wanted))
    expected = list(dict.fromkeys([*whole, *begun])) or all_begun
    found = WordIndex(file.read_bytes()).find(" ".join(wanted), limit)
    if expected:
        assert found == expected[:limit]
    else:
        near = rows(lambda title: all(any(nearly(one, word) for word in title) for one in wanted))
        assert found == near[:limit]


def nearly(wanted: str, word: str) -> bool:
    """Whether `word` is `wanted` but for one letter, or begins so while its first half is right."""
    if word.startswith(wanted) or len(wanted) < 4:
        return word.startswith(wanted)
    half = len(wanted) // 2
    swapped = wanted[: half - 1] + wanted[half] + wanted[half - 1] + wanted[half + 1 :]
    last_row, right = edits(wanted, word), word.startswith(wanted[:half])
    return last_row[-1] <= 1 or (min(last_row) <= 1 and right) or word.startswith(swapped)


def edits(word: str, term: str) -> list[int]:
    """The fewest edits from `word` to each beginning of `term` (Damerau's, of adjacent letters)."""
    rows = [list(range(len(term) + 1))]
    for i, one in enumerate(word, 1):
        row = [i]
        for j, other in enumerate(term, 1):
            best = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (one != other))
            if i > 1 and j > 1 and one == term[j - 2] and word[i - 2] == other:
                best = min(best, rows[-2][j - 2] + 1)
            row.append(best)
        rows.append(row)
    return rows[-1]


LETTERS = st.text("ab", max_size=6)


@settings(max_examples=300, deadline=None)
@given(word=LETTERS, term=LETTERS)
def test_one_letter(word: str, term: str):
    assert differ_in_one(word, term, whole=False) == (min(edits(word, term)) <= 1)
    assert differ_in_one(word, term, whole=True) == (edits(word, term)[-1] <= 1)


@settings(max_examples=100, deadline=None)
@given(text=st.text())
def test_words_are_their_own_words(text: str):
    words = words_of(text)
    assert words_of(" ".join(words)) == words and not any(set(word) & {*string.punctuation, " "} for word in words)


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "view", "trigger", "other"])
def test_what_is_no_index_is_refused(damage: str, file: Path, tmp_path: Path):
    copy = tmp_path / "words.sqlite"
    content = file.read_bytes()
    copy.write_bytes(
        {"empty": b"", "text": b"no database" * 999, "cut": content[: len(content) // 2]}.get(damage, content)
    )
    statement = {
        "view": "CREATE VIEW more AS SELECT 1",
        "trigger": "CREATE TRIGGER more AFTER INSERT ON places BEGIN SELECT 1; END",
        "other": "DROP TABLE endings",
    }.get(damage)
    if statement:
        with sqlite3.connect(copy) as connection:
            connection.execute(statement)
    with pytest.raises(ValueError):
        WordIndex(copy.read_bytes()).find("rain", 5)
