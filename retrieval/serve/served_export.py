"""An export in service: opened, verified, and known to answer."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from skipwise.common.errors import UserError, brief
from skipwise.retrieval.open_export import OpenExport
from skipwise.retrieval.recommend.recommender import Recommender, SessionHistory
from skipwise.retrieval.search.exact import Search
from skipwise.retrieval.search.opened_search import Which, open_search


@dataclass(frozen=True, eq=False)
class Loaded:
    """What answers a request, whole: a request takes one of these and nothing of another."""

    opened: OpenExport
    search: Search
    recommender: Recommender
    name: str
    """Of the export's directory or link, without the way to it."""
    generation: int
    """1 for the first export in its place, one more for each newer one."""
    since: datetime = field(default_factory=lambda: datetime.now(UTC))

    @classmethod
    def open(cls, path: Path, which: Which, generation: int) -> "Loaded":
        """Opens the export at `path` and asks it once. Raises `UserError` where anything is wrong with it.

        A link is followed once, so that all files are of one export even if the link changes meanwhile.
        """
        try:
            opened = OpenExport.open(path.resolve(strict=False))
            search = open_search(opened, which)
            loaded = cls(opened, search, Recommender(opened, search), path.name, generation)
            rows_BK, scores_BK = loaded.recommender.recommend(SessionHistory.of([[(0, False)]]), 10)
        except UserError:
            raise
        except Exception as error:  # of whatever its files made torch or FAISS do
            raise UserError(
                f"{path} cannot be served ({type(error).__name__}: {brief(error)}): export again"
            ) from error
        if not np.isfinite(scores_BK[rows_BK >= 0]).all():
            raise UserError(f"{path} cannot be served, as it gives scores that are not finite: train and export again")
        return loaded

    def about(self) -> dict[str, Any]:
        """What the page tells of it."""
        manifest = self.opened.manifest
        loss = manifest.config.get("loss", {})
        skips = loss.get("alpha", 0) > 0 and loss.get("context", "none") != "none"
        return self.identity() | {
            "path": self.name,
            "rows": manifest.rows,
            "dim": manifest.dim,
            "dtype": manifest.dtype,
            "loss": loss,
            "trained_on_skips": skips,
            "index": _index(manifest.index),
            "search": type(self.search).__name__,
        }

    def identity(self) -> dict[str, Any]:
        """Which export gave an answer."""
        manifest = self.opened.manifest
        return {"recipe": manifest.recipe, "vocabulary_hash": manifest.vocabulary_hash, "loaded": self.generation}


def _index(record: dict[str, Any]) -> dict[str, Any] | None:
    """Its kind and settings, and the recall that was measured at them."""
    if not record:
        return None
    chosen = {name: record.get(name) for name in ("kind", "search")}
    measured = [one for one in record.get("measured", []) if chosen.items() <= one.items()]
    return chosen | {"recall_at_10": measured[0].get("recall_at_10") if measured else None}
