"""One file of a log, as its first rows show it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from skipwise.datapipes.nested import Leaf
from skipwise.datapipes.prepare.log_files import UTF_8
from skipwise.datapipes.prepare.text_layout import Layout

Format = Literal["text", "sequences", "json", "parquet"]


@dataclass(frozen=True)
class Source:
    """One file of a log."""

    path: Path
    format: Format
    """`text`: a play a line; `sequences`: a session a line, its id and then its tracks."""
    names: tuple[str, ...]
    """Its columns, in order; those inside others by dotted names."""
    roles: dict[str, str]
    """From what a column means (`session`, `track`, `order`, `skip_1`, `premium`, ...) to its name in the file, or in
    `fixed` or `joined`."""
    layout: Layout = Layout("", False, UTF_8, 0)
    """How its text is written; unused for Parquet."""
    leaves: dict[str, Leaf] = field(default_factory=dict)
    """Of JSON and Parquet: where a column is."""
    fixed: dict[str, str | None] = field(default_factory=dict)
    """Columns of one value for the whole file: Hive partitions, and the listener of --user."""
    joined: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Columns that are made of several."""
    missed: frozenset[str] = frozenset()
    """Columns that were looked for and need not be there."""
    shape: Any = None
    """Of JSON: the structure of its records, see `json_rows.json_shape`."""

    def parts(self, name: str) -> tuple[str, ...]:
        """The columns that this one is made of."""
        return self.joined.get(name, (name,))

    @property
    def read_names(self) -> list[str]:
        """The columns of the file that are read: at least one."""
        parts = [part for name in self.roles.values() for part in self.parts(name)]
        return [name for name in dict.fromkeys(parts) if name not in self.fixed] or [self.names[0]]


def brief_list(names: Sequence[str]) -> str:
    """Returns names as a sentence shows them: some 300 characters."""
    text = ", ".join(names)
    return text if len(text) <= 300 else f"{text[:300].rpartition(', ')[0] or text[:300]}, ..."
