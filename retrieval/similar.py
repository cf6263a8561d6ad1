"""`similar --export OUT --track t_1`: a track's neighbours in the table."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from retrieval.limits import check_k

if TYPE_CHECKING:
    import numpy as np

    from retrieval.opened import OpenExport

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
    from retrieval.opened import OpenExport
    from retrieval.ranked import print_ranked
    from retrieval.recommend import check_rows
    from retrieval.session_text import known_row

    opened = OpenExport.open(config.export)
    check_rows(config.k, opened)
    rows_K, likeness_K = neighbours(opened, known_row(opened.tracks, config.track, "--track"), config.k, config.by)
    print_ranked(opened.tracks, rows_K, likeness_K)


def neighbours(opened: "OpenExport", row: int, k: int, by: Likeness) -> tuple["np.ndarray", "np.ndarray"]:
    """Rows int64 [K] most like `row`, itself left out, and how alike they are, float32 [K]; -1 where no more are."""
    import numpy as np
    import torch

    from retrieval.search import ExactSearch

    query_1D = torch.from_numpy(opened.vectors.take(np.array([row])))
    if by == "cosine":
        query_1D = torch.nn.functional.normalize(query_1D, dim=1)
    search = ExactSearch(opened.vectors, unit=by == "cosine")
    rows_1K, likeness_1K = search.search(query_1D, k, torch.tensor([[row]]))
    return rows_1K[0].numpy(), likeness_1K[0].numpy()
