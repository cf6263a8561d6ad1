"""Build an export's approximate indexes, measure them on the model's own queries, and keep the fastest.

Example:
  skipwise index --export exports/best --recall 0.95
"""

from skipwise.retrieval.search.config import IndexConfig


def index(config: IndexConfig) -> None:
    """Prints what was measured; an export whose index could not be made stays as it was."""
    from skipwise.retrieval.search.choose import make_index

    make_index(config)
