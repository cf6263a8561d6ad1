"""Build an export's approximate indexes, measure them on the model's own queries, and keep the fastest.

Example:
  skipwise index --export exports/best --recall 0.95
"""

from contextlib import nullcontext
from dataclasses import replace

from skipwise.retrieval.search.config import IndexConfig


def index(config: IndexConfig) -> None:
    """Prints what was measured; an export whose index could not be made stays as it was."""
    from skipwise.common.claims import claimed
    from skipwise.common.mirrors import local, upload
    from skipwise.common.stores import Place
    from skipwise.retrieval.search.choose import make_index

    place = Place.of(config.export)
    with claimed(place, "use a copy of it") if place else nullcontext():
        export = local(config.export)
        make_index(replace(config, export=export))
        upload(export, prune=True)
