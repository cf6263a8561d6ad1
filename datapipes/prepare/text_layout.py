"""How a text file is written: its encoding, what separates and quotes its fields, its header line."""

import codecs
import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from skipwise.common.errors import UserError, brief
from skipwise.datapipes.prepare.log_files import ESCAPE, TWICE, UTF_8, damaged, encoding_of, head_of

HEAD = 1 << 20
"""Bytes of a file that are looked at first."""
LINES = 50
"""Lines of it that a delimiter must suit."""
USUAL = {".csv": ",", ".tsv": "\t"}
DELIMITERS = ("\t", "::", ";", "|", ",", " ")
BEHIND_BACKSLASH = re.compile(r'(?m)(?:^|[,;\t|])"(?:[^"\\\n]|\\.|"")*?\\"[^",;\t|\r\n]')
"""A field with a quote in it that only a backslash keeps from ending it."""
TYPED = re.compile(r"(.+):(token|float)")
"""A column of RecBole's files: its name and type."""


@dataclass(frozen=True)
class Layout:
    """How the rows of a text file are written."""

    delimiter: str
    """Between the fields of a line, of one or more characters."""
    quoted: bool
    """Whether fields may stand in quotes; where not, a quote is an ordinary character."""
    encoding: str
    first: int
    """Lines before the first row: those with the names, and Excel's `sep=;`."""
    escaped: bool = False
    """Whether a quote inside quotes stands behind a backslash, in place of being written twice."""

    @property
    def quoting(self) -> Literal[0, 3]:
        """The csv module's."""
        return csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE

    def rows(self, lines: list[str]) -> list[list[str]]:
        """Returns the fields of lines that are not blank, as far as they can be read."""
        if len(self.delimiter) > 1:
            return [line.split(self.delimiter) for line in lines if line]
        found: list[list[str]] = []
        lines = [re.sub(ESCAPE, TWICE, line) for line in lines] if self.escaped else lines
        try:
            found.extend(filter(None, csv.reader(lines, delimiter=self.delimiter, quoting=self.quoting, strict=True)))
        except csv.Error:
            pass
        return found


def first_lines(path: Path) -> tuple[list[str], str, bool]:
    """Returns the first whole lines of a text file, with their line breaks, the encoding that its first bytes say, and
    whether these have a quote behind a backslash.

    Raises `UserError` where it is empty, damaged or of another encoding.
    """
    head = head_of(path, HEAD)
    encoding = encoding_of(head)
    decoder = codecs.getincrementaldecoder("utf-8-sig" if encoding == UTF_8 else encoding)
    text = decoder(errors="backslashreplace").decode(head)
    lines = re.findall(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+\Z", text)
    lines = (lines if len(head) < HEAD else lines[:-1] or lines)[:LINES]
    if not lines or not lines[0].strip("\r\n"):
        raise UserError(f"{path} is empty, or its first line is: expected a header line and rows of plays")
    if encoding == UTF_8:
        try:
            head[: max(head.find(b"\n"), 0) or len(head)].decode()
        except UnicodeDecodeError as error:
            if error.reason != "unexpected end of data" or len(head) < HEAD:
                raise UserError(f"{path}, line 1 is not UTF-8: save the file as UTF-8") from None
    return lines, encoding, '\\"' in text and BEHIND_BACKSLASH.search(text) is not None


def text_layout(
    path: Path, suffix: str, delimiter: str | None, columns: int
) -> tuple[Layout, list[str], list[list[str]]]:
    """Finds how a text file is written; returns that, the fields of its first line, and its first rows with these.

    `delimiter`: the one that is given; `columns`: how many fields a row should have, 0 where nothing is known.
    """
    lines, encoding, escaped = first_lines(path)
    said = re.fullmatch(r'"?sep=(.)"?\s*', lines[0], re.IGNORECASE)
    if said:
        delimiter, lines = delimiter or said[1], lines[1:]
        if not lines:
            raise UserError(f"{path} has one line: expected a header line and rows of plays")
    plain = suffix != ".csv" and encoding == UTF_8
    order = [delimiter] if delimiter else dict.fromkeys([USUAL.get(suffix, "\t"), *DELIMITERS[: None if plain else -1]])
    quoted = {one: not plain or one in ",;" for one in order}
    layouts = [Layout(one, of, encoding, int(said is not None), escaped and of) for one, of in quoted.items()]
    layout = max(layouts, key=lambda one: fitness(one.rows(lines), columns))
    rows = layout.rows(lines)
    if not rows:
        try:
            [*csv.reader(lines[:1], delimiter=layout.delimiter, quoting=layout.quoting, strict=True)]
        except csv.Error as error:
            raise UserError(
                f"{path}, line 1 cannot be read ({brief(error).split(' - ')[0]}): expected fields of less than "
                f"128 KiB, quotes that are closed, and a line feed at its end"
            ) from None
        raise damaged(path)
    return layout, rows[0], rows


def fitness(rows: list[list[str]], columns: int) -> tuple[bool, bool, bool]:
    """Returns how well a delimiter suits: as many fields as there are columns, in all rows as in the first, several."""
    several = bool(rows) and len(rows[0]) > 1
    return (several and len(rows[0]) == columns, several and len({*map(len, rows)}) == 1, several)
