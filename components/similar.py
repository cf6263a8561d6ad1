"""`similar --export OUT --track t_1`: a track's neighbours in the table."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from skipwise.retrieval.recommend.limits import check_k

Likeness = Literal["cosine", "inner-product"]


@dataclass(frozen=True)
class SimilarConfig:
    """Whose neighbours to list."""

    export: Path
    """Directory that export wrote."""
    track: str
    """The track's id."""
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 10
    """Neighbours to list."""
    by: Likeness = "cosine"
    """What makes two tracks alike: the cosine of their embeddings, or the inner product, which prefers long ones."""

    def __post_init__(self) -> None:
        if not self.track:
            raise ValueError("--track is empty: give a track's id")
        check_k(self.k)


def similar(config: SimilarConfig) -> None:
    """Prints the nearest tracks and how alike they are."""
    import numpy as np

    from skipwise.components.recommend import check_rows
    from skipwise.retrieval.open_export import OpenExport
    from skipwise.retrieval.recommend.ranked import print_ranked
    from skipwise.retrieval.recommend.session_text import known_row
    from skipwise.retrieval.recommend.similar_tracks import nearest

    opened = OpenExport.open(config.export)
    check_rows(config.k, opened)
    row = known_row(opened.tracks, config.track, "--track")
    rows_1K, likeness_1K = nearest(opened.vectors, np.array([row]), config.k, config.by)
    print_ranked(opened.tracks, rows_1K[0], likeness_1K[0])
