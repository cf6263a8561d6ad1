"""What `push` asks of a system that searches vectors: one class fulfils it for each."""

from collections.abc import Iterator
from typing import Literal, Protocol, Self

from pydantic import TypeAdapter, ValidationError

from skipwise.common.schema import StrictModel
from skipwise.retrieval.push.exported_rows import ExportedRows


class PushedState(StrictModel):
    """What a destination says of its rows: as JSON, in a collection's metadata or a table's comment."""

    skipwise: Literal[1] = 1
    """The layout of the rows."""
    version: str = ""
    """Of the export that was pushed; empty before the first push has ended."""
    vocabulary_hash: str = ""
    """Of that export."""
    recipe: str = ""
    dim: int = 0
    keep_dim: int = 0
    """How many of the last numbers of a row are the keep head's."""
    dial: float = 0.0
    """What the setting `auto` of the dial stands for."""
    pushing: str = ""
    """The version of a push that is under way or was interrupted; empty otherwise."""


class Destination(Protocol):
    """Rows by track id. Left by an exception, it keeps what a later push needs to go on, or nothing of this one."""

    errors: tuple[type[Exception], ...]
    """What its client raises."""

    def __enter__(self) -> Self:
        """Makes what is not there; raises `UserError` where something else stands under the name or the alias."""
        ...

    def __exit__(self, *failure: object) -> None:
        """Closes the connection."""
        ...

    def state(self) -> PushedState:
        """What `mark` has written last."""
        ...

    def mark(self, state: PushedState) -> None:
        """Writes the state."""
        ...

    def digests(self) -> Iterator[tuple[str, str]]:
        """Track id and digest of every row."""
        ...

    def upsert(self, rows: ExportedRows) -> None:
        """Puts rows in, in place of those of the same tracks."""
        ...

    def delete(self, tracks: list[str]) -> None:
        """Takes the rows of these tracks out."""
        ...

    def count(self) -> int:
        """The number of rows."""
        ...

    def turn(self, alias: str) -> None:
        """Makes `alias` another name of the rows."""
        ...


_STATE = TypeAdapter(PushedState)


def read_state(content: object) -> PushedState | None:
    """The state of what a destination has stored, JSON or its objects; None for anything else."""
    try:
        if isinstance(content, str):
            return _STATE.validate_json(content)
        return _STATE.validate_python(content)
    except ValidationError:
        return None
