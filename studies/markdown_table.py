"""Tables in Markdown."""

from collections.abc import Iterable


def markdown_table(heads: list[str], rows: Iterable[list[str]]) -> list[str]:
    """The lines of a table, with an empty one after it."""
    head, *lines = (f"| {' | '.join(cells)} |" for cells in (heads, *rows))
    return [head, "|" + "---|" * len(heads), *lines, ""]
